"""Feed-forward blocks become KAN layers: which, at how many parameters, with which function."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch import nn

from helpers import randn, refused, seeded
from kan_diffusion.kan import GroupedKANLinear, KANLinear, LearnedFunctions
from kan_diffusion.kanified import (
    ActivatedLinear,
    LearnedActivation,
    distill,
    find_blocks,
    kanify,
)
from picture_networks import BLOCKS, NETWORKS, change, make, output

ACTIVATIONS = ("gelu", "gelu-approximate", "geglu", "geglu-approximate", "swiglu", "linear-silu")


def feed_forward(activation: str, dropout: float = 0.0, scale: float = 1.0) -> FeedForward:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FeedForward(16, activation_fn=activation, dropout=dropout).eval()
    with torch.no_grad():
        network.net[0].proj.weight.mul_(scale)
    return network


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_of_the_whole_network_stay_when_the_function_is_kept(
    name: str, measured: bool
) -> None:
    network, call = make(name)
    before = output(network, call)
    _, report = kanify(network, keep_function=True, samples=call if measured else None)
    assert len(report.replaced) == BLOCKS[name]
    assert not report.refused
    moved = change(before, output(network, call))
    assert moved < 1e-3
    if measured:
        assert report.output_error == pytest.approx(moved, rel=0.05, abs=1e-6)
    else:
        assert report.output_error is None


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("measured", [False, True])
def test_kept_functions_hold_on_inputs_far_outside_the_usual(
    activation: str, measured: bool
) -> None:
    network = feed_forward(activation, scale=20.0)
    x = randn(64, 16, dtype=torch.float32)
    hidden = network.net[0].proj(x)
    assert hidden.abs().max() > 20
    before = output(network, (x,))
    _, report = kanify(network, keep_function=True, samples=x if measured else None)
    error = report.replaced[0].fit_error
    assert error is not None
    assert 0 < error <= 1e-4
    assert change(before, output(network, (x,))) < 1e-3


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_fit_error_is_the_largest_distance_from_the_activation(activation: str) -> None:
    network = feed_forward(activation)
    kept = copy.deepcopy(network)
    _, report = kanify(kept, keep_function=True)
    low, high = report.replaced[0].recipe.grid_range
    x = torch.linspace(low, high, 30_001, dtype=torch.float64)
    known = find_blocks(network)[""].activation(x)
    curve = copy.deepcopy(kept.net[0].functions).double()
    found = curve(x.unsqueeze(1).expand(-1, curve.in_features)).detach()
    distance = (found - known.unsqueeze(1)).abs().max()
    assert float(distance) <= report.replaced[0].fit_error * (1 + 1e-3)


@pytest.mark.parametrize("kind", ["grouped", "full"])
@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_within_two_percent_and_counted_right(name: str, kind: str) -> None:
    network, call = make(name)
    total = sum(p.numel() for p in network.parameters())
    _, report = kanify(network, kind=kind, generator=seeded())
    now = sum(p.numel() for p in network.parameters())
    gained = sum(one.parameters_after - one.parameters_before for one in report.replaced)
    assert now - total == gained
    for one in report.replaced:
        assert abs(one.parameters_after / one.parameters_before - 1) <= 0.02
    layers = [part for part in network.modules() if isinstance(part, KANLinear | LearnedFunctions)]
    assert len(layers) == len(report.replaced) * (2 if kind == "full" else 1)
    loss = network.train()(*call)
    loss = loss if isinstance(loss, torch.Tensor) else loss[0]
    loss.square().mean().backward()
    for layer in layers:
        assert layer.packed.grad is not None
        assert layer.packed.grad.abs().sum() > 0


@pytest.mark.parametrize("width", [16, 48, 128])
@pytest.mark.parametrize("mult", [1, 2, 4])
@pytest.mark.parametrize("basis", ["bspline", "rbf", "chebyshev"])
def test_a_full_block_of_any_width_is_within_two_percent(width: int, mult: int, basis: str) -> None:
    network = FeedForward(width, mult=mult, activation_fn="geglu").to("meta")
    before = sum(p.numel() for p in network.parameters())
    kanify(network, kind="full", basis=basis)
    after = sum(p.numel() for p in network.parameters())
    assert abs(after - before) <= 0.02 * before


def test_a_width_that_cannot_match_is_refused_with_the_nearest() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 4))
    state = copy.deepcopy(network.state_dict())
    with refused(r"no hidden width comes within 2% of its 76 parameters: \d+ has \d+"):
        kanify(network, kind="full", grid_size=20)
    assert network.state_dict().keys() == state.keys()
    assert kanify(network, kind="full", grid_size=20, match=None)[1].recipes[0].hidden == 8


def test_grouped_is_the_layer_of_shared_functions() -> None:
    network, call = make("sequential")
    kanify(network, layers="4", match=None, functions=4, generator=seeded())
    before, functions, last = network[:4], network[4], network[5]
    assert isinstance(functions, LearnedActivation)
    assert functions.groups == 4
    layer = GroupedKANLinear(64, 3, groups=4, dtype=torch.float32)
    layer.load_state_dict({**functions.state_dict(), **last.state_dict()})
    x = before(*call)
    torch.testing.assert_close(layer(x), last(functions(x)))


@pytest.mark.parametrize("activation", ["geglu", "swiglu"])
def test_gates_go_through_the_learned_functions_and_values_do_not(activation: str) -> None:
    network = feed_forward(activation)
    kanify(network)
    part = network.net[0]
    assert isinstance(part, ActivatedLinear)
    x = randn(5, 16, dtype=torch.float32)
    values, gates = part.proj(x).chunk(2, dim=-1)
    torch.testing.assert_close(part(x), values * part.functions(gates))
    with torch.no_grad():
        part.functions.coefficients.fill_(1.0)  # splines sum to one
    torch.testing.assert_close(part(x), values)


@pytest.mark.parametrize("activation", ["gelu", "geglu"])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_fresh_full_block_spreads_its_outputs_as_the_one_before(
    activation: str, scale: float
) -> None:
    network = feed_forward(activation, scale=scale)
    x = randn(2000, 16, dtype=torch.float32)
    before = output(network, (x,)).var(0).mean()
    kanify(network, kind="full", generator=seeded())
    after = output(network, (x,)).var(0).mean()
    assert 0.7 < after / before < 1.4  # 256 rows tell it


def test_linear_maps_stay_where_the_width_does() -> None:
    network, _ = make("dit")
    weight = network.transformer_blocks[0].ff.net[0].proj.weight
    kanify(network, match=None)
    assert network.transformer_blocks[0].ff.net[0].proj.weight is weight


def test_dropout_and_training_mode_are_kept() -> None:
    network = feed_forward("gelu", dropout=0.5)
    network.train()
    kanify(network, kind="full")
    assert network.net[1].p == 0.5
    assert all(part.training for part in network.modules())
    x = randn(4, 16, dtype=torch.float32)
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize("kind", ["grouped", "full"])
def test_the_fast_path_of_encoder_layers_is_not_taken(kind: str) -> None:
    network, (x,) = make("encoder")
    kanify(network, kind=kind)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    with torch.no_grad():  # torch fuses ReLU and GELU alone, without gradients alone
        fused = network(x, src_key_padding_mask=padding)
    slow = network(x, src_key_padding_mask=padding)
    torch.testing.assert_close(fused[~padding], slow[~padding])
    for layer in network.layers:
        part = layer.linear1 if kind == "full" else layer.activation
        torch.nn.init.zeros_(part.weight if kind == "full" else part.coefficients)
    with torch.no_grad():
        assert not torch.allclose(network(x), fused, atol=1e-2)


def test_samples_of_an_encoder_may_be_padded() -> None:
    network, (x,) = make("encoder")
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    nested = network.use_nested_tensor
    assert nested
    teacher = copy.deepcopy(network)
    samples = {"src": x, "src_key_padding_mask": padding}
    _, report = kanify(network, keep_function=True, samples=samples)
    assert len(report.replaced) == 2
    assert report.output_error < 1e-3
    assert all(fit.before < 1e-6 for fit in distill(teacher, network, samples, steps=1).fits)
    assert teacher.use_nested_tensor == nested


def test_a_decoder_layer_is_found() -> None:
    layer = nn.TransformerDecoderLayer(16, 2, 64, activation="gelu", batch_first=True).eval()
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    before = output(layer, (x, memory))
    kanify(layer, keep_function=True, samples=(x, memory))
    assert change(before, output(layer, (x, memory))) < 1e-3


@pytest.mark.parametrize(
    ("layers", "paths"),
    [
        ("transformer_blocks.1.*", ["transformer_blocks.1.ff"]),
        (["*.0.ff", "*.1.ff"], ["transformer_blocks.0.ff", "transformer_blocks.1.ff"]),
        (lambda path, owner: path.endswith("0.ff"), ["transformer_blocks.0.ff"]),
    ],
)
def test_layers_are_selected_by_pattern_or_predicate(layers: object, paths: list[str]) -> None:
    network, _ = make("dit")
    _, report = kanify(network, layers=layers)
    assert [one.recipe.path for one in report.replaced] == paths
    table = str(report)
    assert all(path in table for path in paths)
    assert "GELU 16-64-16" in table
    assert f"{report.replaced[0].parameters_after:,}" in table


def test_each_pattern_has_to_match_a_block() -> None:
    network, _ = make("dit")
    with refused(r"layers='transformer_block\.1\.\*' is no block of DiT.*; there are 'tr.*1\.ff'"):
        kanify(network, layers=["transformer_blocks.0.*", "transformer_block.1.*"])
    assert not any(isinstance(part, LearnedFunctions) for part in network.modules())


class Skipping(nn.Sequential):
    """Parts of which only the first is called."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[0](x)


