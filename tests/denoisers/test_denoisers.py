from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from helpers import assert_same_state, refused, seeded
from kan_diffusion.denoisers import (
    UNLABELLED,
    Denoiser,
    GatedDenoiser,
    KANDenoiser,
    MLPDenoiser,
    RBF2015Denoiser,
    SplineMLPDenoiser,
)
from kan_diffusion.kan import refine

each_class = pytest.mark.parametrize(
    "kind", [KANDenoiser, MLPDenoiser, SplineMLPDenoiser, RBF2015Denoiser, GatedDenoiser]
)


def _denoiser(kind: type[Denoiser], **settings: object) -> Denoiser:
    denoiser = kind(2, hidden=(8, 7), num_train_timesteps=100, **settings)
    denoiser.reset_parameters(seeded(0))
    if isinstance(denoiser, GatedDenoiser) and denoiser.network.told is not None:
        # Labels count for nothing until they are trained.
        torch.nn.init.normal_(denoiser.network.told.weight, generator=seeded(3))
    return denoiser


def _points(num: int = 6, dim: int = 2) -> torch.Tensor:
    return torch.randn(num, dim, generator=seeded(1))


# The notebook's networks: raw time, 250 steps, its grid and its initialisations.


def test_the_notebooks_networks_have_its_numbers_of_parameters() -> None:
    kan = {"num_train_timesteps": 250, "time_encoding": "raw", "bias": False, "edge_scale": True}
    assert KANDenoiser(2, hidden=(32, 32, 32), **kan).num_trainable == 22_080
    assert KANDenoiser(2, hidden=(32,), **kan).num_trainable == 1_600
    mlp = MLPDenoiser(2, (32, 32, 32), 250, time_encoding="raw", activation="relu", init="xavier")
    assert mlp.num_trainable == 2_306


@pytest.mark.parametrize("settings", [{}, {"residual": True, "modulated": True}], ids=str)
def test_a_refined_denoiser_is_saved_as_it_is(settings: dict[str, object], tmp_path: Path) -> None:
    denoiser = KANDenoiser(2, hidden=(6, 4, 7), grid_size=4, **settings)
    if settings:
        torch.nn.init.normal_(denoiser.stack.modulation.weight, std=0.3, generator=seeded(3))
    sample = _points(50)
    timestep = torch.arange(50)
    before = denoiser(sample, timestep).sample
    assert denoiser.refine(8, sample, timestep) < 1e-5
    assert {layer.grid_size for layer in denoiser.layers} == {8}
    torch.testing.assert_close(denoiser(sample, timestep).sample, before, rtol=1e-4, atol=1e-5)
    names = [f"network.layers.{index}" for index in range(4)]
    assert list(denoiser.out_of_range_fractions(sample, timestep)) == names
    denoiser.update_grid(sample, timestep)
    denoiser.save_pretrained(tmp_path)
    loaded = KANDenoiser.from_pretrained(tmp_path)
    assert loaded.config.grid_size == 8
    assert torch.equal(loaded(sample, timestep).sample, denoiser(sample, timestep).sample)


@pytest.mark.parametrize("kind", [KANDenoiser, GatedDenoiser, SplineMLPDenoiser])
def test_a_denoiser_refined_from_outside_is_saved_as_it_is_and_so_is_its_average(
    kind: type[Denoiser], tmp_path: Path
) -> None:
    denoiser = kind(2, hidden=(6,))
    average = AveragedModel(denoiser)
    refine(denoiser, 32, averages=iter([average]))
    for one in (denoiser, average.module):
        one.save_pretrained(tmp_path)
        loaded = kind.from_pretrained(tmp_path)
        assert loaded.config.grid_size == 32
        assert loaded.flops_per_edge == one.flops_per_edge
        assert torch.equal(loaded(_points(9), 3).sample, one(_points(9), 3).sample)


# Calling


@each_class
def test_one_timestep_or_one_for_each_point_is_the_same(kind: type[Denoiser]) -> None:
    denoiser, x = _denoiser(kind), _points()
    each = denoiser(x, torch.full((6,), 41)).sample
    for same in (41, 41.0, torch.tensor(41), torch.tensor([41]), torch.tensor(41.0)):
        assert torch.equal(denoiser(x, same).sample, each)
    assert torch.equal(denoiser(x, 41, return_dict=False)[0], each)
    assert not torch.allclose(denoiser(x, 42).sample, each)
    # Rows are independent: mixed timesteps give each row its own answer.
    mixed = denoiser(x, torch.arange(6)).sample
    for row in range(6):
        torch.testing.assert_close(mixed[row], denoiser(x[row : row + 1], row).sample[0])


