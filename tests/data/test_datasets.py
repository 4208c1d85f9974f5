from itertools import combinations, product
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
from kan_diffusion.data import sources
from kan_diffusion.data.datasets import Dataset, split
from kan_diffusion.data.frames import write_frame
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.sources import (
    SOURCES,
    DataConfig,
    data_from_name,
    known_data,
    load_dataset,
)
from kan_diffusion.data.toys import ToyData
from kan_diffusion.errors import DataError
from kan_diffusion.study.named import study_for
from kan_diffusion.tables import sources as table_sources
from kan_diffusion.tables.sources import FileData, TableData
from mixed_tables import people

ROWS = np.random.default_rng(1).normal([3.0, -20.0], [2.0, 0.1], (50, 2))


def csv_of(folder, points, name="points.csv"):
    write_frame(folder / name, pd.DataFrame(points, columns=list("abc")[: points.shape[1]]))
    return folder / name


def decoded(dataset):
    """All rows of a data set, in the data's own units."""
    return dataset.codec.decode(torch.cat([dataset.train.double(), dataset.heldout]))


@given(st.integers(6, 300), st.floats(0.01, 0.99), st.integers(0, 9), st.integers(4, 100))
def test_a_split_is_disjoint_and_complete_and_holds_out_its_share(count, share, seed, most):
    train, heldout = split(count, share, 0, seed, most)
    assert sorted([*train.tolist(), *heldout.tolist()]) == list(range(count))
    assert 4 <= len(heldout) <= min(most, count - 2)
    assert abs(len(heldout) - share * count) <= 0.5 or len(heldout) in (4, count - 2, most)


def test_ten_seeds_are_ten_independent_splits():
    kept = [{*split(60, 0.5, *seeds)[0].tolist()} for seeds in product(range(2), range(5))]
    # Samples are held out independently: no more often together than chance has it.
    common = [len(one & other) / 30 for one, other in combinations(kept, 2)]
    assert max(common) < 1
    assert np.mean(common) == pytest.approx(0.5, abs=0.05)


def test_rows_of_a_file_come_back_from_all_splits_in_the_same_coordinates(tmp_path):
    frame = people(200, 3).assign(planet="earth")
    # Two people are unlike all others: in some split they are held out.
    frame.loc[17, "job"], frame.loc[91, "age"] = "astronaut", 130
    write_frame(tmp_path / "people.csv", frame)
    config = FileData(path=tmp_path / "people.csv", holdout=0.4, kinds={"smokes": "category"})
    assert config.model_dump(mode="json")["kinds"] == {"smokes": "category"}
    expected = frame.astype({"smokes": str})
    first, other, again = (load_dataset(config, 0, seed) for seed in (0, 1, 0))
    assert torch.equal(first.train, again.train)
    assert not torch.equal(first.train, other.train)
    both = [torch.cat([each.train.double(), each.heldout]) for each in (first, other)]
    assert torch.equal(*(points.sort(dim=0).values for points in both))
    for seed, each in enumerate((first, other)):
        assert (each.name, each.oracle) == ("people", "none")
        assert (len(each.train), len(each.heldout), each.train.dtype) == (120, 80, torch.float32)
        assert (each.codec, each.columns) == (first.codec, first.codec.names)  # that of all rows
        assert each.standardizer == Standardizer.identity(each.dim)
        rows = expected.iloc[torch.cat(config.split(len(frame), 0, seed)).numpy()]
        back = decoded(each).set_axis(rows.index)
        pd.testing.assert_frame_equal(back, rows, check_dtype=False, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["iris", "wine", "breast-cancer", "diabetes"])
def test_tables_are_scikit_learns(name):
    settings = {"scaled": False} if name == "diabetes" else {}
    load = getattr(sklearn_datasets, f"load_{name.replace('-', '_')}")
    dataset, theirs = load_dataset(TableData(table=name)), load(as_frame=True, **settings).data
    names = [column for column in theirs if column != "sex"]
    assert dataset.columns == tuple(names)
    assert len(dataset.heldout) == round(0.3 * len(theirs))
    ours, expected = decoded(dataset).to_numpy(float), theirs[names].to_numpy(float)
    # Column by column and in their products, so that rows are whole.
    far = np.abs(np.sort(ours, axis=0) - np.sort(expected, axis=0)) / expected.std(axis=0)
    assert far.max() < 1e-5
    np.testing.assert_allclose(ours.T @ ours, expected.T @ expected, rtol=1e-5)


