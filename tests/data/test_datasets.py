import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from sklearn import datasets as sklearn_datasets

from helpers import refused, seeded
from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.frames import write_frame
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.sources import DataConfig, ToyData, data_from_name, load_dataset
from kan_diffusion.data.toys import make_toy
from kan_diffusion.errors import DataError
from kan_diffusion.tables.sources import FileData, TableData
from mixed_tables import people


def rows(num, dim=2):
    """Rows that are all different."""
    means, spreads = [3.0, -20.0, 0.5][:dim], [2.0, 0.1, 9.0][:dim]
    return np.random.default_rng(1).normal(means, spreads, (num, dim))


def csv_of(folder, points, name="points.csv"):
    header = ",".join("abc"[: points.shape[1]])
    np.savetxt(folder / name, points, delimiter=",", header=header, comments="", fmt="%.17g")
    return folder / name


def in_data_units(dataset, points):
    frame = dataset.codec.decode(points)
    return frame.to_numpy(dtype=np.float64)


def in_order(points):
    points = np.asarray(points)
    return points[np.lexsort(points.T)]


def training_rows(dataset):
    return set(map(tuple, in_data_units(dataset, dataset.train).round(4)))


@pytest.mark.parametrize(("num_rows", "holdout"), [(10, 0.01), (11, 0.99), (57, 0.2), (400, 0.5)])
def test_split_is_disjoint_and_complete(tmp_path, num_rows, holdout):
    points = rows(num_rows)
    dataset = load_dataset(FileData(path=csv_of(tmp_path, points), holdout=holdout), 0, 0)
    assert (dataset.name, dataset.oracle, dataset.columns) == ("points", "none", ("a", "b"))
    num_heldout = len(dataset.heldout)
    assert abs(num_heldout - holdout * num_rows) <= 0.5 or num_heldout in (4, num_rows - 2)
    together = torch.cat([dataset.train, dataset.heldout])
    # float32 rows come back to within rounding
    back = in_order(in_data_units(dataset, together))
    np.testing.assert_allclose(back, in_order(points), rtol=0, atol=2e-5)
    assert dataset.train.dtype == torch.float32
    assert dataset.standardizer == Standardizer((0.0,) * 2, (1.0,) * 2)
    if num_rows == 400:  # rows are encoded and need no further units
        assert float(together.mean(0).abs().max()) < 0.05
        assert float((together.std(0) - 1).abs().max()) < 0.1


def test_without_an_oracle_ten_seeds_are_ten_splits(tmp_path):
    config = FileData(path=csv_of(tmp_path, rows(60)), holdout=0.5)
    splits = [load_dataset(config, study_seed=0, trial_seed=seed) for seed in range(10)]
    assert all(split.oracle == "none" for split in splits)
    kept = [training_rows(split) for split in splits]
    assert len({frozenset(part) for part in kept}) == 10
    codecs = [split.codec.to_dict() for split in splits]
    assert codecs == [codecs[0]] * 10  # that of all rows
    # Rows are held out independently: no more often together than chance has it.
    common = [len(kept[i] & kept[j]) / len(kept[0]) for i in range(10) for j in range(i)]
    assert np.mean(common) == pytest.approx(0.5, abs=0.05)
    assert training_rows(load_dataset(config, 0, 3)) == kept[3]
    assert training_rows(load_dataset(config, 1, 3)) != kept[3]


LOADERS = {
    "iris": sklearn_datasets.load_iris,
    "wine": sklearn_datasets.load_wine,
    "breast-cancer": sklearn_datasets.load_breast_cancer,
    "diabetes": lambda: sklearn_datasets.load_diabetes(scaled=False),
}


@pytest.mark.parametrize("name", LOADERS)
def test_tables_are_scikit_learns(name):
    dataset = load_dataset(TableData(table=name, holdout=0.4), 0, 0)
    theirs = LOADERS[name]()
    kept = [place for place, column in enumerate(theirs.feature_names) if column != "sex"]
    assert dataset.columns == tuple(str(theirs.feature_names[place]) for place in kept)
    together = torch.cat([dataset.train.double(), dataset.heldout])
    ours, expected = in_data_units(dataset, together), theirs.data[:, kept]
    # Column by column and in their products, so that rows are whole.
    far = np.abs(np.sort(ours, axis=0) - np.sort(expected, axis=0)) / expected.std(axis=0)
    assert far.max() < 1e-5
    np.testing.assert_allclose(ours.T @ ours, expected.T @ expected, rtol=1e-5)
    assert len(dataset.heldout) == round(0.4 * len(expected))
    # Continuous: no column is a code of a few classes.
    assert all(len(np.unique(column)) > 20 for column in expected.T)


def held_out(num):
    """A data set with so many rows that are held out."""
    heldout = torch.from_numpy(rows(num))
    units = Standardizer.identity(2)
    return Dataset(name="t", columns=(), standardizer=units, train=heldout, heldout=heldout)