@each_class
def test_fractional_timesteps_lie_between_whole_ones(kind: type[Denoiser]) -> None:
    denoiser, x = _denoiser(kind).double(), _points().double()
    below, half, above = (denoiser(x, t).sample for t in (40, 40.5, 41))
    torch.testing.assert_close(half, (below + above) / 2, atol=1e-3, rtol=1e-2)
    assert not torch.equal(half, below)


@each_class
def test_label_minus_one_is_no_label(kind: type[Denoiser]) -> None:
    denoiser, x = _denoiser(kind, num_classes=3), _points()
    none = denoiser(x, 5).sample
    assert torch.equal(denoiser(x, 5, torch.full((6,), UNLABELLED)).sample, none)
    outputs = [denoiser(x, 5, torch.full((6,), label)).sample for label in range(3)]
    for output in (none, outputs[0]):
        assert not torch.allclose(output, outputs[1])
    labels = torch.tensor([2, -1, 0, 1, 0, -1])
    mixed = denoiser(x, 5, labels).sample
    for row, label in enumerate(labels.tolist()):
        expected = none if label < 0 else outputs[label]
        torch.testing.assert_close(mixed[row], expected[row])


@each_class
def test_labels_a_denoiser_has_not_are_refused(kind: type[Denoiser]) -> None:
    without, denoiser = _denoiser(kind), _denoiser(kind, num_classes=2)
    with refused("built without classes"):
        without(_points(), 5, torch.zeros(6, dtype=torch.long))
    with refused("built without classes"):
        without.require_conditions({"class_labels": torch.tensor([0])}, 1)
    denoiser.require_conditions({"class_labels": torch.tensor([0, 1, -1])}, 3)
    for wrong in (2, -2):
        with refused(rf"label {wrong} is unknown .* 0 to 1"):
            denoiser.require_conditions({"class_labels": torch.tensor([0, wrong])}, 2)
    with refused("whole numbers"):
        denoiser.require_conditions({"class_labels": torch.tensor([0.0])}, 1)
    with refused("class_labels must be one a sample, 3, not 2"):
        denoiser.require_conditions({"class_labels": torch.tensor([0, 1])}, 3)
    with refused("takes class_labels, not encoder_hidden_states"):
        denoiser.require_conditions({"encoder_hidden_states": torch.zeros(2, 1, 4)}, 2)
    with refused("takes no prompts"):
        denoiser(_points(), 5, encoder_hidden_states=torch.zeros(6, 1, 4))


@each_class
@pytest.mark.parametrize("shape", [(6, 3), (2,), (2, 6, 2)])
def test_points_of_another_shape_are_refused(kind: type[Denoiser], shape: tuple[int, ...]) -> None:
    with refused(r"shape \(B, 2\)"):
        _denoiser(kind)(torch.zeros(shape), 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KANDenoiser(0), "data_dim of at least 1"),
        (lambda: MLPDenoiser(2, num_classes=-1), "num_classes of at least 0"),
        (lambda: MLPDenoiser(2, num_train_timesteps=0), "one timestep"),
        (lambda: MLPDenoiser(2, num_time_frequencies=0), "one frequency"),
        (lambda: MLPDenoiser(2, time_encoding="fourrier"), "did you mean 'fourier'"),
        (lambda: MLPDenoiser(2, activation="rely"), "unknown activation 'rely'"),
        (lambda: MLPDenoiser(2, init="xaver"), "did you mean 'xavier'"),
        (lambda: KANDenoiser(2, init="torch"), "unknown init 'torch'"),
        (lambda: KANDenoiser(2, num_input_frequencies=-1), "num_input_frequencies .* not -1"),
        (lambda: MLPDenoiser(2, hidden=(), modulated=True), "at least one hidden layer"),
        (lambda: RBF2015Denoiser(2, hidden=(16,)), r"two sizes, .* not \(16,\)"),
        (lambda: RBF2015Denoiser(2, hidden=(16, 0)), r"two sizes, .* not \(16, 0\)"),
        (lambda: RBF2015Denoiser(2, num_train_timesteps=0), "num_train_timesteps"),
    ],
)
def test_unusable_settings_are_refused(make: Callable[[], Denoiser], message: str) -> None:
    with refused(message):
        make()


