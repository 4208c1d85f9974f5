"""Feed-forward blocks become KAN layers: which, at how many parameters, with which function."""

import copy
import itertools

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch import nn

from helpers import randn, refused, seeded
from kan_diffusion.kan import KANLinear, LearnedFunctions
from kan_diffusion.kanified import ActivatedLinear, LearnedActivation, find_blocks, kanify
from picture_networks import BLOCKS, NETWORKS, change, make, output

ACTIVATIONS = ("gelu", "gelu-approximate", "geglu", "geglu-approximate", "swiglu", "linear-silu")


def feed_forward(activation, dropout=0.0, scale=1.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FeedForward(16, activation_fn=activation, dropout=dropout).eval()
    with torch.no_grad():
        network.net[0].proj.weight.mul_(scale)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_of_the_whole_network_stay_when_the_function_is_kept(name):
    network, call = make(name)
    before = output(network, call)
    _, report = kanify(network, keep_function=True)
    assert len(report.replaced) == BLOCKS[name]
    assert not report.refused
    assert change(before, output(network, call)) < 1e-3


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_kept_functions_hold_far_outside_the_usual_and_their_error_is_the_largest(activation):
    network = feed_forward(activation, scale=20.0)
    known = find_blocks(network)[""].activation
    x = randn(64, 16, dtype=torch.float32)
    assert network.net[0].proj(x).abs().max() > 20
    before = output(network, (x,))
    _, report = kanify(network, keep_function=True)
    error = report.replaced[0].fit_error
    assert 0 < error <= 1e-4
    assert change(before, output(network, (x,))) < 1e-3
    low, high = report.replaced[0].recipe.grid_range
    x = torch.linspace(low, high, 30_001, dtype=torch.float64)
    curve = copy.deepcopy(network.net[0].functions).double()
    found = curve(x.unsqueeze(1).expand(-1, curve.in_features)).detach()
    distance = (found - known(x).unsqueeze(1)).abs().max()
    assert float(distance) <= error * (1 + 1e-3)


@pytest.mark.parametrize("kind", ["grouped", "full"])
@pytest.mark.parametrize("name", ["dit", "unet", "encoder"])
def test_parameters_are_within_two_percent_and_counted_right(name, kind):
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
        packed = layer.weight if kind == "full" else layer.coefficients
        assert packed.grad is not None
        assert packed.grad.abs().sum() > 0


def test_a_full_block_of_any_width_is_within_two_percent():
    for width, mult, basis in itertools.product((16, 128), (1, 2, 4), ("bspline", "rbf")):
        network = FeedForward(width, mult=mult, activation_fn="geglu").to("meta")
        before = sum(p.numel() for p in network.parameters())
        kanify(network, kind="full", basis=basis)
        after = sum(p.numel() for p in network.parameters())
        assert abs(after - before) <= 0.02 * before


def test_a_width_that_cannot_match_is_refused_with_the_nearest():
    network = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 4))
    state = copy.deepcopy(network.state_dict())
    with refused(r"no hidden width comes within 2% of its 76 parameters: \d+ has \d+"):
        kanify(network, kind="full", grid_size=20)
    assert network.state_dict().keys() == state.keys()
    assert kanify(network, kind="full", grid_size=20, match=None)[1].recipes[0].hidden == 8


def test_grouped_is_the_layer_of_shared_functions():
    network, call = make("sequential")
    kanify(network, layers="4", match=None, functions=4, generator=seeded())
    before, functions, last = network[:4], network[4], network[5]
    assert isinstance(functions, LearnedActivation)
    assert functions.groups == 4
    layer = KANLinear(64, 3, functions=1, groups=4, grid_size=8, dtype=torch.float32)
    layer.load_state_dict({**functions.state_dict(), **last.state_dict()})
    x = before(*call)
    torch.testing.assert_close(layer(x), last(functions(x)))


def test_gates_go_through_the_learned_functions_and_values_do_not():
    for activation in ("geglu", "swiglu"):
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


def test_a_fresh_full_block_spreads_its_outputs_as_the_one_before():
    for activation, scale in itertools.product(("gelu", "geglu"), (1.0, 5.0)):
        network = feed_forward(activation, scale=scale)
        x = randn(2000, 16, dtype=torch.float32)
        before = output(network, (x,)).var(0).mean()
        kanify(network, kind="full", generator=seeded())
        after = output(network, (x,)).var(0).mean()
        assert 0.7 < after / before < 1.4  # 256 rows tell it


def test_dropout_and_training_mode_are_kept():
    network = feed_forward("gelu", dropout=0.5)
    network.train()
    kanify(network, kind="full")
    assert network.net[1].p == 0.5
    assert all(part.training for part in network.modules())
    x = randn(4, 16, dtype=torch.float32)
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize("kind", ["grouped", "full"])
def test_the_fast_path_of_encoder_layers_is_not_taken(kind):
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


