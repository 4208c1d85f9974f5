import pytest
import torch

from helpers import assert_same_state, refused
from kan_diffusion.denoisers.edges import CURVE
from kan_diffusion.kan.importance import edge_penalty, edge_sizes
from kan_diffusion.training.config import TrainingConfig
from kan_diffusion.training.run import inputs_of, penalised_layers
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
    with inputs_of(penalised_layers(denoiser)) as inputs:
        denoiser(points(200, seed=2), torch.arange(200) * 5)
    return [layer.edge_outputs(input).detach() for layer, input in inputs.items()]


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
    edges, steps = _edges(denoiser), torch.arange(200) * 5
    state = torch.cat([points(200, seed=2), denoiser.time_features(steps, torch.float32)], -1)
    for layer, outputs in zip(denoiser.kan_layers, edges, strict=True):
        torch.testing.assert_close(outputs, layer.edge_outputs(state).detach())
        state = layer(state)


def test_edges_of_gated_layers_and_of_parts_of_a_layer_are_left_out():
    grouped = _kan("kan")
    (outputs,) = _edges(grouped)
    first = grouped.first
    assert outputs.shape[1:] == (first.out_features, first.in_features)
    mixed = [[(0, 0, CURVE, False), (1, 1, "tanh", True)], [(0, 0, "linear", True)]]
    readable = network(mixed, [2], data_dim=1)
    assert penalised_layers(readable) == readable.kan_layers
    with inputs_of(readable.kan_layers) as inputs:
        readable(points(50, 1, dtype=torch.float64), torch.arange(50))
    assert list(inputs) == readable.kan_layers
    assert all(bool(layer.edge_outputs(input).isfinite().all()) for layer, input in inputs.items())
    for family in ("gated-mlp", "mlp"):
        with refused(r"and NetworkDenoiser has none \(those of gated layers are no functions of"):
            penalised_layers(_kan(family))


def test_hooks_are_gone_however_training_ends():
    denoiser, frozen = _kan(), _kan().requires_grad_(False)
    _train(denoiser, sparsify=0.1, steps=3)
    assert _num_hooks(denoiser) == 0
    with refused("no trainable parameters"):
        _train(frozen, sparsify=0.1)
    assert _num_hooks(frozen) == 0