# Initialisation, copies and files


@each_class
def test_a_generator_decides_every_parameter(kind: type[Denoiser]) -> None:
    denoiser, twin = _denoiser(kind), _denoiser(kind)
    state = torch.get_rng_state()
    denoiser.reset_parameters(seeded(9))
    assert not torch.equal(denoiser(_points(), 5).sample, twin(_points(), 5).sample)
    denoiser.reset_parameters(seeded(0))
    assert torch.equal(state, torch.get_rng_state())
    assert_same_state(denoiser, twin)


def test_mlp_initialisations_are_those_of_torch_and_of_the_notebook() -> None:
    denoiser = MLPDenoiser(2, hidden=(400, 300), init="torch")
    denoiser.reset_parameters(seeded(0))
    weight, bias = (parameter.detach() for parameter in denoiser.network[2].parameters())
    theirs = float(torch.nn.Linear(400, 300).weight.detach().std())
    assert float(weight.std()) == pytest.approx(theirs, rel=0.02)
    assert max(float(values.abs().max()) for values in (weight, bias)) <= 1 / math.sqrt(400)
    xavier = MLPDenoiser(2, hidden=(400, 300), init="xavier").network[2]
    assert float(xavier.weight.detach().std()) == pytest.approx(math.sqrt(2 / 700), rel=0.02)
    assert torch.equal(xavier.bias, torch.full((300,), 0.01))


@pytest.mark.parametrize("timestep", [torch.arange(6), torch.arange(6) + 0.5, torch.tensor(3)])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (MLPDenoiser, {}),
        (RBF2015Denoiser, {}),
        (MLPDenoiser, {"modulated": True, "residual": True}),
        (KANDenoiser, {"modulated": True, "residual": True}),
        (GatedDenoiser, {}),
        (GatedDenoiser, {"learned_inputs": False, "learned_functions": False}),
    ],
)
def test_a_denoiser_compiles_to_one_graph_and_is_mapped_over_points(
    kind: type[Denoiser], settings: dict[str, object], timestep: torch.Tensor
) -> None:
    torch.compiler.reset()  # or compilations of other denoisers count as this one's
    denoiser, points = _denoiser(kind, **settings), _points()
    if "modulated" in settings:
        torch.nn.init.normal_(denoiser.stack.modulation.weight, generator=seeded(3))
    expected = denoiser(points, timestep).sample
    if kind is not KANDenoiser:
        compiled = torch.compile(denoiser, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(points, timestep, return_dict=False)[0], expected)
    one = torch.func.vmap(lambda x, t: denoiser(x.unsqueeze(0), t, return_dict=False)[0][0])
    torch.testing.assert_close(one(points, timestep.expand(6)), expected)


@each_class
def test_copies_compute_the_same(kind: type[Denoiser]) -> None:
    denoiser = _denoiser(kind, num_classes=2)
    labels = torch.tensor([0, 1, -1, 0, 1, -1])
    expected = denoiser(_points(), 5, labels).sample
    for twin in (copy.deepcopy(denoiser), pickle.loads(pickle.dumps(denoiser))):
        assert torch.equal(twin(_points(), 5, labels).sample, expected)
        assert dict(twin.config) == dict(denoiser.config)


def test_a_saved_denoiser_is_the_denoiser(tmp_path: Path) -> None:
    denoiser = _denoiser(
        KANDenoiser,
        num_classes=3,
        grid_size=7,
        order=2,
        grid_range=(-1.5, 2.5),
        extrapolation="clamp",
        base_activation=None,
        edge_scale=True,
        bias=False,
        init="noise",
    )
    with torch.no_grad():  # a grid that has moved is part of what was learned
        denoiser.network.layers[1].grid_step.mul_(1.25)
    denoiser.save_pretrained(tmp_path)
    loaded = KANDenoiser.from_pretrained(tmp_path)
    x, labels = 3 * _points(), torch.tensor([0, 1, -1, 2, 1, -1])
    assert torch.equal(loaded(x, 5, labels).sample, denoiser(x, 5, labels).sample)
    assert loaded.num_trainable == denoiser.num_trainable
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
