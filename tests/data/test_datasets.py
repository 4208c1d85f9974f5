from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from sklearn import datasets as sklearn_datasets

from helpers import refused, seeded
from kan_diffusion.data import TABLES
from kan_diffusion.data.datasets import (
    FEWEST_FOR_ORACLE,
    DataConfig,
    Dataset,
    FileData,
    TableData,
    ToyData,
    data_from_name,
    fresh_dataset,
    load_dataset,
)
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.tables import write_frame
from kan_diffusion.data.toys import make_toy
from kan_diffusion.denoisers.registry import build_denoiser
from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.metrics import sample_metrics
from kan_diffusion.processes import get_process
from kan_diffusion.training import TrainingConfig, train


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
    frame = dataset.codec.decode(points, np.random.default_rng(0))
    return frame.to_numpy(dtype=np.float64)


def _sorted(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T)]


def _with_oracle_from(monkeypatch: pytest.MonkeyPatch, num_rows: int) -> None:
    """Files small enough for a test have an oracle."""
    monkeypatch.setattr("kan_diffusion.data.datasets.FEWEST_FOR_ORACLE", num_rows)


@pytest.mark.parametrize("fewest", [4, FEWEST_FOR_ORACLE])
@pytest.mark.parametrize("num_rows", [10, 11, 57, 400])
@pytest.mark.parametrize("holdout", [0.01, 0.2, 0.5, 0.99])
def test_split_is_disjoint_and_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_rows: int, holdout: float, fewest: int
) -> None:
    _with_oracle_from(monkeypatch, max(fewest, 5))
    rows = _rows(num_rows)
    dataset = load_dataset(FileData(path=_csv(tmp_path, rows), holdout=holdout), 0, 0)
    num_heldout = num_rows - len(dataset.train)
    assert abs(num_heldout - holdout * num_rows) <= 0.5 or num_heldout in (4, num_rows - 2)
    parts = [dataset.train, dataset.heldout, *(dataset.references or ())]
    together = np.concatenate([_in_data_units(dataset, part) for part in parts])
    # float32 rows come back to within rounding
    np.testing.assert_allclose(_sorted(together), _sorted(rows), rtol=0, atol=2e-5)
    assert all(len(part) >= 1 for part in parts)
    assert torch.equal(dataset.untrained(), torch.cat(parts[1:]))
    if num_heldout < max(fewest, 5):
        assert dataset.oracle == "none"
        assert len(dataset.heldout) == num_heldout
    else:
        assert dataset.oracle == "estimated"
        first, second = dataset.references
        assert abs(len(first) - len(second)) <= 1
        assert len(dataset.heldout) == num_heldout // 5


