"""Feed-forward blocks become KAN layers: which, at how many parameters, with which function."""

import copy
import itertools

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.attention import FeedForward
from torch import nn
from transformers import T5Config, T5EncoderModel

from helpers import randn, refused, seeded
from kan_diffusion.kan.functions import BasisLayer
from kan_diffusion.kanified import Recipe, find_blocks, kanify, rebuild, save_kanified
from picture_networks import BLOCKS, NETWORKS, change, gradients, in_both_ways, make, output

ACTIVATIONS = ("gelu", "gelu-approximate", "geglu", "geglu-approximate", "swiglu", "linear-silu")
each_kind = pytest.mark.parametrize("kind", ["grouped", "full"])


def feed_forward(activation, scale=1.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FeedForward(16, activation_fn=activation).eval()
    with torch.no_grad():
        network.net[0].proj.weight.mul_(scale)
    return network


@pytest.mark.parametrize("name", [*NETWORKS, "decoder"])
def test_outputs_of_the_whole_network_stay_when_the_function_is_kept(name):
    if name == "decoder":
        network = nn.TransformerDecoderLayer(16, 2, 64, activation="gelu", batch_first=True).eval()
        call = randn(2, 5, 16).float(), randn(2, 3, 16).float()
    else:
        network, call = make(name)
    before = output(network, call)
    _, report = kanify(network, keep_function=True)
    assert len(report.replaced) == BLOCKS.get(name, 1)
    assert not report.refused
    assert change(before, output(network, call)) < 1e-3


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_kept_functions_hold_far_outside_the_usual_and_their_error_is_the_largest(activation):
    network = feed_forward(activation, scale=20.0)
    known, x = find_blocks(network)[""].activation, randn(64, 16, dtype=torch.float32)
    assert network.net[0].proj(x).abs().max() > 20
    before = output(network, (x,))
    report = kanify(network, keep_function=True)[1]
    (recipe,), (error,) = report.recipes, report.replaced["fit_error"]
    assert 0 < error <= 1e-4
    assert change(before, output(network, (x,))) < 1e-3
    x = torch.linspace(*recipe.grid_range, 30_001, dtype=torch.float64)
    curve = copy.deepcopy(network.net[0].functions).double()
    found = curve(x.unsqueeze(1).expand(-1, curve.in_features)).detach()
    assert float((found - known(x).unsqueeze(1)).abs().max()) <= error * (1 + 1e-3)


@each_kind
@pytest.mark.parametrize("name", ["dit", "unet", "encoder"])
def test_parameters_are_drawn_from_a_generator_counted_right_and_trained(name, kind):
    network, call = make(name)
    twin, total = copy.deepcopy(network), sum(p.numel() for p in network.parameters())
    state = torch.get_rng_state()
    _, report = kanify(network.train(), kind=kind, generator=seeded())
    kanify(twin, kind=kind, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, network.parameters(), twin.parameters()))
    assert all(part.training for part in network.modules())
    now = sum(p.numel() for p in network.parameters())
    before, after = report.replaced["parameters"], report.replaced["now"]
    assert now - total == (after - before).sum()
    assert (abs(after / before - 1) <= 0.02).all()
    found = gradients(network, call)
    layers = [path for path, part in network.named_modules() if isinstance(part, BasisLayer)]
    assert len(layers) == len(report.replaced) * (2 if kind == "full" else 1)
    for path in layers:
        assert found[f"{path}.{'weight' if kind == 'full' else 'coefficients'}"].abs().sum() > 0


def test_a_full_block_of_any_width_is_within_two_percent_and_spreads_its_outputs_as_before():
    for width, mult in itertools.product((16, 128), (1, 2, 4)):
        network = FeedForward(width, mult=mult, activation_fn="geglu").to("meta")
        before = sum(p.numel() for p in network.parameters())
        kanify(network, kind="full")
        assert sum(p.numel() for p in network.parameters()) == pytest.approx(before, rel=0.02)
        assert all(tensor.is_meta for tensor in network.state_dict().values())
    for activation, scale in itertools.product(("gelu", "geglu"), (1.0, 5.0)):
        network = feed_forward(activation, scale=scale)
        x = randn(2000, 16, dtype=torch.float32)
        before = output(network, (x,)).var(0).mean()
        kanify(network, kind="full", generator=seeded())
        after = output(network, (x,)).var(0).mean()
        assert 0.7 < after / before < 1.4  # 256 rows tell it