@pytest.mark.parametrize("settings", [{}, {"keep_function": True}, {"kind": "full"}])
def test_blocks_that_the_samples_do_not_reach_stay_and_are_named(
    settings: dict[str, object],
) -> None:
    (first, (x,)), (second, _) = make("sequential"), make("sequential")
    _, report = kanify(Skipping(first, second), layers="*.1", samples=x, **settings)
    assert [one.recipe.path for one in report.replaced] == ["0.1"]
    assert isinstance(second[1], nn.SiLU)
    assert "not replaced: 1.1: the samples do not reach it; give others, or none" in str(report)


def test_embeddings_are_replaced_where_they_are_named_alone() -> None:
    network, _ = make("pixart")
    assert not any(b.embedding for b in map(find_blocks(network).get, ["transformer_blocks.0.ff"]))
    _, report = kanify(copy.deepcopy(network), layers="caption_projection")
    assert report.replaced[0].before == "GELU 12-16-16"


def test_a_network_without_blocks_says_what_it_has() -> None:
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=8,
        block_out_channels=(16,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=8,
    )
    with refused(r"no feed-forward block, it has .* Conv2d, .* 'time_embedding' .* layers"):
        kanify(network)
    assert kanify(network, layers="time_embedding")[1].recipes[0].hidden == 64
    with refused("has no feed-forward block, it has 1 Linear; choose another network"):
        kanify(nn.Linear(2, 2))
    with refused("layers='blocks.*' is no block of FeedForward; there are .the module."):
        kanify(feed_forward("gelu"), layers="blocks.*")


