"""Tables that other generators stumble over go in, and rows with the same schema come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest

from command_line import few_trees
from kan_diffusion import DiffusionEstimator
from kan_diffusion.errors import KanDiffusionError

QUICK = {"params": 3000, "steps": 30, "batch_size": 64, "device": "cpu", "random_state": 0}


@pytest.fixture(autouse=True)
def hardly_judged() -> Iterator[None]:
    """Nothing here asks how well a model fits."""
    with few_trees():
        yield


def _random() -> np.random.Generator:
    return np.random.default_rng(0)


def _thousand_categories() -> pd.DataFrame:
    codes = _random().integers(0, 1000, 3000)
    return pd.DataFrame({"code": [f"c{code}" for code in codes], "x": codes * 0.1})


def _two_hundred_columns() -> pd.DataFrame:
    values = _random().normal(size=(100, 200)) * 10.0 ** np.arange(-100, 100)
    return pd.DataFrame(values, columns=[f"column {place}" for place in range(200)])


def _hundred_bits() -> pd.DataFrame:
    return pd.DataFrame(_random().integers(0, 2, (200, 100)))


def _thirty_rows() -> pd.DataFrame:
    random = _random()
    return pd.DataFrame({"a": random.normal(size=30), "b": random.choice(["x", "y"], 30)})


def _all_categories() -> pd.DataFrame:
    random = _random()
    frame = pd.DataFrame({"a": random.choice(list("abcde"), 90), "b": random.choice([3, 9], 90)})
    return frame.assign(c=pd.Categorical(frame["a"].str.upper(), list("EDCBA"), ordered=True))


def _digits_as_names() -> pd.DataFrame:
    digits = (_random().integers(0, 40, 200) + 10).astype(str)
    frame = pd.DataFrame({"code": pd.Categorical(digits), "zip": digits + "00"})
    return frame.assign(day=pd.Categorical("2024-01-" + pd.Series(digits).str[:1] + "1"))


def _one_column() -> pd.DataFrame:
    return pd.DataFrame({"only": _random().exponential(size=80)})


def _strange_names() -> pd.DataFrame:
    words = ["naïve, yes", 'say "no"', "日本", "", " a\nb"]
    frame = pd.DataFrame({"größe, cm": _random().normal(170, 9, 60)})
    return frame.assign(**{'"quoted"': (words * 12), "🙂": np.arange(60) % 7})


def _duplicates() -> pd.DataFrame:
    return pd.DataFrame({"a": [1.5, 2.5] * 40, "b": ["u", "v"] * 40})


def _one_value_beside_gaps() -> pd.DataFrame:
    some = [None, "yes"] * 30
    numbers = pd.array([7 if p % 3 else None for p in range(60)], dtype="Int64")
    return pd.DataFrame({"a": some, "b": numbers, "c": np.nan, "d": np.arange(60) * 0.37 % 1})


def _many_gaps() -> pd.DataFrame:
    frame = pd.DataFrame(_random().normal(size=(100, 5)), columns=list("abcde"))
    return frame.mask(_random().random(frame.shape) < 0.9)


def _heavy_tails() -> pd.DataFrame:
    random = _random()
    return pd.DataFrame(
        {"cauchy": random.standard_cauchy(500), "power": random.pareto(0.3, 500)}
    ).assign(spike=lambda f: np.where(f["power"] > 1, f["cauchy"], 0.0))


def _clocks() -> pd.DataFrame:
    hours = pd.to_timedelta(_random().integers(0, 9000, 120), unit="h")
    zone = pd.Timestamp("2023-03-01", tz="Europe/Paris") + hours
    return pd.DataFrame({"when": zone, "took": hours, "day": zone.tz_localize(None).normalize()})


@pytest.mark.parametrize(
    "make",
    [
        _thousand_categories,
        _two_hundred_columns,
        _hundred_bits,
        _thirty_rows,
        _all_categories,
        _digits_as_names,
        _one_column,
        _strange_names,
        _duplicates,
        _one_value_beside_gaps,
        _many_gaps,
        _heavy_tails,
        _clocks,
    ],
)
def test_odd_tables_are_learned_drawn_and_filled(make: Callable[[], pd.DataFrame]) -> None:
    frame = make()
    model = DiffusionEstimator(**QUICK).fit(frame)
    rows = model.sample(150)
    assert isinstance(rows, pd.DataFrame)
    assert rows.columns.equals(frame.columns)
    assert rows.dtypes.equals(frame.dtypes)
    for name in frame.columns:
        drawn, known = rows[name].dropna(), frame[name].dropna()
        if pd.api.types.is_float_dtype(frame[name].dtype):
            assert np.isfinite(drawn).all()
        if frame[name].dtype == object or isinstance(frame[name].dtype, pd.CategoricalDtype):
            assert set(drawn) <= set(known)
        if frame[name].notna().all():
            assert rows[name].notna().all()
    holes = frame.mask(_random().random(frame.shape) < 0.2)
    filled = model.impute(holes)
    assert isinstance(filled, pd.DataFrame)
    learned = [name for name in frame.columns if frame[name].notna().any()]
    assert filled[learned].notna().all().all()
    for name in frame.columns:
        there = holes[name].notna()
        assert filled.loc[there, name].tolist() == frame.loc[there, name].tolist()


def test_given_cells_may_have_another_dtype_than_those_trained_on() -> None:
    random, days = _random(), pd.to_timedelta(_random().integers(0, 300, 40), unit="D")
    frame = pd.DataFrame(
        {
            "x": random.normal(size=40),
            "job": pd.Categorical(random.choice(list("abc"), 40), list("dcba")),
            "word": random.choice(["u", "v"], 40),
            "when": pd.Timestamp("2020-01-01") + days,
            "there": pd.Timestamp("2020-01-01", tz="Europe/Berlin") + days,
        }
    )
    model = DiffusionEstimator("mlp", **QUICK).fit(frame)
    for name, cells in (
        ("x", pd.array([1, None] * 20, dtype="Int64")),
        ("x", np.array([0.5, np.nan] * 20, dtype=np.float32)),
        ("job", pd.Categorical(["a", None] * 20)),
        ("word", pd.Categorical(["u", None] * 20)),
        ("when", [pd.Timestamp("2020-02-02", tz="UTC"), pd.NaT] * 20),
        ("there", [pd.Timestamp("2020-02-02"), pd.NaT] * 20),
    ):
        given = frame.assign(**{name: cells})
        for made in (model.impute(given), model.sample(like=given[[name]])):
            assert made[name].dtype == frame[name].dtype
            assert made[name].notna().all()
            kept = made[name][::2]
            if name in ("when", "there"):
                kept = pd.to_datetime(kept, utc=True)
                assert (kept == pd.Timestamp("2020-02-02", tz="UTC")).all()
            else:
                assert (kept == cells[0]).all()


def test_a_merged_category_is_called_other_and_stays_where_it_was_given() -> None:
    letters = ["a"] * 30 + ["b"] * 20 + list("cdef")
    frame = pd.DataFrame({"k": pd.Categorical(letters), "x": _random().normal(size=54)})
    model = DiffusionEstimator("mlp", merge_below=5, **QUICK).fit(frame)
    rows = model.sample(like=pd.DataFrame({"k": pd.Categorical(["c", "a", None])}))
    assert rows["k"].tolist()[:2] == ["other", "a"]
    holes = pd.concat([frame, pd.DataFrame({"k": pd.Categorical([None] * 200, list("abcdef"))})])
    filled = model.impute(holes)["k"]
    assert filled.tolist()[:54] == letters
    assert set(filled[54:]) == {"a", "b", "other"}


def test_the_columns_of_an_array_may_be_named_by_text() -> None:
    points = _random().normal(size=(40, 2))
    model = DiffusionEstimator("mlp", **QUICK).fit(points)
    rows = model.sample(like=pd.DataFrame({"1": [0.5, np.nan]}))
    assert rows[0, 1] == 0.5
    holes = pd.DataFrame(points, columns=["0", "1"]).mask(_random().random((40, 2)) < 0.3)
    assert np.isfinite(model.impute(holes)).all()
    with pytest.raises(KanDiffusionError, match="drawn for each of the 2 given, not 50"):
        model.sample(50, like=pd.DataFrame({"1": [0.5, 1.5]}))


def test_a_gap_that_is_often_there_is_no_extrapolation(caplog: pytest.LogCaptureFixture) -> None:
    frame = pd.DataFrame({"a": _random().normal(size=300), "b": ["x", "y", None] * 100})
    frame["c"] = frame["a"].where(frame["a"] > 0, 0.0)
    settings = QUICK | {"steps": 300}
    model = DiffusionEstimator("mlp", **settings).fit(frame)
    caplog.clear()
    assert model.sample(20, conditions={"b": None, "c": 0.0})["b"].isna().all()
    assert not caplog.records


def test_a_value_or_a_gap_is_what_comes_where_no_row_drawn_meets_the_rest() -> None:
    frame = pd.DataFrame(_random().normal(size=(300, 2)), columns=["a", "b"])
    frame.loc[::4, "a"] = np.nan
    model = DiffusionEstimator("mlp", **QUICK).fit(frame)
    rows = model.sample(20, conditions={"a": [0.125, None], "b": (50.0, 51.0)})
    assert (rows["a"].isna() | (rows["a"] == 0.125)).all()
    assert rows["b"].between(50, 51).all()


def test_a_network_that_cannot_be_told_says_so() -> None:
    frame = _thirty_rows()
    model = DiffusionEstimator("mlp", **QUICK).fit(frame)
    model.pipeline_.denoiser.blocks = ()
    with pytest.raises(KanDiffusionError, match="trained without conditions"):
        model.sample(3, conditions={"b": "x"})
