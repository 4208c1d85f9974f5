from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import kan_diffusion.training.batches as batches_module
from helpers import seeded
from kan_diffusion.processes import Process, expand
from kan_diffusion.training.batches import Batches
from kan_diffusion.training.config import TrainingConfig

CPU = torch.device("cpu")
each_kind = pytest.mark.parametrize("kind", ["replacement", "epochs"])
NOISED = ("noised", "timesteps", "target")

ABSENT = {"label": torch.tensor(-1), "pair": torch.tensor([-3, 4])}
LABELLED = SimpleNamespace(absent=ABSENT, observable=False)


def _process(prediction_type="v_prediction"):
    schedule = "flow" if prediction_type == "flow" else "squaredcos_cap_v2"
    return Process(name="x", schedule=schedule, prediction_type=prediction_type)


def _points(num=100):
    return torch.randn(num, 2, generator=seeded(1), dtype=torch.float64)


def _batches(kind="replacement", **options):
    points = options.pop("points", _points())
    process = options.pop("process", _process())
    # Conditions are the numbers of the rows, as labels and as rows of two numbers.
    rows = torch.arange(len(points))
    conditions = options.pop("conditions", {"label": rows, "pair": rows[:, None] + ABSENT["pair"]})
    own = {name: options.pop(name) for name in ("batch_size", "timesteps") if name in options}
    config = TrainingConfig(**{"batch_size": 32, "batches": kind, **own})
    settings = {"seed": 3, "device": CPU, **options}
    return Batches(points, conditions, LABELLED, process, config, **settings)


def _equal(one, other):
    assert one.conditions.keys() == other.conditions.keys()
    pairs = [(getattr(one, name), getattr(other, name)) for name in NOISED]
    pairs += [(values, other.conditions[name]) for name, values in one.conditions.items()]
    return all(torch.equal(a, b) for a, b in pairs)


class WithoutDoubles(TorchDispatchMode):
    """Refuses float64 on the meta device, as Apple's GPUs do."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor) and output.is_meta:
            assert output.dtype != torch.float64
        return output


@pytest.mark.parametrize("prediction_type", ["v_prediction", "flow"])
def test_levels_are_those_of_a_device_without_float64(prediction_type):
    with WithoutDoubles():
        batches = _batches(process=_process(prediction_type), device=torch.device("meta"))
    assert all(level.is_meta and level.dtype == torch.float32 for level in batches._levels)


@each_kind
@pytest.mark.parametrize("values", [3 * 32 * 2, 2**14])
def test_a_batch_is_a_function_of_seed_and_step(kind, values, monkeypatch):
    monkeypatch.setattr(batches_module, "_CHUNK_VALUES", values)  # chunks of 3 and 256 steps
    in_order = [_batches(kind).at(step) for step in range(14)]
    one = _batches(kind)
    for step in (13, 2, 3, 7, 6, 0, 12, 1):  # ... whatever was drawn before it
        assert _equal(one.at(step), in_order[step]), step
    assert len({float(batch.noised.sum()) for batch in in_order}) == 14
    assert not _equal(_batches(kind, seed=4).at(5), in_order[5])


@each_kind
@pytest.mark.parametrize(
    ("shape", "prediction_type"),
    [((2,), "v_prediction"), ((2,), "epsilon"), ((3, 2, 4), "sample"), ((3, 8, 8), "flow")],
)
def test_noised_samples_and_targets_are_those_of_rows_of_the_data(kind, prediction_type, shape):
    process = _process(prediction_type)
    points = torch.randn(100, *shape, generator=seeded(1), dtype=torch.float64)
    batch = _batches(kind, process=process, points=points).at(300)  # in the second chunk
    a, s = (level[batch.timesteps] for level in process.levels())
    noise = process.predicted_noise(batch.target.double(), batch.noised.double(), a, s)
    clean = (batch.noised - expand(s, noise) * noise) / expand(a, noise)
    labels, pairs = batch.conditions["label"], batch.conditions["pair"]
    dropped = labels < 0
    assert torch.equal(pairs[~dropped], labels[~dropped, None] + ABSENT["pair"])
    assert torch.equal(pairs[dropped], ABSENT["pair"].expand(int(dropped.sum()), 2))
    known = ~dropped & (a > 0.05)
    assert known.sum() > 2
    torch.testing.assert_close(clean[known], points[labels[known]], atol=1e-3, rtol=0)
    assert batch.noised.dtype == batch.target.dtype == torch.float32


def _rows(batches, steps):
    """The numbers of the rows that steps draw, from points that are numbered."""
    return [batches.at(step).target[:, 0].long() for step in range(steps)]


def test_an_epoch_visits_every_point_once_in_a_new_order():
    numbered = torch.arange(100.0)[:, None].expand(100, 2)
    drawn = _rows(_batches("epochs", points=numbered, process=_process("sample")), 12)
    assert [len(rows) for rows in drawn] == [32, 32, 32, 4] * 3
    epochs = [torch.cat(drawn[start : start + 4]).tolist() for start in (0, 4, 8)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_drawing_with_replacement_is_uniform_over_points_timesteps_and_labels():
    numbered, process = torch.arange(10.0)[:, None].expand(10, 2), _process("sample")
    batches = _batches(points=numbered, process=process, batch_size=1000)
    rows = torch.cat(_rows(batches, 20))
    assert (rows.bincount() - 2000).abs().max() < 4.5 * 2000**0.5
    drawn = [batches.at(step) for step in range(20)]
    shares = torch.cat([batch.timesteps for batch in drawn]).double() / process.num_timesteps
    # Of 0, 1/T, ..., (T - 1)/T.
    middle, spread = 0.5 - 0.5 / process.num_timesteps, (1 / 12) ** 0.5
    assert float(shares.mean()) == pytest.approx(middle, abs=4.5 * spread / 20_000**0.5)
    labels = torch.cat([batch.conditions["label"] for batch in drawn])
    dropped = labels == -1
    assert torch.equal(labels[~dropped], rows[~dropped])
    assert float(dropped.double().mean()) == pytest.approx(0.1, abs=0.01)


def test_noise_is_standard_normal_and_independent_from_step_to_step():
    drawn = _batches(process=_process("epsilon"), batch_size=500, points=_points(7))
    noise = torch.stack([drawn.at(step).target for step in range(40)]).double()
    num = noise.numel()
    assert abs(float(noise.mean())) < 4.5 / num**0.5
    assert abs(float(noise.var()) - 1) < 4.5 * (2 / num) ** 0.5
    assert abs(float((noise[:-1] * noise[1:]).mean())) < 4.5 / num**0.5
    assert abs(float((noise[..., 0] * noise[..., 1]).mean())) < 4.5 / (num / 2) ** 0.5


def test_logit_normal_timesteps_have_the_quantiles_of_their_density():
    drawn = _batches(batch_size=4000, timesteps="logit-normal", points=_points(5)).at(2).timesteps
    total = _process().num_timesteps
    for share in (0.1, 0.5, 0.9):
        quantile = float(torch.sigmoid(torch.special.ndtri(torch.tensor(share))))
        below = float((drawn < quantile * total).double().mean())
        assert abs(below - share) < 4.5 * (share * (1 - share) / len(drawn)) ** 0.5
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < total


def test_conditions_may_be_left_out_and_take_nothing_else_along():
    without, labelled = _batches(conditions={}).at(4), _batches().at(4)
    assert without.conditions == {}
    for name in NOISED:
        assert torch.equal(getattr(without, name), getattr(labelled, name))