class Rounded(nn.Module):
    """SiLU with other last digits where torch would not evaluate whole vectors of numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.silu(x) * (1 if len(x) % 8 == 0 else 1 + 1e-6)


class Summed(nn.Module):
    """Sums of a number and all before it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(-1)


@pytest.mark.parametrize(
    ("middle", "found"),
    [
        (nn.Mish(), True),
        (nn.Softplus(), True),
        (Rounded(), True),
        (nn.Softmax(-1), False),
        (Summed(), False),
    ],
)
def test_an_activation_is_one_function_of_each_number_however_it_is_rounded(
    middle: nn.Module, found: bool
) -> None:
    network = nn.Sequential(nn.Linear(8, 16), middle, nn.Linear(16, 4))
    assert list(find_blocks(network)) == ["1"] * found


@pytest.mark.parametrize("samples", [None, randn(50, 8, dtype=torch.float32)])
def test_parts_that_occur_several_times_make_several_blocks(samples: torch.Tensor | None) -> None:
    activation, middle = nn.SiLU(), nn.Linear(64, 64)
    network = nn.Sequential(
        *(nn.Linear(8, 64), activation, middle, activation, middle, activation, nn.Linear(64, 3))
    )
    _, report = kanify(network, match=None, samples=samples)
    assert [one.recipe.path for one in report.replaced] == ["1", "3", "5"]
    assert not report.refused
    assert network[2] is network[4] is middle
    assert len({id(network[place]) for place in (1, 3, 5)}) == 3


def test_rows_of_a_block_are_paired_although_parts_occur_several_times() -> None:
    activation, one, other = nn.SiLU(), nn.Linear(8, 8), nn.Linear(8, 8)
    for parts in ([one, one], [one, other, one], [one, other, other]):
        maps = [layer for part in parts for layer in (part, activation)]
        teacher = nn.Sequential(*maps[:-1], nn.ReLU(inplace=True))
        student, x = copy.deepcopy(teacher), randn(64, 8).float()
        kanify(student, keep_function=True, samples=[x, x])
        fits = distill(teacher, student, [x, x[:9]], steps=1).fits
        assert len(fits) == len(parts) - 1
        assert all(fit.before < 1e-6 for fit in fits)