@given(num=st.integers(1, 60), seed=st.integers(0, 10))
def test_rows_are_held_out_for_noise_equally_often_and_for_fresh_pairs_once(num, seed):
    own, unit = torch.from_numpy(ROWS[:25]), Standardizer.identity(2)
    dataset = Dataset(name="t", columns=(), standardizer=unit, train=own, heldout=own)
    points, places = dataset.to_noise(num, seeded(seed))
    assert torch.equal(points, own[places])
    counts = torch.bincount(places, minlength=25)
    assert counts.max() - counts.min() <= 1
    # In random order: the timesteps, which go up, must not go along with the rows.
    assert num < 10 or not torch.equal(places, torch.arange(num) % 25)
    pair = dataset.fresh_pair(num, seeded(seed))
    assert len(pair[0]) == len(pair[1]) == min(num, 12)
    both = {*map(tuple, torch.cat(pair).tolist())}
    assert len(both) == 2 * len(pair[0])
    assert both <= {*map(tuple, own.tolist())}


def test_toys_are_drawn_anew_and_standardised_with_exact_moments_unless_divided():
    num = 20_000
    config = ToyData(toy="two-spirals", num_points=num)
    dataset = load_dataset(config, 0, 0)
    train = dataset.train.double()
    # A standardised mean has a standard error of 1 / sqrt(n); that of a standard deviation is
    # sqrt((kurtosis - 1) / 4n), and no coordinate here has a kurtosis above 3.
    assert float(train.mean(0).abs().max()) < 4.5 / num**0.5
    assert float((train.std(0) - 1).abs().max()) < 4.5 * (0.5 / num) ** 0.5
    torch.testing.assert_close(dataset.density.std, torch.ones(2).double())
    assert torch.equal(load_dataset(config, 0, 0).train, dataset.train)
    for seeds in ((0, 1), (1, 0)):
        assert torch.isin(load_dataset(config, *seeds).train, dataset.train).float().mean() < 0.01
    divided = load_dataset(ToyData(toy="swiss-roll", noise=0.2, divide_by=10), 0, 0)
    assert divided.standardizer == Standardizer((0.0, 0.0), (10.0, 10.0))
    for std in (divided.density.std, divided.train.std(0)):  # facts of the notebook
        assert std.tolist() == pytest.approx([0.66, 0.69], rel=0.02)


def test_changed_file_is_refused(tmp_path):
    path = csv_of(tmp_path, ROWS[:30])
    config = FileData(path=path).pinned()
    load_dataset(config, 0, 0)
    csv_of(tmp_path, ROWS[:31])
    with refused(r"points\.csv' has changed .* put it back"):
        load_dataset(config, 0, 0)
    assert config.pinned() == config  # pinning again does not hide the change


def test_a_file_is_read_once_for_whatever_asks_until_it_changes(tmp_path, monkeypatch):
    reads, read = [], table_sources.read_table
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        table_sources, "read_table", lambda path, *told: reads.append(path) or read(path, *told)
    )
    csv_of(tmp_path, ROWS[:40], "once.csv")
    source = data_from_name("once.csv")
    datasets = [source.load(), source.load(1), source.for_study().load()]
    assert len(source.content()[0]) == len(datasets[0].train) + len(datasets[0].heldout) == 40
    assert "once, 40 rows" in source.describe()
    assert len(reads) == 1
    csv_of(tmp_path, ROWS[:41], "once.csv")
    assert len(FileData(path=Path("once.csv")).content()[0]) == 41