def test_layers_are_selected_by_pattern_or_predicate():
    paths = ["transformer_blocks.0.ff", "transformer_blocks.1.ff"]
    for layers, expected in (
        ("transformer_blocks.1.*", paths[1:]),
        (["*.0.ff", "*.1.ff"], paths),
        (lambda path, owner: path.endswith("0.ff"), paths[:1]),
    ):
        network, _ = make("dit")
        weights = [block.ff.net[0].proj.weight for block in network.transformer_blocks]
        _, report = kanify(network, layers=layers, match=None)
        assert [one.recipe.path for one in report.replaced] == expected
        # Linear maps stay where the width does.
        found = [block.ff.net[0].proj.weight for block in network.transformer_blocks]
        assert all(one is other for one, other in zip(found, weights, strict=True))
        table = str(report)
        assert all(path in table for path in expected)
        assert "GELU 16-64-16" in table
        assert f"{report.replaced[0].parameters_after:,}" in table


def test_embeddings_are_replaced_where_they_are_named_alone():
    network, _ = make("pixart")
    assert not any(b.embedding for b in map(find_blocks(network).get, ["transformer_blocks.0.ff"]))
    _, report = kanify(copy.deepcopy(network), layers="caption_projection")
    assert report.replaced[0].before == "GELU 12-16-16"


def test_layers_that_match_no_block_are_refused_and_what_there_is_is_said():
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
    network, _ = make("dit")
    with refused(r"layers='transformer_block\.1\.\*' is no block of DiT.*; there are 'tr.*1\.ff'"):
        kanify(network, layers=["transformer_blocks.0.*", "transformer_block.1.*"])
    assert not any(isinstance(part, LearnedFunctions) for part in network.modules())


class Rounded(nn.Module):
    """SiLU with other last digits where torch would not evaluate whole vectors of numbers."""

    def forward(self, x):
        return nn.functional.silu(x) * (1 if len(x) % 8 == 0 else 1 + 1e-6)


class Summed(nn.Module):
    """Sums of a number and all before it."""

    def forward(self, x):
        return x.cumsum(-1)


def test_an_activation_is_one_function_of_each_number_however_it_is_rounded():
    for middle in (nn.Mish(), nn.Softplus(), Rounded()):
        assert list(find_blocks(nn.Sequential(nn.Linear(8, 16), middle, nn.Linear(16, 4)))) == ["1"]
    for middle in (nn.Softmax(-1), Summed()):
        assert not find_blocks(nn.Sequential(nn.Linear(8, 16), middle, nn.Linear(16, 4)))


def test_parts_that_occur_several_times_make_several_blocks():
    activation, middle = nn.SiLU(), nn.Linear(64, 64)
    network = nn.Sequential(
        *(nn.Linear(8, 64), activation, middle, activation, middle, activation, nn.Linear(64, 3))
    )
    _, report = kanify(network, match=None)
    assert [one.recipe.path for one in report.replaced] == ["1", "3", "5"]
    assert not report.refused
    assert network[2] is network[4] is middle
    assert len({id(network[place]) for place in (1, 3, 5)}) == 3


def test_what_is_no_plain_linear_map_is_refused_by_name():
    normed, kanified = make("sequential")[0], make("sequential")[0]
    normed[3] = torch.nn.utils.parametrizations.weight_norm(normed[3])
    kanify(kanified, layers="1")
    for network, reason in (
        (normed, r"'3' is a .*ParametrizedLinear and no plain nn.Linear"),
        (kanified, "it is made of KAN layers already"),
    ):
        with refused(f"no feed-forward block of Sequential can be replaced: '1': {reason}"):
            kanify(network, layers="1")
    for kind in ("grouped", "full"):
        network = feed_forward("geglu")
        kanify(network, kind=kind)
        with refused("the module.: it is made of KAN layers already"):
            kanify(network)


def test_gates_with_a_map_of_their_own_and_unknown_activations_are_refused():
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


def test_a_kink_cannot_be_kept_by_splines():
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2), nn.Linear(2, 9))
    with refused(r"'1': ReLU is kept to .* and 1e-04 is needed; give another network, or keep"):
        kanify(network, keep_function=True)
    _, report = kanify(network)
    assert isinstance(network[1], LearnedActivation)
    assert report.replaced[0].before == "ReLU 4-16-2"


def test_settings_are_checked_before_anything_is_changed():
    network, _ = make("sequential")
    keys = set(network.state_dict())
    for settings, reason in (
        ({"kind": "partial"}, "unknown kind 'partial'"),
        ({"basis": "wavelet"}, "unknown basis 'wavelet'"),
        ({"functions": 0}, "kanify: functions = 0"),
        ({"kind": "full", "keep_function": True}, "function cannot be kept"),
        ({"match": "flops"}, "match must be 'params' or None"),
    ):
        with refused(reason):
            kanify(network, **settings)
    assert set(network.state_dict()) == keys


def test_a_generator_decides_all_that_is_drawn():
    made = []
    for _ in range(2):
        network, _ = make("dit")
        torch.randn(3)
        state = torch.get_rng_state()
        kanify(network, kind="full", generator=seeded(1))
        assert torch.equal(torch.get_rng_state(), state)
        made.append(network.state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