class ByName(nn.Module):
    """A feed-forward whose parts are called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(input=self.act(input=self.up(input=x)))


def test_parts_may_be_called_by_keyword() -> None:
    teacher = ByName()
    student, x = copy.deepcopy(teacher), randn(64, 8).float()
    _, report = kanify(student, keep_function=True, samples=x)
    assert report.output_error < 1e-3
    assert distill(teacher, student, x, steps=1).fits[0].before < 1e-6


@pytest.mark.parametrize("kind", ["grouped", "full"])
def test_a_feed_forward_of_diffusers_is_replaced_once(kind: str) -> None:
    network = feed_forward("geglu")
    kanify(network, kind=kind)
    with refused("the module.: it is made of KAN layers already"):
        kanify(network)


def _quantised(network: nn.Module) -> None:
    linear = network[3]
    network[3] = torch.nn.utils.parametrizations.weight_norm(linear)


def _adapted(network: nn.Module) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(target_modules=["3"], r=2), network)


@pytest.mark.parametrize(
    ("change_it", "reason"),
    [
        (_quantised, r"'3' is a .*ParametrizedLinear and no plain nn.Linear"),
        (_adapted, r"'3' is wrapped by an adapter \(peft.*\); merge or unload it"),
        (partial(kanify, layers="1"), "it is made of KAN layers already"),
    ],
)
def test_what_is_no_plain_linear_map_is_refused_by_name(change_it: object, reason: str) -> None:
    network, _ = make("sequential")
    change_it(network)
    with refused(f"no feed-forward block of Sequential can be replaced: '1': {reason}"):
        kanify(network, layers="1")


def test_gates_with_a_map_of_their_own_and_unknown_activations_are_refused() -> None:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=9, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    with refused("'encoder.block.0.layer.1.DenseReluDense': its gates have a linear map of their"):
        kanify(T5EncoderModel(config))
    network = feed_forward("gelu")
    network.net[0] = nn.PReLU()
    with refused("'PReLU' is no activation that is known here"):
        kanify(network)


def test_a_kink_cannot_be_kept_by_splines() -> None:
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2), nn.Linear(2, 9))
    with refused(r"'1': ReLU is kept to .* and 1e-04 is needed; give samples, or keep_function"):
        kanify(network, keep_function=True)
    _, report = kanify(network)
    assert isinstance(network[1], LearnedActivation)
    assert report.replaced[0].before == "ReLU 4-16-2"


def test_settings_are_checked_before_anything_is_changed() -> None:
    network, _ = make("sequential")
    keys = set(network.state_dict())
    for settings, reason in (
        ({"kind": "partial"}, "unknown kind 'partial'"),
        ({"basis": "wavelet"}, "unknown basis 'wavelet'"),
        ({"functions": 0}, "kanify: functions = 0"),
        ({"kind": "full", "keep_function": True}, "function cannot be kept"),
        ({"match": "flops"}, "match must be 'params' or None"),
        ({"samples": torch.full((2, 8), torch.inf)}, "infinite inputs or no numbers"),
        ({"samples": "moons"}, "samples must be a tensor"),
    ):
        with refused(reason):
            kanify(network, **settings)
    assert set(network.state_dict()) == keys


def test_a_generator_decides_all_that_is_drawn() -> None:
    made = []
    for _ in range(2):
        network, _ = make("dit")
        torch.randn(3)
        state = torch.get_rng_state()
        kanify(network, kind="full", generator=seeded(1))
        assert torch.equal(torch.get_rng_state(), state)
        made.append(network.state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_half_precision_rounds_as_the_activation_did() -> None:
    """In bfloat16, no further from the same network in float32 than it was."""
    network, call = make("unet")
    exact = output(network, call)
    call = tuple(x.bfloat16() if x.is_floating_point() else x for x in call)
    plain = network.bfloat16()
    before = change(exact, output(plain, call))
    _, report = kanify(plain, keep_function=True, samples=call)
    after = output(plain, call)
    assert after.dtype is torch.bfloat16
    assert change(exact, after) < 1.5 * before
    assert report.output_error is not None
    assert report.output_error < 2 * before


class Amplified(nn.Module):
    """The small parts of a block's output, enlarged: it has no function that an error leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.block = make("sequential")[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (1e6 * self.block(x)).sin()


def test_a_network_whose_outputs_would_change_is_left_as_it_was() -> None:
    network, x = Amplified().eval(), randn(100, 8, dtype=torch.float32)
    before, parts = output(network, (x,)), list(network.modules())
    with refused(r"the outputs would change by \d.* more than 0.001"):
        kanify(network, keep_function=True, samples=x)
    assert list(network.modules()) == parts
    assert torch.equal(output(network, (x,)), before)


def test_an_encoder_whose_outputs_would_change_has_its_own_activation_again() -> None:
    network, (x,) = make("encoder")
    flags = [layer.activation_relu_or_gelu for layer in network.layers]
    nested = network.use_nested_tensor
    calls = iter([x, "no tensor"])
    network.register_forward_pre_hook(lambda *_: (next(calls),))
    with pytest.raises(AttributeError):
        kanify(network, keep_function=True, samples=x)
    assert [layer.activation_relu_or_gelu for layer in network.layers] == flags
    assert network.use_nested_tensor == nested
    assert all(layer.activation is nn.functional.gelu for layer in network.layers)
