import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import refused, seeded
from kan_diffusion import DiffusionEstimator
from kan_diffusion.errors import DataError, KanDiffusionError
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.pipeline import TableDiffusionPipeline
from make import denoiser, process
from odd_tables import QUICK

RULES = ("net+tax=gross", "first<=last", "least<=most", "start<=end")


def _orders(num=400, gaps=False):
    """Orders have an end after their start, prices add up, and `fine` numbers are in order."""
    rng = np.random.default_rng(0)
    start = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 300, num), unit="D")
    net, tax = rng.gamma(2, 50, num).round(2), rng.gamma(2, 9, num).round(2)
    first, least = rng.integers(0, 200, num), rng.normal(size=num)
    frame = pd.DataFrame(
        {
            "start": start,
            "net": net,
            "gross": (net + tax).round(2),
            "end": start + pd.to_timedelta(rng.integers(0, 200, num), unit="D"),
            "tax": tax,
            "first": first,
            "last": first + rng.integers(0, 90, num),
            "least": least,
            "most": least + rng.exponential(size=num),
            "city": rng.choice(list("abc"), num),
        }
    )
    return frame.mask(rng.random(frame.shape) < 0.2) if gaps else frame


def _require_obeyed(frame):
    for low, high in (("start", "end"), ("first", "last"), ("least", "most")):
        known = frame[[low, high]].dropna()
        assert (known[low] <= known[high]).all()
    known = frame[["net", "tax", "gross"]].dropna().astype(float)
    np.testing.assert_allclose(known["net"] + known["tax"], known["gross"], atol=1e-9)


def _pipeline(codec):
    """A model that has learned nothing."""
    network = denoiser("mlp", codec.dim, observable=True)
    return TableDiffusionPipeline(network, process(), codec)


ORDERS = _orders()
CODEC = TableCodec.fit(ORDERS)


def test_what_always_holds_is_found_and_said():
    assert set(CODEC.always) == set(RULES)
    assert set(TableCodec.fit(_orders(800, gaps=True)).always) == set(RULES)


def test_what_a_single_row_breaks_or_few_rows_show_is_no_rule():
    broken = ORDERS.copy()
    broken.loc[77, ["end", "gross"]] = broken["start"].min() - pd.Timedelta("9D"), 0.25
    assert set(TableCodec.fit(broken).always) == {"first<=last", "least<=most"}
    assert TableCodec.fit(ORDERS[:199]).always == ()
    gaps = ORDERS.copy()
    gaps.loc[199:, "end"] = pd.NaT
    assert "start<=end" not in TableCodec.fit(gaps).always


def test_what_could_not_be_otherwise_is_no_rule():
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 90, 500),
            "income": rng.integers(10_000, 90_000, 500),  # no age comes near
            "score": rng.normal(size=500),
            "again": np.zeros(500),
            "small": rng.uniform(0, 0.001, 500),
        }
    )
    frame["again"] = frame["score"]
    assert TableCodec.fit(frame).always == ()


@given(st.integers(0, 1000))
def test_whatever_is_decoded_obeys(seed):
    rows = 3 * torch.randn(50, CODEC.dim, generator=seeded(seed))
    frame = CODEC.decode(rows)
    _require_obeyed(frame)
    pd.testing.assert_series_equal(frame.dtypes, ORDERS.dtypes)
    assert (frame["gross"] == frame["gross"].round(2)).all()
    again = TableCodec.from_dict(CODEC.to_dict())
    pd.testing.assert_frame_equal(again.decode(rows), frame)


@pytest.mark.parametrize(
    "conditions",
    [
        {"end": pd.Timestamp("2020-03-01")},
        {"gross": 80.25},
        {"net": 10.5, "gross": 99.75},
        {"tax": 10.5, "last": 50},
        {"least": 0.123456789, "first": (10, 60)},
        {"most": 0.123456789},
    ],
    ids=str,
)
def test_rows_obey_whatever_is_given(conditions):
    rows = _pipeline(CODEC).draw(200, conditions=conditions, generator=seeded(1))
    _require_obeyed(rows)
    for name, cell in conditions.items():
        assert (rows[name].between(*cell) if isinstance(cell, tuple) else rows[name] == cell).all()


def test_gaps_are_filled_with_what_obeys():
    gaps = ORDERS.mask(np.random.default_rng(3).random(ORDERS.shape) < 0.5)
    known = gaps.notna()
    (filled,) = _pipeline(CODEC).impute(gaps, generator=seeded())
    _require_obeyed(filled)
    pd.testing.assert_frame_equal(
        filled.where(known).astype(object), gaps.where(known).astype(object)
    )


def test_cells_that_contradict_are_kept_as_given():
    told = pd.DataFrame({"first": [90] * 20, "last": [10] * 20, "net": 5.5, "gross": 1.25})
    rows = _pipeline(CODEC).draw(like=told, generator=seeded(1))
    pd.testing.assert_frame_equal(rows[told.columns], told)
    assert (rows["tax"] == -4.25).all()


def test_three_dates_come_in_their_order():
    rng = np.random.default_rng(0)
    days = np.sort(rng.integers(0, 900, (500, 3)), axis=1)
    frame = pd.DataFrame(days, columns=["a", "b", "c"]).apply(pd.to_datetime, unit="D")
    codec = TableCodec.fit(frame)
    assert set(codec.always) == {"a<=b", "b<=c", "a<=c"}
    drawn = _pipeline(codec).draw(300, conditions={"b": frame["b"][5]}, generator=seeded())
    for rows in (codec.decode(torch.randn(300, 3, generator=seeded())), drawn):
        assert (rows["a"] <= rows["b"]).all()
        assert (rows["b"] <= rows["c"]).all()


def test_rules_are_turned_off_by_name():
    model = DiffusionEstimator("mlp", without=["start<=end", "net+tax=gross"], **QUICK).fit(ORDERS)
    assert set(model.codec_.always) == {"first<=last", "least<=most"}
    rows = model.sample(300)
    assert (rows["start"] > rows["end"]).any()
    assert (rows["first"] <= rows["last"]).all()
    with refused("no rule 'start<end' holds in all rows; known: .*start<=end", DataError):
        TableCodec.fit(ORDERS, without=["start<end"])


def test_rules_that_fit_no_column_are_refused():
    for columns in ([0, 9], [0, 77], [0, 0], [0, 1], [0, 1, 2]):
        with refused("codec: ", KanDiffusionError):
            TableCodec.from_dict({**CODEC.to_dict(), "rules": [{"columns": columns}]})
