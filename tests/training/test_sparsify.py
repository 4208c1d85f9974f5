import pytest
import torch

from helpers import assert_same_state, refused, seeded
from kan_diffusion.denoisers.edges import CURVE
from kan_diffusion.kan.importance import edge_penalty, edge_sizes, layer_entropy
from kan_diffusion.training.config import TrainingConfig
from kan_diffusion.training.run import EdgeWatch
from make import points
from networks import network
from short_training import small, trained

SHORT = {"steps": 60, "batch_size": 64, "warmup_steps": 5, "ema_decay": None}


def _kan(family="full-kan"):
    return small(family, (5, 4))


def _train(denoiser, **settings):
    config = TrainingConfig(**{**SHORT, **settings})
    return trained(denoiser, config, points=points(200, seed=1))


def _num_hooks(denoiser):
    return sum(len(module._forward_pre_hooks) for module in denoiser.modules())


def _edges(denoiser):
    watch = EdgeWatch(denoiser)
    denoiser(torch.randn(200, 2, generator=seeded(2)), torch.arange(200) * 5)
    outputs = [layer.edge_outputs(input).detach() for layer, input in watch._inputs.items()]
    watch.release()
    return outputs


@pytest.mark.parametrize("family", ["full-kan", "modulated-kan"])
def test_a_weight_makes_the_penalty_smaller(family):
    plain, sparse = _kan(family), _kan(family)
    _train(plain)
    _train(sparse, sparsify=0.1)
    before, after = _edges(plain), _edges(sparse)
    assert float(edge_penalty(after)) < 0.8 * float(edge_penalty(before))
    sizes = [
        float(edge_sizes(torch.cat([part.flatten(1) for part in parts], 1)[:, None]).sum())
        for parts in (before, after)
    ]
    assert sizes[1] < sizes[0]


def test_zero_is_as_if_there_were_no_such_setting_and_losses_are_recorded_without_it():
    without, zero, weighted = _kan(), _kan(), _kan()
    losses = _train(without).losses
    assert (_train(zero, sparsify=0.0).losses == losses).all()
    assert_same_state(without, zero)
    penalised = _train(weighted, sparsify=100.0).losses
    assert penalised[0] == losses[0]
    assert not (penalised == losses).all()


def test_the_penalty_is_of_what_passed_through_the_layers():
    denoiser = _kan()
    watch = EdgeWatch(denoiser)
    points, steps = torch.randn(50, 2, generator=seeded(3)), torch.arange(50)
    denoiser(points, steps)
    state = torch.cat([points, denoiser.time_features(steps, points.dtype)], -1)
    expected = 0.0
    for layer in denoiser.kan_layers:
        sizes = edge_sizes(layer.edge_outputs(state))
        expected = expected + sizes.sum() + layer_entropy(sizes)
        state = layer(state)
    torch.testing.assert_close(watch.penalty(), expected)
    watch.release()


def test_edges_of_gated_layers_and_of_parts_of_a_layer_are_left_out():
    grouped = _kan("kan")
    (outputs,) = _edges(grouped)
    first = grouped.first
    assert outputs.shape[1:] == (first.out_features, first.in_features)
    mixed = [[(0, 0, CURVE, False), (1, 1, "tanh", True)], [(0, 0, "linear", True)]]
    readable = network(mixed, [2], data_dim=1)
    watch = EdgeWatch(readable)
    readable(torch.randn(50, 1, generator=seeded(2), dtype=torch.float64), torch.arange(50))
    assert list(watch._inputs) == readable.kan_layers
    assert bool(watch.penalty().isfinite())
    watch.release()
    assert _num_hooks(readable) == 0
    for family, message in (
        (
            "gated-mlp",
            r"NetworkDenoiser has none \(those of gated layers are no functions of",
        ),
        ("mlp", "KAN layers, and NetworkDenoiser has none"),
    ):
        with refused(message):
            EdgeWatch(_kan(family))


def test_hooks_are_gone_however_training_ends():
    denoiser, frozen = _kan(), _kan().requires_grad_(False)
    _train(denoiser, sparsify=0.1, steps=3)
    assert _num_hooks(denoiser) == 0
    with refused("no trainable parameters"):
        _train(frozen, sparsify=0.1)
    assert _num_hooks(frozen) == 0
