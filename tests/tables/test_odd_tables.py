import numpy as np
import pandas as pd
import pytest

from helpers import refused
from kan_diffusion import DiffusionEstimator
from kan_diffusion.errors import DataError
from odd_tables import QUICK, QUICKLY_LEARNED, TABLES, require_learned_drawn_and_filled


def fitted(frame, **settings):
    return DiffusionEstimator("mlp", **QUICK, **settings).fit(frame)


@pytest.mark.parametrize("name", QUICKLY_LEARNED)
def test_odd_tables_are_learned_drawn_and_filled(name):
    require_learned_drawn_and_filled(TABLES[name]())


def test_given_cells_may_have_another_dtype_than_those_trained_on_and_stay():
    random = np.random.default_rng(0)
    days, when = pd.to_timedelta(random.integers(0, 300, 54), unit="D"), pd.Timestamp("2020-02-02")
    frame = pd.DataFrame(
        {
            "x": random.normal(size=54),
            "job": pd.Categorical(random.choice(list("abc"), 54), list("dcba")),
            "word": random.choice(["u", "v"], 54),
            "when": when + days,
            "there": when.tz_localize("Europe/Berlin") + days,
        }
    )
    model = fitted(frame)
    for name, cells, expected in (
        ("x", pd.array([1, None] * 27, dtype="Int64"), 1),
        ("x", np.array([0.5, np.nan] * 27, dtype=np.float32), 0.5),
        ("job", pd.Categorical(["a", None] * 27), "a"),
        ("word", pd.Categorical(["u", None] * 27), "u"),
        ("when", [when.tz_localize("UTC"), pd.NaT] * 27, when),
        ("there", [when, pd.NaT] * 27, when.tz_localize("UTC")),
    ):
        given = frame.assign(**{name: cells})
        for made in (model.impute(given)[name], model.sample(like=given[[name]])[name]):
            assert made.dtype == frame[name].dtype
            assert made.notna().all()
            assert (made[::2] == expected).all()


def test_the_columns_of_an_array_may_be_named_by_text():
    points = np.random.default_rng(0).normal(size=(40, 2))
    model, given = fitted(points), pd.DataFrame({"1": [0.5, np.nan]})
    assert model.sample(like=given)[0, 1] == 0.5
    assert np.isfinite(model.impute(given.assign(**{"0": [np.nan, 1.0]}))).all()
    with refused("drawn for each of the 2 given, not 50"):
        model.sample(50, like=given)


def test_fewer_rows_come_where_almost_no_row_drawn_meets_the_conditions(caplog):
    points = np.random.default_rng(0).normal(size=(300, 2))
    frame = pd.DataFrame(points, columns=["a", "b"])
    frame.loc[::4, "a"] = np.nan
    model = fitted(frame)
    rows = model.sample(20, conditions={"a": [0.125, None], "b": (0.0, None)})
    assert rows["a"].isna().all()  # no number drawn is 0.125
    assert rows["b"].ge(0).all()
    assert len(rows) == 20
    assert len(model.sample(20, conditions={"b": (4.0, None)})) < 20
    assert "rows come instead of 20" in caplog.text
    with refused("none of .* rows drawn meets the conditions on a", DataError):
        model.sample(20, conditions={"a": [0.125, 0.25]})
