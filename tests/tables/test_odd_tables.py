import numpy as np
import pandas as pd
import pytest

from helpers import refused
from kan_diffusion import DiffusionEstimator
from kan_diffusion.errors import DataError
from odd_tables import QUICK, QUICKLY_LEARNED, TABLES, require_learned_drawn_and_filled


def _random():
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", QUICKLY_LEARNED)
def test_odd_tables_are_learned_drawn_and_filled(name):
    require_learned_drawn_and_filled(TABLES[name]())


def test_given_cells_may_have_another_dtype_than_those_trained_on():
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


def test_a_merged_category_is_called_other_and_stays_where_it_was_given():
    letters = ["a"] * 30 + ["b"] * 20 + list("cdef")
    frame = pd.DataFrame({"k": pd.Categorical(letters), "x": _random().normal(size=54)})
    model = DiffusionEstimator("mlp", merge_below=5, **QUICK).fit(frame)
    rows = model.sample(like=pd.DataFrame({"k": pd.Categorical(["c", "a", None])}))
    assert rows["k"].tolist()[:2] == ["other", "a"]
    holes = pd.concat([frame, pd.DataFrame({"k": pd.Categorical([None] * 200, list("abcdef"))})])
    filled = model.impute(holes)["k"]
    assert filled.tolist()[:54] == letters
    assert set(filled[54:]) == {"a", "b", "other"}


def test_the_columns_of_an_array_may_be_named_by_text():
    points = _random().normal(size=(40, 2))
    model = DiffusionEstimator("mlp", **QUICK).fit(points)
    rows = model.sample(like=pd.DataFrame({"1": [0.5, np.nan]}))
    assert rows[0, 1] == 0.5
    holes = pd.DataFrame(points, columns=["0", "1"]).mask(_random().random((40, 2)) < 0.3)
    assert np.isfinite(model.impute(holes)).all()
    with refused("drawn for each of the 2 given, not 50"):
        model.sample(50, like=pd.DataFrame({"1": [0.5, 1.5]}))


def test_fewer_rows_come_where_almost_no_row_drawn_meets_the_conditions(caplog):
    frame = pd.DataFrame(_random().normal(size=(300, 2)), columns=["a", "b"])
    frame.loc[::4, "a"] = np.nan
    model = DiffusionEstimator("mlp", **QUICK).fit(frame)
    rows = model.sample(20, conditions={"a": [0.125, None], "b": (0.0, None)})
    assert rows["a"].isna().all()  # no number drawn is 0.125
    assert rows["b"].ge(0).all()
    assert len(rows) == 20
    rows = model.sample(20, conditions={"b": (4.0, None)})
    assert len(rows) < 20
    assert "rows come instead of 20" in caplog.text
    with refused("none of .* rows drawn meets the conditions on a", DataError):
        model.sample(20, conditions={"a": [0.125, 0.25]})