def test_heldout_rows_are_noised_equally_often():
    dataset = held_out(50)
    points, _ = dataset.to_noise(187, seeded())
    _, counts = torch.unique(points, dim=0, return_counts=True)
    assert set(counts.tolist()) == {3, 4}
    assert len(counts) == 50
    # In random order: the timesteps, which go up, must not go along with the rows.
    assert not torch.equal(points[:50], dataset.heldout)


@given(num=st.integers(1, 60), seed=st.integers(0, 10))
def test_fresh_pairs_share_no_row(num, seed):
    dataset = held_out(25)
    first, second = dataset.fresh_pair(num, seeded(seed))
    assert len(first) == len(second) == min(num, 12)
    both = torch.cat([first, second])
    assert len(torch.unique(both, dim=0)) == len(both)
    assert set(map(tuple, both.tolist())) <= set(map(tuple, dataset.heldout.tolist()))


def test_of_large_files_most_rows_are_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr("kan_diffusion.tables.sources.MOST_HELDOUT", 15)
    path = csv_of(tmp_path, rows(100))
    dataset = load_dataset(FileData(path=path, holdout=0.5))
    assert (len(dataset.train), len(dataset.heldout)) == (85, 15)
    assert len(FileData(path=path).for_rows(dataset.codec, 0).heldout) == 15


def mixed(num):
    """People, two of whom, at random places, are unlike all others."""
    random, frame = np.random.default_rng(3), people(num, 3).assign(planet="earth")
    frame.loc[random.integers(num), "job"] = "astronaut"
    frame.loc[random.integers(num), "age"] = 130
    return frame


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_people_come_back_as_they_were(tmp_path, ending):
    frame, path = mixed(200), tmp_path / f"people.{ending}"
    write_frame(path, frame)
    dataset = load_dataset(FileData(path=path))
    assert dataset.columns == (
        *("age", "job is missing", "job", "income", "since", "smokes"),
        *("score is missing", "score"),
    )
    assert len(dataset.train) == 160
    decoded = dataset.codec.decode(torch.cat([dataset.train, dataset.heldout]))
    back, expected = (
        each.sort_values(["income", "age"], ignore_index=True) for each in (decoded, frame)
    )
    pd.testing.assert_frame_equal(back, expected, check_dtype=False, rtol=1e-4, atol=1e-4)


def test_kinds_of_columns_are_given(tmp_path):
    write_frame(tmp_path / "people.csv", mixed(200))
    config = FileData(path=tmp_path / "people.csv", kinds={"age": "category"})
    assert config.model_dump(mode="json")["kinds"] == {"age": "category"}
    kinds = load_dataset(config).codec.describe().set_index("name")["kind"]
    assert kinds["age"] == "category"
    for kinds, words in (
        ({"job": "date"}, "people.csv': column 'job' cannot be of kind 'date'"),
        ({"jobs": "number"}, "people.csv': there is no column 'jobs'"),
    ):
        with refused(words, DataError):
            load_dataset(config.model_copy(update={"kinds": tuple(kinds.items())}))
    with pytest.raises(ValidationError, match="kinds"):
        FileData(path=tmp_path / "people.csv", kinds={"age": "integer"})


def test_toys_are_standardised_with_exact_moments_unless_divided():
    num = 20_000
    dataset = load_dataset(ToyData(toy="two-spirals", num_points=num), 0, 0)
    train = dataset.train.double()
    assert dataset.train.dtype == torch.float32
    # A standardised mean has a standard error of 1 / sqrt(n); that of a standard deviation is
    # sqrt((kurtosis - 1) / 4n), and no coordinate here has a kurtosis above 3.
    assert float(train.mean(0).abs().max()) < 4.5 / num**0.5
    assert float((train.std(0) - 1).abs().max()) < 4.5 * (0.5 / num) ** 0.5
    torch.testing.assert_close(dataset.density.std, torch.ones(2).double())
    divided = load_dataset(ToyData(toy="swiss-roll", noise=0.2, divide_by=10), 0, 0)
    assert divided.standardizer == Standardizer((0.0, 0.0), (10.0, 10.0))
    own = make_toy("swiss-roll", noise=0.2).std / 10
    torch.testing.assert_close(divided.train.double().std(0), own, rtol=0.02, atol=0)
    # facts of the notebook
    assert divided.density.std.tolist() == pytest.approx([0.66, 0.69], rel=0.02)