@each_kind
def test_the_fast_path_of_encoder_layers_is_not_taken(kind):
    network, (x,) = make("encoder")
    kanify(network, kind=kind)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    with torch.no_grad():  # torch fuses ReLU and GELU alone, without gradients alone
        fused = network(x, src_key_padding_mask=padding)
    slow = network(x, src_key_padding_mask=padding)
    torch.testing.assert_close(fused[~padding], slow[~padding])


RECIPE = Recipe(path="", kind="full", hidden=8)


def between(middle, units=8):
    return nn.Sequential(nn.Linear(4, 8), middle, nn.Linear(units, 4))


def convolutions():
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    return UNet2DModel(sample_size=8, block_out_channels=(16,), norm_num_groups=8, **blocks)


def test_layers_are_selected_by_patterns_and_linear_maps_stay_where_the_width_does():
    paths = ["transformer_blocks.0.ff", "transformer_blocks.1.ff"]
    for layers, expected in (
        ("transformer_blocks.1.*", paths[1:]),
        (["*.0.ff", "*.1.ff"], paths),
    ):
        network, _ = make("dit")
        weights = [block.ff.net[0].proj.weight for block in network.transformer_blocks]
        _, report = kanify(network, layers=layers, keep_function=True, functions=4)
        assert report.replaced.index.tolist() == expected
        assert network.get_submodule(expected[0]).net[0].functions.basis.in_features == 4
        found = [block.ff.net[0].proj.weight for block in network.transformer_blocks]
        assert all(one is other for one, other in zip(found, weights, strict=True))
        table = str(report)
        for told in (*expected, "GELU 16-64-16", f"{report.replaced['now'].iloc[0]:,}"):
            assert told in table
    # A name stands for itself, whatever signs it has.
    named = nn.Module()
    named.add_module("a[0]", nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)))
    assert kanify(named, layers="a[0].1")[1].replaced.index.tolist() == ["a[0].1"]
    # What embeds is named alone.
    report = kanify(convolutions(), layers="time_*")[1]
    assert report.replaced["before"].tolist() == ["SiLU 16-64-64"]
    # There are at most as many functions as units.
    report = kanify(convolutions(), layers="time_*", keep_function=True, functions=1000)[1]
    assert "16-64-64, 64 functions" in report.replaced["after"].item()


def test_an_activation_is_one_function_of_each_number_and_parts_may_occur_several_times():
    for middle in (nn.ReLU(), nn.Mish(), nn.Softplus()):
        block = find_blocks(between(middle))["1"]
        assert (block.label, block.refusal) == (type(middle).__name__, None)
    assert not find_blocks(between(nn.Softmax(-1)))
    activation, middle = nn.SiLU(), nn.Linear(64, 64)
    parts = nn.Linear(8, 64), activation, middle, activation, middle, activation, nn.Linear(64, 3)
    network = nn.Sequential(*parts)
    _, report = kanify(network, functions=4)
    assert report.replaced.index.tolist() == ["1", "3", "5"]
    assert not report.refused
    assert network[2] is network[4] is middle
    assert network[1] is not network[3]
    full = nn.Sequential(*(copy.deepcopy(part) for part in parts))
    _, report = kanify(full, kind="full")
    assert report.replaced.index.tolist() == ["1", "5"]
    assert "not replaced: 3: one of its maps was replaced with the block before" in str(report)


@pytest.mark.parametrize("shared", ["weight", "bias", "map"])
def test_what_a_block_shares_stays_shared_or_the_block_is_refused(shared):
    def tied():
        network = nn.ModuleDict({"block": between(nn.SiLU()), "other": nn.Linear(4, 8)})
        if shared == "map":
            network["other"] = network["block"][0]
        else:
            setattr(network["other"], shared, getattr(network["block"][0], shared))
        return network

    stay = "'block.1': other layers share its linear maps, which stay"
    for settings, message in (
        ({"kind": "full"}, f"{stay}; take kind='grouped'"),
        ({}, f"{stay}, and no grid comes within 2% of its 76 parameters: .* keep_function=True"),
    ):
        with refused(message):
            kanify(tied(), **settings)
    network, report = kanify(tied(), keep_function=True)
    assert report.replaced.index.tolist() == ["block.1"]
    block, other = network["block"][0], network["other"]
    assert block is other if shared == "map" else getattr(block, shared) is getattr(other, shared)


