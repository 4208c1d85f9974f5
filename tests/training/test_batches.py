from __future__ import annotations

import pytest
import torch
from torch import Tensor

import kan_diffusion.training.batches as batches_module
from helpers import seeded
from kan_diffusion.processes import Process, expand
from kan_diffusion.training.batches import Batch, Batches

CPU = torch.device("cpu")
each_kind = pytest.mark.parametrize("kind", ["replacement", "epochs"])


def _process(prediction_type: str = "v_prediction") -> Process:
    schedule = "flow" if prediction_type == "flow" else "squaredcos_cap_v2"
    return Process(name="x", schedule=schedule, prediction_type=prediction_type)


def _points(num: int = 100) -> Tensor:
    return torch.randn(num, 2, generator=seeded(1), dtype=torch.float64)


def _batches(kind: str = "replacement", **options: object) -> Batches:
    points = options.pop("points", _points())
    process = options.pop("process", _process())
    labels = options.pop("labels", torch.arange(len(points)))
    settings = {"batch_size": 32, "seed": 3, "device": CPU, **options}
    return Batches(points, labels, process, batches=kind, **settings)


def _equal(one: Batch, other: Batch) -> bool:
    assert one.observed is None
    assert other.observed is None
    pairs = zip(
        one._replace(observed=one.target), other._replace(observed=other.target), strict=True
    )
    return all(torch.equal(a, b) for a, b in pairs)


@each_kind
@pytest.mark.parametrize("values", [1, 3 * 32 * 2, 2**14])
def test_a_batch_is_a_function_of_seed_and_step(
    kind: str, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "_CHUNK_VALUES", values)  # chunks of 1, 3 and 256 steps
    in_order = [_batches(kind).at(step) for step in range(14)]
    one = _batches(kind)
    for step in (13, 2, 3, 7, 6, 0, 12, 1):  # ... whatever was drawn before it
        assert _equal(one.at(step), in_order[step]), step
    assert len({float(batch.noised.sum()) for batch in in_order}) == 14
    assert not _equal(_batches(kind, seed=4).at(5), in_order[5])


@each_kind
@pytest.mark.parametrize("shape", [(2,), (3, 2, 4), (3, 8, 8)], ids=str)
@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon", "sample", "flow"])
def test_noised_samples_and_targets_are_those_of_rows_of_the_data(
    kind: str, prediction_type: str, shape: tuple[int, ...]
) -> None:
    process = _process(prediction_type)
    points = torch.randn(100, *shape, generator=seeded(1), dtype=torch.float64)
    batch = _batches(kind, process=process, points=points).at(300)  # in the second chunk
    a, s = (level[batch.timesteps] for level in process.levels())
    noise = process.predicted_noise(batch.target.double(), batch.noised.double(), a, s)
    clean = (batch.noised - expand(s, noise) * noise) / expand(a, noise)
    known = (batch.labels >= 0) & (a > 0.05)  # labels are the numbers of the rows
    assert known.sum() > 2
    torch.testing.assert_close(clean[known], points[batch.labels[known]], atol=1e-3, rtol=0)
    assert batch.noised.dtype == batch.target.dtype == torch.float32


def test_noise_is_standard_normal_and_independent_from_step_to_step() -> None:
    drawn = _batches(process=_process("epsilon"), batch_size=500, points=_points(7))
    noise = torch.stack([drawn.at(step).target for step in range(40)]).double()
    num = noise.numel()
    assert abs(float(noise.mean())) < 4.5 / num**0.5
    assert abs(float(noise.var()) - 1) < 4.5 * (2 / num) ** 0.5
    assert abs(float((noise[:-1] * noise[1:]).mean())) < 4.5 / num**0.5
    assert abs(float((noise[..., 0] * noise[..., 1]).mean())) < 4.5 / (num / 2) ** 0.5


def test_labels_may_be_left_out_and_take_nothing_else_along() -> None:
    without, labelled = _batches(labels=None).at(4), _batches().at(4)
    assert without.labels is None
    for name in ("noised", "timesteps", "target"):
        assert torch.equal(getattr(without, name), getattr(labelled, name))
