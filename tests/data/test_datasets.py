from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from kan_diffusion.data.datasets import (
    DataConfig,
    Dataset,
    FileData,
    ToyData,
    data_from_name,
    fresh_dataset,
    load_dataset,
)
from kan_diffusion.data.toys import make_toy
from kan_diffusion.denoisers.families import build_denoiser
from kan_diffusion.errors import DataError, KanDiffusionError
from kan_diffusion.evaluation.metrics import sample_metrics
from kan_diffusion.processes import get_process
from kan_diffusion.training import TrainingConfig, train


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _rows(num: int, dim: int = 2) -> np.ndarray:
    """Rows that are all different, so that a set of them tells where each one went."""
    return np.random.default_rng(1).normal(
        [3.0, -20.0, 0.5][:dim], [2.0, 0.1, 9.0][:dim], (num, dim)
    )


def _csv(folder: Path, rows: np.ndarray, name: str = "points.csv") -> Path:
    path = folder / name
    header = ",".join("abc"[: rows.shape[1]])
    np.savetxt(path, rows, delimiter=",", header=header, comments="", fmt="%.17g")
    return path


def _in_data_units(dataset: Dataset, points: torch.Tensor) -> np.ndarray:
    return dataset.standardizer.invert(points.double()).numpy()


def _sorted(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("num_rows", [10, 11, 57, 400])
@pytest.mark.parametrize("holdout", [0.01, 0.2, 0.5, 0.99])
def test_split_is_disjoint_and_complete(tmp_path: Path, num_rows: int, holdout: float) -> None:
    rows = _rows(num_rows)
    dataset = load_dataset(FileData(path=_csv(tmp_path, rows), holdout=holdout), 0, 0)
    assert dataset.heldout is not None
    assert dataset.references is not None
    parts = [dataset.train, dataset.heldout, *dataset.references]
    together = np.concatenate([_in_data_units(dataset, part) for part in parts])
    # float32 training rows come back to within rounding
    np.testing.assert_allclose(_sorted(together), _sorted(rows), rtol=0, atol=2e-6)
    assert all(len(part) >= 1 for part in parts)
    num_heldout = num_rows - len(dataset.train)
    assert abs(num_heldout - holdout * num_rows) <= 0.5 or num_heldout in (4, num_rows - 2)
    first, second = dataset.references
    assert abs(len(first) - len(second)) <= 1


def test_split_depends_on_the_study_alone(tmp_path: Path) -> None:
    config = FileData(path=_csv(tmp_path, _rows(60)), holdout=0.5)
    dataset = load_dataset(config, study_seed=0, trial_seed=0)
    other_trial = load_dataset(config, study_seed=0, trial_seed=7)
    other_study = load_dataset(config, study_seed=1, trial_seed=0)
    assert torch.equal(dataset.train, other_trial.train)
    assert torch.equal(dataset.heldout, other_trial.heldout)
    assert set(map(tuple, _in_data_units(dataset, dataset.train).round(4))) != set(
        map(tuple, _in_data_units(other_study, other_study.train).round(4))
    )


def test_training_rows_are_standardised_with_their_own_moments(tmp_path: Path) -> None:
    dataset = load_dataset(FileData(path=_csv(tmp_path, _rows(300, dim=3))), 0, 0)
    train = dataset.train.double()
    torch.testing.assert_close(train.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        train.std(0, correction=0), torch.ones(3).double(), rtol=1e-6, atol=0
    )
    assert dataset.columns == ("a", "b", "c")
    # Held-out rows are moved by the same map, not by moments of their own.
    untrained = dataset.untrained()
    assert float(untrained.mean(0).abs().max()) > 1e-3


def test_toys_are_standardised_with_exact_moments() -> None:
    num = 20_000
    dataset = load_dataset(ToyData(toy="two-spirals", num_points=num), 0, 0)
    train = dataset.train.double()
    # A standardised mean has a standard error of 1 / sqrt(n); that of a standard deviation is
    # sqrt((kurtosis - 1) / 4n), and no coordinate here has a kurtosis above 3.
    assert float(train.mean(0).abs().max()) < 4.5 / num**0.5
    assert float((train.std(0) - 1).abs().max()) < 4.5 * (0.5 / num) ** 0.5
    assert dataset.train.dtype == torch.float32
    assert dataset.density is not None
    torch.testing.assert_close(dataset.density.std, torch.ones(2).double())


def test_divide_by_replaces_standardisation() -> None:
    dataset = load_dataset(ToyData(toy="swiss-roll", noise=0.2, divide_by=10), 0, 0)
    density = make_toy("swiss-roll", noise=0.2)
    assert dataset.standardizer.mean == (0.0, 0.0)
    assert dataset.standardizer.scale == (10.0, 10.0)
    torch.testing.assert_close(dataset.train.double().std(0), density.std / 10, rtol=0.02, atol=0)
    points = dataset.train[:5].double()
    torch.testing.assert_close(dataset.standardizer.invert(points), points * 10)
    # facts of the seed: standard deviations of 0.66 and 0.69
    torch.testing.assert_close(
        dataset.density.std, torch.tensor([0.66, 0.69]).double(), rtol=0.02, atol=0
    )


def test_toys_draw_anew_for_each_trial_and_study() -> None:
    config = ToyData(toy="moons", num_points=50)
    points = load_dataset(config, 0, 0).train
    assert torch.equal(points, load_dataset(config, 0, 0).train)
    for study_seed, trial_seed in ((0, 1), (1, 0)):
        other = load_dataset(config, study_seed, trial_seed).train
        assert not np.isin(other.numpy(), points.numpy()).any()


def test_toy_noise_is_in_the_toys_own_units() -> None:
    quiet, loud = (ToyData(toy="circles", noise=noise).density() for noise in (0.01, 0.3))
    variance = loud.std**2 - quiet.std**2
    torch.testing.assert_close(variance, torch.full((2,), 0.3**2 - 0.01**2).double())


def test_changed_file_is_refused(tmp_path: Path) -> None:
    path = _csv(tmp_path, _rows(30))
    config = FileData(path=path).pinned()
    load_dataset(config, 0, 0)
    original = path.read_text()
    path.write_text(original + "1.0,2.0\n")
    with pytest.raises(DataError, match=r"points\.csv' has changed .* put the file back"):
        load_dataset(config, 0, 0)
    assert config.pinned() == config  # pinning again does not hide the change
    path.write_text(original)
    load_dataset(config, 0, 0)


def test_column_constant_among_training_rows_is_refused(tmp_path: Path) -> None:
    rows = _rows(12)
    rows[:, 1] = 5.0
    rows[3, 1] = 6.0  # a single row differs: in some split it is held out
    path = _csv(tmp_path, rows)
    outcomes = set()
    for study_seed in range(12):
        try:
            load_dataset(FileData(path=path, holdout=0.5), study_seed, 0)
            outcomes.add("trained")
        except DataError as error:
            assert "column 'b' is constant among the rows trained on" in str(error)  # noqa: PT017
            outcomes.add("refused")
    assert outcomes == {"trained", "refused"}


def test_fewer_rows_than_a_batch_train(tmp_path: Path) -> None:
    dataset = load_dataset(FileData(path=_csv(tmp_path, _rows(10))), 0, 0)
    process = get_process("cosine")
    denoiser = build_denoiser(
        "mlp", dataset.dim, num_train_timesteps=process.num_timesteps, hidden=(8,)
    )
    result = train(
        denoiser,
        process,
        dataset.train,
        TrainingConfig(steps=3, batch_size=64),
        seed=0,
        device="cpu",
    )
    assert np.isfinite(result.losses).all()


def test_smallest_file_can_be_judged_with(tmp_path: Path) -> None:
    dataset = load_dataset(FileData(path=_csv(tmp_path, _rows(10))), 0, 0)
    pair = dataset.fresh_pair(5_000, _generator())
    metrics = sample_metrics(*pair, np.random.default_rng(0))
    assert all(np.isfinite(value) for value in metrics.values())


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    path = _csv(tmp_path, _rows(9))
    with pytest.raises(DataError, match=r"points\.csv' has 9 rows; at least 10"):
        load_dataset(FileData(path=path), 0, 0)


def test_heldout_rows_are_noised_equally_often(tmp_path: Path) -> None:
    dataset = load_dataset(FileData(path=_csv(tmp_path, _rows(100)), holdout=0.5), 0, 0)
    assert dataset.heldout is not None
    points = dataset.points_to_noise(37, _generator())
    _, counts = torch.unique(points, dim=0, return_counts=True)
    assert len(counts) == len(dataset.heldout) == 10
    assert set(counts.tolist()) == {3, 4}
    # In random order: the timesteps, which go up, must not go along with the rows.
    assert not torch.equal(points[:10], dataset.heldout)


@given(num=st.integers(1, 60), seed=st.integers(0, 10))
def test_fresh_pairs_share_no_row(tmp_path_factory: pytest.TempPathFactory, num: int, seed: int):
    path = tmp_path_factory.mktemp("pairs") / "points.npy"
    np.save(path, _rows(50))
    dataset = load_dataset(FileData(path=path, holdout=0.5), 0, 0)
    first, second = dataset.fresh_pair(num, _generator(seed))
    assert len(first) == len(second) == min(num, 12)
    both = torch.cat([first, second])
    assert len(torch.unique(both, dim=0)) == len(both)
    untrained = set(map(tuple, dataset.untrained().tolist()))
    assert set(map(tuple, both.tolist())) <= untrained


def test_fresh_dataset_keeps_the_models_units(tmp_path: Path) -> None:
    own = load_dataset(FileData(path=_csv(tmp_path, _rows(50))), 0, 0)
    shifted = _rows(40) + 1.0
    other = fresh_dataset(_csv(tmp_path, shifted, "other.csv"), own.columns, own.standardizer, 0)
    assert other.name == "other"
    assert other.standardizer == own.standardizer
    np.testing.assert_allclose(
        _sorted(_in_data_units(other, other.untrained())), _sorted(shifted), rtol=0, atol=1e-12
    )


def test_fresh_dataset_refuses_other_columns_and_few_rows(tmp_path: Path) -> None:
    own = load_dataset(FileData(path=_csv(tmp_path, _rows(50))), 0, 0)
    wide = _csv(tmp_path, _rows(50, dim=3), "wide.csv")
    with pytest.raises(DataError, match=r"wide\.csv' has 3 columns and .* on 2 \(a, b\)"):
        fresh_dataset(wide, own.columns, own.standardizer, 0)
    short = _csv(tmp_path, _rows(9), "short.csv")
    with pytest.raises(DataError, match=r"short\.csv' has 9 rows; at least 10"):
        fresh_dataset(short, own.columns, own.standardizer, 0)


def test_names_are_toys_or_files(tmp_path: Path) -> None:
    assert data_from_name("moons") == ToyData(toy="moons")
    pinned = data_from_name(str(_csv(tmp_path, _rows(20))))
    assert isinstance(pinned, FileData)
    assert len(pinned.sha256) == 64
    assert pinned.name == "points"
    with pytest.raises(KanDiffusionError, match=r"data set .* 'mons', did you mean 'moons'"):
        data_from_name("mons")
    with pytest.raises(DataError, match=r"there is no file 'missing\.csv'"):
        data_from_name("missing.csv")


@pytest.mark.parametrize(
    ("settings", "place", "message"),
    [
        ({"toy": "mons"}, ("toy",), "did you mean 'moons'"),
        ({"toy": "moons", "num_points": 0}, ("toy", "num_points"), "greater than or equal to 1"),
        ({"path": "p.csv", "holdout": 2}, ("file", "holdout"), "less than 1"),
        ({"path": "p.csv", "hold": 0.2}, ("file", "hold"), "not permitted"),
    ],
)
def test_wrong_settings_are_named(
    settings: dict[str, object], place: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(DataConfig).validate_python(settings)
    (error,) = caught.value.errors()
    assert error["loc"] == place
    assert message in error["msg"]


def test_fresh_dataset_puts_columns_in_the_models_order(tmp_path: Path) -> None:
    own = load_dataset(FileData(path=_csv(tmp_path, _rows(50))), 0, 0)
    table = pd.read_csv(_csv(tmp_path, _rows(40), "other.csv"))
    turned = tmp_path / "turned.csv"
    table[table.columns[::-1]].to_csv(turned, index=False)
    straight = fresh_dataset(tmp_path / "other.csv", own.columns, own.standardizer, 0)
    reordered = fresh_dataset(turned, own.columns, own.standardizer, 0)
    torch.testing.assert_close(reordered.untrained(), straight.untrained())


def test_fresh_dataset_refuses_columns_of_other_names(tmp_path: Path) -> None:
    own = load_dataset(FileData(path=_csv(tmp_path, _rows(50))), 0, 0)
    table = pd.read_csv(_csv(tmp_path, _rows(40), "other.csv"))
    renamed = tmp_path / "renamed.csv"
    table.rename(columns={table.columns[0]: "weight"}).to_csv(renamed, index=False)
    with pytest.raises(DataError, match=f"no column '{own.columns[0]}'"):
        fresh_dataset(renamed, own.columns, own.standardizer, 0)