@pytest.mark.parametrize(("missing", "oracle"), [(0, "estimated"), (1, "none")])
def test_oracle_takes_enough_heldout_rows(tmp_path: Path, missing: int, oracle: str) -> None:
    path = tmp_path / "points.npy"
    num_rows = 2 * (FEWEST_FOR_ORACLE - missing)
    np.save(path, _rows(num_rows))
    own = load_dataset(FileData(path=path, holdout=0.5), 0, 0)
    assert own.oracle == oracle
    # Of a file that is judged with only, all rows count.
    np.save(tmp_path / "half.npy", _rows(num_rows // 2))
    other = fresh_dataset(tmp_path / "half.npy", own.columns, own.codec, 0)
    assert other.oracle == oracle
    assert len(other.untrained()) == num_rows // 2


def _training_rows(dataset: Dataset) -> set[tuple[float, ...]]:
    return set(map(tuple, _in_data_units(dataset, dataset.train).round(4)))


def test_split_with_an_oracle_depends_on_the_study_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_oracle_from(monkeypatch, 30)
    config = FileData(path=_csv(tmp_path, _rows(60)), holdout=0.5)
    dataset = load_dataset(config, study_seed=0, trial_seed=0)
    other_trial = load_dataset(config, study_seed=0, trial_seed=7)
    other_study = load_dataset(config, study_seed=1, trial_seed=0)
    assert not dataset.split_by_seed
    assert torch.equal(dataset.train, other_trial.train)
    assert torch.equal(dataset.heldout, other_trial.heldout)
    assert _training_rows(dataset) != _training_rows(other_study)


@pytest.mark.parametrize("kind", ["file", "table"])
def test_without_an_oracle_ten_seeds_are_ten_splits(tmp_path: Path, kind: str) -> None:
    config = TableData(table="wine")
    if kind == "file":
        config = FileData(path=_csv(tmp_path, _rows(60)), holdout=0.5)
    splits = [load_dataset(config, study_seed=0, trial_seed=seed) for seed in range(10)]
    assert all(split.split_by_seed for split in splits)
    rows = [_training_rows(split) for split in splits]
    assert len({frozenset(part) for part in rows}) == 10
    codecs = [split.codec.to_dict() for split in splits if split.codec is not None]
    assert codecs == [codecs[0]] * 10  # that of all rows
    # Rows are held out independently: no more often together than chance has it.
    fraction = len(rows[0]) / (len(rows[0]) + len(splits[0].untrained()))
    common = [len(rows[i] & rows[j]) / len(rows[0]) for i in range(10) for j in range(i)]
    assert np.mean(common) == pytest.approx(fraction, abs=0.05)
    assert _training_rows(load_dataset(config, 0, 3)) == rows[3]
    assert _training_rows(load_dataset(config, 1, 3)) != rows[3]


LOADERS = {
    "iris": sklearn_datasets.load_iris,
    "wine": sklearn_datasets.load_wine,
    "breast-cancer": sklearn_datasets.load_breast_cancer,
    "diabetes": lambda: sklearn_datasets.load_diabetes(scaled=False),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_scikit_learns(name: str) -> None:
    dataset = load_dataset(TableData(table=name, holdout=0.4), 0, 0)
    theirs = LOADERS[name]()
    names = list(theirs.feature_names)
    kept = [place for place, column in enumerate(names) if column != "sex"]
    assert dataset.columns == tuple(names[place] for place in kept)
    assert all(type(column) is str for column in dataset.columns)  # not NumPy's
    rows = torch.cat([dataset.train.double(), dataset.untrained()])
    ours, expected = _in_data_units(dataset, rows), theirs.data[:, kept]
    scale = expected.std(axis=0)
    # Column by column and in their products, so that rows are whole.
    np.testing.assert_allclose(
        np.sort(ours, axis=0) / scale, np.sort(expected, axis=0) / scale, rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(ours.T @ ours, expected.T @ expected, rtol=1e-5)
    assert len(dataset.untrained()) == round(0.4 * len(expected))
    # Continuous: no column is a code of a few classes.
    assert all(len(np.unique(column)) > 20 for column in expected.T)


def test_tables_have_no_oracle_and_noise_every_heldout_row() -> None:
    dataset = load_dataset(TableData(table="iris"), 0, 0)
    assert dataset.name == "iris"
    assert dataset.oracle == "none"
    assert len(dataset.heldout) == 45
    first, second = dataset.fresh_pair(5_000, seeded())
    assert len(first) == len(second) == len(dataset.fresh(5_000, seeded())) == 22
    noised = dataset.points_to_noise(4_500, seeded())
    rows, counts = torch.unique(dataset.heldout, dim=0, return_counts=True)
    found, often = torch.unique(noised, dim=0, return_counts=True)
    assert torch.equal(rows, found)
    assert torch.equal(often, 100 * counts)  # iris has the same flower twice


def test_rows_are_encoded_and_need_no_further_units(tmp_path: Path) -> None:
    dataset = load_dataset(FileData(path=_csv(tmp_path, _rows(300, dim=3))), 0, 0)
    assert dataset.train.dtype == torch.float32
    rows = torch.cat([dataset.train.double(), dataset.untrained()])
    assert float(rows.mean(0).abs().max()) < 0.05
    assert float((rows.std(0) - 1).abs().max()) < 0.1
    assert dataset.columns == ("a", "b", "c")
    assert dataset.standardizer == Standardizer((0.0,) * 3, (1.0,) * 3)


def _people(num: int) -> pd.DataFrame:
    """People with an age, a job, gaps and dates; two of them, at random places, are unlike all."""
    generator = np.random.default_rng(3)
    people = pd.DataFrame(
        {
            "age": generator.integers(18, 90, num),
            "job": generator.choice(["nurse", "teacher"], num),
            "income": np.where(generator.random(num) < 0.2, np.nan, generator.lognormal(size=num)),
            "since": pd.Timestamp("2020-01-01")
            + pd.to_timedelta(generator.integers(0, 9, num), "D"),
            "planet": "earth",
        }
    )
    people.loc[generator.integers(num), "job"] = "astronaut"
    people.loc[generator.integers(num), "age"] = 130
    return people


def test_of_large_files_most_rows_are_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kan_diffusion.data.datasets.MOST_HELDOUT", 15)
    path = _csv(tmp_path, _rows(100))
    dataset = load_dataset(FileData(path=path, holdout=0.5))
    assert (len(dataset.train), len(dataset.untrained())) == (85, 15)
    other = fresh_dataset(path, dataset.columns, dataset.codec, 0)
    assert len(other.untrained()) == 15


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_people_come_back_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    # The codec sees a few rows at random, and whatever is unlike these.
    monkeypatch.setattr("kan_diffusion.data.datasets.MOST_TO_FIT", 30)
    monkeypatch.setattr("kan_diffusion.data.tables._BATCH", 37)
    people, path = _people(200), tmp_path / f"people.{ending}"
    write_frame(path, people)
    dataset = load_dataset(FileData(path=path))
    assert dataset.columns == ("age", "job", "income is missing", "income", "since")
    parts = [dataset.codec.decode(part, np.random.default_rng(0)) for part in (
        dataset.train, dataset.untrained()
    )]  # fmt: skip
    assert [len(part) for part in parts] == [160, 40]
    back = pd.concat(parts).sort_values(list(people)).reset_index(drop=True)
    expected = people.sort_values(list(people)).reset_index(drop=True)
    pd.testing.assert_frame_equal(back, expected, check_dtype=False, rtol=1e-4)


def test_kinds_of_columns_are_given(tmp_path: Path) -> None:
    write_frame(tmp_path / "people.csv", _people(200))
    config = FileData(path=tmp_path / "people.csv", kinds={"age": "continuous"})
    assert config == FileData.model_validate_json(config.model_dump_json())
    assert config.model_dump(mode="json")["kinds"] == {"age": "continuous"}
    dataset = load_dataset(config)
    kinds = dataset.codec.describe().set_index("name")["kind"]
    assert kinds["age"] == "continuous"
    for kinds, words in (
        ({"job": "integer"}, "people.csv': column 'job' cannot be of kind 'integer'"),
        ({"jobs": "integer"}, "people.csv': there is no column 'jobs'"),
    ):
        with refused(words, DataError):
            load_dataset(config.model_copy(update={"kinds": tuple(kinds.items())}))
    with pytest.raises(ValidationError, match="kinds"):
        FileData(path=tmp_path / "people.csv", kinds={"age": "number"})


def test_toys_are_standardised_with_exact_moments() -> None:
    num = 20_000
    dataset = load_dataset(ToyData(toy="two-spirals", num_points=num), 0, 0)
    train = dataset.train.double()
    # A standardised mean has a standard error of 1 / sqrt(n); that of a standard deviation is
    # sqrt((kurtosis - 1) / 4n), and no coordinate here has a kurtosis above 3.
    assert float(train.mean(0).abs().max()) < 4.5 / num**0.5
    assert float((train.std(0) - 1).abs().max()) < 4.5 * (0.5 / num) ** 0.5
    assert dataset.train.dtype == torch.float32
    torch.testing.assert_close(dataset.density.std, torch.ones(2).double())


def test_divide_by_replaces_standardisation() -> None:
    dataset = load_dataset(ToyData(toy="swiss-roll", noise=0.2, divide_by=10), 0, 0)
    density = make_toy("swiss-roll", noise=0.2)
    assert dataset.standardizer.mean == (0.0, 0.0)
    assert dataset.standardizer.scale == (10.0, 10.0)
    torch.testing.assert_close(dataset.train.double().std(0), density.std / 10, rtol=0.02, atol=0)
    # facts of the notebook: standard deviations of 0.66 and 0.69
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
    with refused(r"points\.csv' has changed .* put the file back"):
        load_dataset(config, 0, 0)
    assert config.pinned() == config  # pinning again does not hide the change
    path.write_text(original)
    load_dataset(config, 0, 0)


def test_constant_columns_are_no_coordinates(tmp_path: Path) -> None:
    rows = _rows(12, dim=3)
    rows[:, 1:] = 5.0
    rows[3, 1] = 6.0  # a single row differs: in some split it is held out
    path = _csv(tmp_path, rows)
    for study_seed in range(12):
        dataset = load_dataset(FileData(path=path, holdout=0.5), study_seed, 0)
        assert dataset.columns == ("a", "b")
        together = torch.cat([dataset.train.double(), dataset.untrained()])
        assert (_in_data_units(dataset, together)[:, 2] == 5).all()
    _csv(tmp_path, np.full((12, 2), 5.0))
    with refused("points.csv': there is nothing to learn", DataError):
        load_dataset(FileData(path=path))


def test_the_smallest_file_can_be_trained_on_and_judged_with(tmp_path: Path) -> None:
    dataset = load_dataset(FileData(path=_csv(tmp_path, _rows(10))))
    process = get_process("cosine")
    denoiser = build_denoiser("mlp", dataset.dim, num_train_timesteps=1000, hidden=(8,))
    config = TrainingConfig(steps=3, batch_size=64)
    result = train(denoiser, process, dataset.train, config, seed=0, device="cpu")
    assert np.isfinite(result.losses).all()
    pair = dataset.fresh_pair(5_000, seeded())
    metrics = sample_metrics(*pair, np.random.default_rng(0))
    assert all(np.isfinite(value) for value in metrics.values())


def test_heldout_rows_are_noised_equally_often(tmp_path: Path) -> None:
    dataset = load_dataset(FileData(path=_csv(tmp_path, _rows(100)), holdout=0.5), 0, 0)
    points = dataset.points_to_noise(187, seeded())
    _, counts = torch.unique(points, dim=0, return_counts=True)
    assert len(counts) == len(dataset.heldout) == 50
    assert set(counts.tolist()) == {3, 4}
    # In random order: the timesteps, which go up, must not go along with the rows.
    assert not torch.equal(points[:50], dataset.heldout)


@given(num=st.integers(1, 60), seed=st.integers(0, 10))
def test_fresh_pairs_share_no_row(tmp_path_factory: pytest.TempPathFactory, num: int, seed: int):
    path = tmp_path_factory.mktemp("pairs") / "points.npy"
    np.save(path, _rows(50))
    dataset = load_dataset(FileData(path=path, holdout=0.5), 0, 0)
    first, second = dataset.fresh_pair(num, seeded(seed))
    assert len(first) == len(second) == min(num, 12)
    both = torch.cat([first, second])
    assert len(torch.unique(both, dim=0)) == len(both)
    untrained = set(map(tuple, dataset.untrained().tolist()))
    assert set(map(tuple, both.tolist())) <= untrained


def test_fresh_dataset_keeps_the_models_units_and_order_of_columns(tmp_path: Path) -> None:
    own = load_dataset(_csv(tmp_path, _rows(50)))
    shifted = 0.9 * _rows(50)[5:45] + np.array([0.3, -2.0])
    path = _csv(tmp_path, shifted, "other.csv")
    other = fresh_dataset(path, own.columns, own.codec, 0)
    assert other.name == "other"
    assert (other.standardizer, other.codec) == (own.standardizer, own.codec)
    np.testing.assert_allclose(
        _sorted(_in_data_units(other, other.untrained())), _sorted(shifted), rtol=0, atol=2e-5
    )
    table, turned = pd.read_csv(path), tmp_path / "turned.csv"
    table[table.columns[::-1]].to_csv(turned, index=False)
    reordered = fresh_dataset(turned, own.columns, own.codec, 0)
    torch.testing.assert_close(reordered.untrained(), other.untrained())
    # Names that a file has not are those of the model.
    np.save(tmp_path / "nameless.npy", shifted)
    nameless = fresh_dataset(tmp_path / "nameless.npy", own.columns, own.codec, 0)
    torch.testing.assert_close(nameless.untrained(), other.untrained())


def test_a_model_of_points_is_judged_in_its_own_units(tmp_path: Path) -> None:
    units = Standardizer((3.0, -20.0), (2.0, 0.1))
    rows = _rows(40)
    path = _csv(tmp_path, rows)
    other = fresh_dataset(path, ("b", "a"), units, 0)
    assert (other.standardizer, other.codec) == (units, None)
    expected = (rows[:, ::-1] - units.mean) / units.scale
    np.testing.assert_allclose(_sorted(other.untrained().numpy()), _sorted(expected))
    for frame, words in (
        (_people(20), "has 5 columns and the model was trained on 2"),
        (
            _people(20)[["age", "job"]].set_axis(["a", "b"], axis=1),
            "without a number in column 'b'",
        ),
        (_people(20)[["income", "age"]].set_axis(["a", "b"], axis=1), "a number in column 'a'"),
        (_people(20)[["age", "income"]], "has no column 'b'"),
    ):
        write_frame(path, frame)
        with refused(words, DataError):
            fresh_dataset(path, ("b", "a"), units, 0)


def test_few_rows_and_other_columns_are_refused(tmp_path: Path) -> None:
    own = load_dataset(FileData(path=_csv(tmp_path, _rows(50))))
    renamed = tmp_path / "renamed.csv"
    pd.DataFrame(_rows(40), columns=["weight", "b"]).to_csv(renamed, index=False)
    short, few = _csv(tmp_path, _rows(9), "short.csv"), r"short\.csv' has 9 rows; at least 10"
    with refused(few, DataError):
        load_dataset(FileData(path=short), 0, 0)
    for path, message in (
        (short, few),
        (_csv(tmp_path, _rows(50, dim=3), "wide.csv"), r"wide\.csv': column 'c' is new"),
        (_csv(tmp_path, _rows(50, dim=1), "narrow.csv"), r"narrow\.csv': column 'b' .* missing"),
        (renamed, "column 'weight' is new"),
    ):
        with refused(message, DataError):
            fresh_dataset(path, own.columns, own.codec, 0)


def test_names_are_toys_tables_or_files(tmp_path: Path) -> None:
    assert load_dataset("moons").oracle == "exact"
    assert load_dataset("iris").columns == load_dataset(TableData(table="iris")).columns
    assert data_from_name("moons") == ToyData(toy="moons")
    assert data_from_name("iris") == TableData(table="iris")
    assert data_from_name("wine", holdout=0.5) == TableData(table="wine", holdout=0.5)
    pinned = data_from_name(str(_csv(tmp_path, _rows(20))))
    assert isinstance(pinned, FileData)
    assert len(pinned.sha256) == 64
    assert pinned.name == "points"
    with refused(r"data set .* 'mons', did you mean 'moons'"):
        data_from_name("mons")
    with refused("did you mean 'breast-cancer'"):
        data_from_name("breast_cancer")
    with refused(r"there is no file 'missing\.csv'"):
        data_from_name("missing.csv")


@pytest.mark.parametrize(
    ("settings", "place", "message"),
    [
        ({"toy": "mons"}, ("toy",), "did you mean 'moons'"),
        ({"toy": "moons", "num_points": 0}, ("toy", "num_points"), "greater than or equal to 1"),
        ({"path": "p.csv", "holdout": 2}, ("file", "holdout"), "less than 1"),
        ({"path": "p.csv", "hold": 0.2}, ("file",), "did you mean 'holdout'"),
        ({"table": "irs"}, ("table",), "unknown table 'irs', did you mean 'iris'"),
        ({"table": "iris", "holdout": 0}, ("table", "holdout"), "greater than 0"),
        ({"table": "iris", "num_points": 5}, ("table",), "unknown key 'num_points'"),
        ({}, (), "one of the keys toy, path, table and pictures"),
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


@pytest.mark.parametrize(
    "data",
    [ToyData(toy="moons", noise=0.3), FileData(path=Path("p.csv")), TableData(table="diabetes")],
)
def test_settings_come_back_from_json(data: ToyData | FileData | TableData) -> None:
    adapter = TypeAdapter(DataConfig)
    assert adapter.validate_json(adapter.dump_json(data)) == data
    assert adapter.validate_python(data) is data