def test_other_rows_keep_the_models_units_and_order_of_columns(tmp_path, monkeypatch):
    own = load_dataset(csv_of(tmp_path, ROWS))
    shifted = 0.9 * ROWS[5:45] + np.array([0.3, -2.0])
    path = csv_of(tmp_path, shifted, "other.csv")
    other = FileData(path=path).for_rows(own.codec, 0)
    assert (other.name, other.standardizer, other.codec) == ("other", own.standardizer, own.codec)
    back = decoded(other).sort_values("a")
    np.testing.assert_allclose(back, shifted[shifted[:, 0].argsort()], rtol=0, atol=2e-5)
    write_frame(tmp_path / "turned.csv", pd.DataFrame(shifted[:, ::-1], columns=["b", "a"]))
    np.save(tmp_path / "nameless.npy", shifted)  # the names are those of the model
    for name in ("turned.csv", "nameless.npy"):
        again = FileData(path=tmp_path / name).for_rows(own.codec, 0)
        torch.testing.assert_close(again.heldout, other.heldout)
    monkeypatch.setattr("kan_diffusion.tables.sources.MOST_HELDOUT", 15)
    assert len(FileData(path=path).for_rows(own.codec, 0).heldout) == 15
    assert len(load_dataset(FileData(path=path, holdout=0.5)).train) == 25


def test_files_that_cannot_be_used_are_refused_by_name(tmp_path):
    own = load_dataset(csv_of(tmp_path, ROWS)).codec
    enormous = np.append(ROWS[:17], [[1e301, 0.0]], axis=0)
    for points, kinds, words in (
        (np.full((12, 2), 5.0), {}, ": there is nothing to learn"),
        (enormous, {}, r": column 'a' has 1e\+301 in row 18,"),
        (ROWS[:9], {}, " has 9 rows; at least 10"),
        (ROWS[:20], {"a": "date"}, ": column 'a' cannot be of kind 'date'"),
        (ROWS[:9], None, " has 9 rows; at least 10"),
        (np.c_[ROWS, ROWS[:, 0]], None, ": column 'c' is new"),
        (ROWS[:, :1], None, ": column 'b' .* missing"),
    ):
        config = FileData(path=csv_of(tmp_path, points), kinds=kinds or {})
        with refused(f"points.csv'{words}", DataError):
            load_dataset(config) if kinds is not None else config.for_rows(own, 0)


def test_names_are_toys_tables_or_files(tmp_path):
    assert load_dataset("moons").oracle == "exact"
    assert data_from_name("moons") == ToyData(toy="moons")
    assert data_from_name("wine", holdout=0.5) == TableData(table="wine", holdout=0.5)
    pinned = data_from_name(str(csv_of(tmp_path, ROWS[:20])))
    assert (type(pinned), len(pinned.sha256), pinned.name) == (FileData, 64, "points")
    for name, settings, words in (
        ("mons", {}, r"data set .* 'mons', did you mean 'moons'"),
        ("missing.csv", {}, r"there is no file 'missing\.csv'"),
        ("n" * 101 + ".csv", {}, "at most 100 characters"),
        ("moons", {"mode": "L", "size": 8}, "'moons' takes no mode and no size; leave them out"),
        ("digits", {"kinds": {"a": "number"}}, "'digits' takes no kinds; leave it out"),
        ("p.csv", {"holdout": 2}, "holdout = 2: .* less than 1"),
        (
            "p.csv",
            {"kinds": {"age": "integer"}},
            "kinds.age = 'integer': unknown kind .*known: category",
        ),
    ):
        with refused(words):
            data_from_name(name, **settings)
    with pytest.raises(ValidationError, match="one of the keys toy, table, pictures, path"):
        TypeAdapter(DataConfig).validate_python({})


def test_a_wing_that_was_taken_off_is_missed_by_its_own_data_alone(monkeypatch, tmp_path):
    places = {**SOURCES, "pictures": "kan_diffusion.no_wing.sources:PictureData"}
    monkeypatch.setattr(sources, "SOURCES", places)
    assert {"moons", "iris"} <= set(known_data())
    assert "digits" not in known_data()
    assert data_from_name("moons").name == "moons"
    with refused("unknown data set"):
        data_from_name("digits")
    assert [data.name for data in study_for("moons").data] == ["moons"]
    with pytest.raises(ValidationError, match=r"need .kan_diffusion\.no_wing\.sources., which"):
        TypeAdapter(DataConfig).validate_python({"pictures": "digits"})
    (tmp_path / "half_a_wing.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(places, "path", "half_a_wing:FileData")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):  # that one is there
        known_data()