def test_toys_draw_anew_for_each_trial_and_study():
    config = ToyData(toy="moons", num_points=50)
    points, again, *others = (
        load_dataset(config, *seeds).train for seeds in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert torch.equal(points, again)
    assert not any(torch.isin(other, points).any() for other in others)


def test_changed_file_is_refused(tmp_path):
    path = csv_of(tmp_path, rows(30))
    config = FileData(path=path).pinned()
    load_dataset(config, 0, 0)
    original = path.read_text()
    path.write_text(original + "1.0,2.0\n")
    with refused(r"points\.csv' has changed .* put the file back"):
        load_dataset(config, 0, 0)
    assert config.pinned() == config  # pinning again does not hide the change
    path.write_text(original)
    load_dataset(config, 0, 0)


def test_constant_columns_are_no_coordinates(tmp_path):
    points = rows(12, dim=3)
    points[:, 1:] = 5.0
    points[3, 1] = 6.0  # a single row differs: in some split it is held out
    path = csv_of(tmp_path, points)
    for study_seed in range(12):
        dataset = load_dataset(FileData(path=path, holdout=0.5), study_seed, 0)
        assert dataset.columns == ("a", "b")
        together = torch.cat([dataset.train.double(), dataset.heldout])
        assert (in_data_units(dataset, together)[:, 2] == 5).all()
    csv_of(tmp_path, np.full((12, 2), 5.0))
    with refused("points.csv': there is nothing to learn", DataError):
        load_dataset(FileData(path=path))


def test_other_rows_keep_the_models_units_and_order_of_columns(tmp_path):
    own = load_dataset(csv_of(tmp_path, rows(50)))
    shifted = 0.9 * rows(50)[5:45] + np.array([0.3, -2.0])
    path = csv_of(tmp_path, shifted, "other.csv")
    other = FileData(path=path).for_rows(own.codec, 0)
    assert (other.name, other.standardizer, other.codec) == ("other", own.standardizer, own.codec)
    back = in_order(in_data_units(other, other.heldout))
    np.testing.assert_allclose(back, in_order(shifted), rtol=0, atol=2e-5)
    table, turned = pd.read_csv(path), tmp_path / "turned.csv"
    table[table.columns[::-1]].to_csv(turned, index=False)
    # Names that a file has not are those of the model.
    np.save(tmp_path / "nameless.npy", shifted)
    for same in (turned, tmp_path / "nameless.npy"):
        again = FileData(path=same).for_rows(own.codec, 0)
        torch.testing.assert_close(again.heldout, other.heldout)


@pytest.mark.parametrize("ending", ["csv", "parquet", "npy"])
def test_numbers_that_are_infinite_or_enormous_are_refused(tmp_path, ending):
    for number, shown in ((-np.inf, "-inf"), (1e301, "1e.301")):
        points = rows(20)
        points[-3, 0] = number
        path = tmp_path / f"points.{ending}"
        write_frame(path, pd.DataFrame(points, columns=["x", "y"]))
        words = rf"points\.{ending}': column '(x|column_1)' has {shown} in row {len(points) - 2},"
        with refused(words, DataError):
            data_from_name(str(path))


def test_few_rows_and_other_columns_are_refused(tmp_path):
    own = load_dataset(FileData(path=csv_of(tmp_path, rows(50))))
    few = r"short\.csv' has 9 rows; at least 10"
    with refused(few, DataError):
        load_dataset(csv_of(tmp_path, rows(9), "short.csv"))
    renamed = tmp_path / "renamed.csv"
    pd.DataFrame(rows(40), columns=["weight", "b"]).to_csv(renamed, index=False)
    for path, message in (
        (tmp_path / "short.csv", few),
        (csv_of(tmp_path, rows(50, 3), "wide.csv"), r"wide\.csv': column 'c' is new"),
        (csv_of(tmp_path, rows(50, 1), "narrow.csv"), r"narrow\.csv': column 'b' .* missing"),
        (renamed, "column 'weight' is new"),
    ):
        with refused(message, DataError):
            FileData(path=path).for_rows(own.codec, 0)


def test_names_are_toys_tables_or_files(tmp_path):
    assert load_dataset("moons").oracle == "exact"
    assert data_from_name("moons") == ToyData(toy="moons")
    assert data_from_name("wine", holdout=0.5) == TableData(table="wine", holdout=0.5)
    pinned = data_from_name(str(csv_of(tmp_path, rows(20))))
    assert isinstance(pinned, FileData)
    assert (len(pinned.sha256), pinned.name) == (64, "points")
    for name, words in (
        ("mons", r"data set .* 'mons', did you mean 'moons'"),
        ("breast_cancer", "did you mean 'breast-cancer'"),
        ("missing.csv", r"there is no file 'missing\.csv'"),
    ):
        with refused(words):
            data_from_name(name)


def test_wrong_settings_are_named():
    for settings, place, message in (
        ({"toy": "mons"}, (), "did you mean 'moons'"),
        ({"path": "p.csv", "holdout": 2}, ("holdout",), "less than 1"),
        ({"path": "p.csv", "hold": 0.2}, (), "did you mean 'holdout'"),
        ({"table": "irs"}, (), "unknown table 'irs', did you mean 'iris'"),
        ({"table": "iris", "num_points": 5}, (), "unknown key 'num_points'"),
        ({}, (), "one of the keys toy, table, pictures, path"),
    ):
        with pytest.raises(ValidationError) as caught:
            TypeAdapter(DataConfig).validate_python(settings)
        (error,) = caught.value.errors()
        assert error["loc"] == place
        assert message in error["msg"]