def with_own_gates():
    sizes = {"vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", **sizes))


def unknown():
    network = feed_forward("gelu")
    network.net[0] = nn.PReLU()
    return network


def silu():
    return between(nn.SiLU())


def normed():
    down = nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))
    return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), down)


class Applied(nn.Module):
    """Two linear maps and an activation, applied in a way of its own."""

    def __init__(self, applied):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8)
        self.applied = applied

    def forward(self, x):
        return self.applied(self, x)


@pytest.mark.parametrize(
    "applied",
    [
        lambda m, x: m.act(m.a(x)) * m.b(x),
        lambda m, x: m.a(x) + m.act(m.b(x)),
        lambda m, x: m.a(m.act(m.b(x))),
        lambda m, x: m.b(m.a(m.act(x))),
        lambda m, x: m.act(m.b(m.act(m.a(x)))),
    ],
)
def test_parts_that_are_not_applied_one_after_the_other_are_no_block(applied):
    with refused("its forward pass does not apply 'b' to 'act' of 'a'"):
        kanify(Applied(applied))
    network = nn.ModuleList([Applied(applied), Applied(lambda m, x: x + 2 * m.b(m.act(m.a(x))))])
    _, report = kanify(network, keep_function=True)
    assert report.replaced.index.tolist() == ["1"]
    assert network[1](torch.ones(3, 8)).shape == (3, 8)


@pytest.mark.parametrize(
    ("made", "settings", "reason"),
    [
        (silu, {"kind": "partial"}, "unknown kind 'partial'"),
        (silu, {"functions": 0}, "kanify: functions = 0"),
        (silu, {"grid_size": 0}, "kanify: grid_size = 0"),
        (silu, {"kind": "full", "keep_function": True}, "kind='full' cannot keep the function"),
        (silu, {"kind": "full", "grid_size": 20}, r"within 2% of its 76 parameters: \d+ has \d+"),
        (silu, {"layers": "b.*"}, r"no feed-forward block for layers='b\.\*',.* may name '1'"),
        (silu, {"layers": ["1", "2"]}, "no feed-forward block for layers='2'"),
        (silu, {"layers": []}, "no feed-forward block, it has 2 Linear; layers may name '1'"),
        (lambda: nn.Linear(2, 2), {}, "it has 1 Linear; choose another network"),
        (convolutions, {}, "block, it has .* Conv2d, .*; layers may name 'time_embedding'"),
        (with_own_gates, {}, "DenseReluDense': its gates have a linear map of their own"),
        (unknown, {}, "'PReLU' is no activation that is known here"),
        (normed, {}, r"'1': '2' is a .*ParametrizedLinear and no plain nn.Linear"),
        (
            lambda: kanify(feed_forward("geglu"), kind="full")[0],
            {},
            r"replaced: \(the module\): it is made of KAN layers already",
        ),
        (lambda: between(nn.PReLU()), {}, "'1': 'PReLU' is learned already"),
        (lambda: between(nn.GELU(), 6), {}, "'1': '0' gives 8 units, '2' takes 6"),
        (lambda: between(nn.ReLU()), {"keep_function": True}, "ReLU is kept to .* 1e-04 is needed"),
    ],
)
def test_what_cannot_be_replaced_is_said_and_the_network_stays(made, settings, reason):
    network = made()
    parts = dict(network.named_modules())
    with refused(reason):
        kanify(network, **settings)
    assert dict(network.named_modules()) == parts


def test_what_is_no_module_is_refused():
    for call in (kanify, find_blocks, lambda network: rebuild(network, [RECIPE])):
        for network in (None, "unet"):
            with refused(f"a torch.nn.Module has blocks, a {type(network).__name__} has none"):
                call(network)
    with refused("save_kanified takes a model of diffusers .* not this NoneType"):
        save_kanified(None, "anywhere")


def test_autocast_is_as_near_as_it_was_and_checkpointing_gives_the_same_gradients():
    network, call = make("dit")

    def distance():
        with torch.autocast("cpu", torch.bfloat16):
            low = output(network, call)
        return change(output(network, call), low)

    before = distance()
    in_both_ways(network)
    assert distance() < max(3 * before, 0.02)
    known = gradients(network.train(), call)
    network.enable_gradient_checkpointing()
    found = gradients(network, call)
    torch.testing.assert_close(found, known)
