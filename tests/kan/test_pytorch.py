"""KAN layers under what people do with modules; tests/all compiles and exports all of them."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from basis_suite import (
    LAYERS,
    LEARNED,
    OTHER,
    USUAL,
    Layers,
    Networks,
    assert_near,
    network_of,
    over_networks,
    points,
    results,
)
from kan_diffusion.kan import GroupedKANLinear, KANLinear
from kan_diffusion.kan.convert import from_efficient_kan
from kan_diffusion.kan.initialization import INITIALIZATIONS


@over_networks([*USUAL, *LEARNED])
class TestNetworks(Networks):
    pass


@over_networks([name for name in LAYERS if name not in OTHER])
class TestLayers(Layers):
    pass


@pytest.mark.parametrize("name", ["bspline", "gated"])
def test_a_symbolic_graph_of_a_network_is_its_layers_and_trains_them(name):
    network = network_of(name)
    graph = torch.fx.symbolic_trace(network)
    called = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert called == [*["first"] * (name == "gated"), "layers.0", "layers.1"]
    assert_near(results(graph, network, points()), results(network, network, points()), 0)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_traced_network_does_what_it_did():
    network = network_of()
    torch.compiler.reset()
    traced = torch.compile(network, fullgraph=True, backend="aot_eager")
    assert_near(results(traced, network, points()), results(network, network, points()), 1e-6)
    torch.compiler.reset()


@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated")
def test_an_exported_network_does_what_it_did():
    network = network_of().eval()
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(network, (points(),), dynamic_shapes=dynamic).module()
    assert_near([exported(points(7))], [network(points(7))])


def test_torchs_default_device_is_no_device_of_a_layer():
    x = points()
    kinds = [partial(KANLinear, basis=basis) for basis in USUAL]
    kinds += [partial(KANLinear, init=init) for init in INITIALIZATIONS]
    kinds += [partial(GroupedKANLinear, groups=[0, 1, 0])]
    for kind in kinds:
        with torch.device("meta"):  # as torch.set_default_device does
            layer = kind(3, 2, device="cpu")
            output = layer(x)
            layer.refine(10)
            layer.refine(7, x)
            layer.update_grid(x)
        assert layer(x).isfinite().all()
        assert output.isfinite().all()
    names = "base_weight", "spline_weight", "grid"
    shapes = (2, 3), (2, 3, 8), (3, 12)
    state = {name: torch.ones(shape) for name, shape in zip(names, shapes, strict=True)}
    state["grid"] = torch.arange(12.0).expand(3, -1)
    with torch.device("meta"):
        network = from_efficient_kan(state, "silu")
    assert network(x).isfinite().all()
