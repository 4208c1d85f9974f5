from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import refused, seeded
from kan_diffusion.errors import DataError, KanDiffusionError
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.kinds import fit_column
from kan_diffusion.tables.pipeline import TableDiffusionPipeline
from kan_diffusion.tables.rules.base import Rows
from kan_diffusion.tables.rules.implied import Implied
from make import denoiser, process


def _orders(num=400):
    """Orders have an end after their start, prices add up, and fine numbers are in order."""
    rng = np.random.default_rng(0)
    start = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 300, num), unit="D")
    net, tax = rng.gamma(2, 50, num).round(2), rng.gamma(2, 9, num).round(2)
    first, least = rng.integers(0, 200, num), rng.normal(size=num)
    return pd.DataFrame(
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


def _places(num=600):
    """Cities imply a region, rain and a code, and their size nearly."""
    rng = np.random.default_rng(0)
    city = rng.integers(0, 12, num)
    region = np.array(["north", "east", "south", "west"])[city % 4]
    frame = pd.DataFrame(
        {
            "region": region,
            "city": [f"city {one}" for one in city],
            "rain": np.isin(region, ["north", "west"]),
            "code": 100 + 7 * city,
            "size": np.where(rng.random(num) < 0.01, "L", np.array(["S", "M"])[city % 2]),
            "x": rng.normal(size=num),
        }
    )
    frame.loc[rng.random(num) < 0.1, "region"] = None
    return frame


def _dates():
    """Three dates in their order."""
    days = np.sort(np.random.default_rng(0).integers(0, 900, (500, 3)), axis=1)
    return pd.DataFrame(days, columns=["a", "b", "c"]).apply(pd.to_datetime, unit="D")


ORDERS, PLACES = _orders(), _places()
FRAMES = {"orders": ORDERS, "places": PLACES, "dates": _dates()}
CODECS = {name: TableCodec.fit(frame) for name, frame in FRAMES.items()}


def _require_obeyed(frame):
    for low, high in (("start", "end"), ("first", "last"), ("least", "most"), *pairwise("abc")):
        if low in frame:
            known = frame[[low, high]].dropna()
            assert (known[low] <= known[high]).all()
    if "net" in frame:
        known = frame[["net", "tax", "gross"]].dropna().astype(float)
        np.testing.assert_allclose(known["net"] + known["tax"], known["gross"], atol=1e-9)
    for name in ("region", "rain", "code"):
        if name in frame:
            known = frame.dropna(subset=["city", name])
            truth = PLACES.dropna(subset=[name]).groupby("city")[name].first()
            assert (known[name].to_numpy() == truth[known["city"]].to_numpy()).all()


def _drawn(name, **given):
    """Rows of a model that has learned nothing."""
    network = denoiser("mlp", CODECS[name].dim, observable=True)
    pipeline = TableDiffusionPipeline(network, process(), CODECS[name])
    return pipeline.draw(generator=seeded(1), **given)


def test_what_always_holds_is_found_and_said_and_may_be_turned_off():
    always = {name: {*codec.always} for name, codec in CODECS.items()}
    assert always == {
        "orders": {"net+tax=gross", "first<=last", "least<=most", "start<=end"},
        "places": {"city->region", "city->rain", "city->code"},
        "dates": {"a<=b", "b<=c", "a<=c"},
    }
    many = _orders(800)
    gaps = many.mask(np.random.default_rng(1).random(many.shape) < 0.2)
    assert {*TableCodec.fit(gaps).always} == always["orders"]
    codec = TableCodec.fit(ORDERS, without=["start<=end", "net+tax=gross"])
    assert {*codec.always} == {"first<=last", "least<=most"}
    rows = codec.decode(torch.randn(300, codec.dim, generator=seeded()))
    assert (rows["start"] > rows["end"]).any()
    assert (rows["first"] <= rows["last"]).all()
    with refused("no rule 'start<end' holds in all rows; known: .*start<=end", DataError):
        TableCodec.fit(ORDERS, without=["start<end"])


def test_an_order_is_found_whatever_the_first_rows_have_and_by_all_digits():
    rng = np.random.default_rng(0)
    low = 2**60 + rng.integers(0, 500, 400)
    frame = pd.DataFrame({"low": low, "high": low + rng.integers(0, 300, 400)}).astype("Int64")
    for gaps in (0, 80):
        frame.loc[: gaps - 1, "low"] = None
        assert TableCodec.fit(frame).always == ("low<=high",)
        broken = frame.copy()
        broken.loc[300, "high"] = broken.loc[300, "low"] - 1  # the same in float64
        assert TableCodec.fit(broken).always == ()


def test_what_a_single_row_breaks_or_few_rows_show_or_chance_is_no_rule():
    broken = ORDERS.copy()
    broken.loc[77, ["end", "gross"]] = broken["start"].min() - pd.Timedelta("9D"), 0.25
    assert {*TableCodec.fit(broken).always} == {"first<=last", "least<=most"}
    gaps = ORDERS.copy()
    gaps.loc[199:, "end"] = pd.NaT
    assert "start<=end" not in TableCodec.fit(gaps).always
    rng = np.random.default_rng(1)
    chance = pd.DataFrame(
        {
            "age": rng.integers(18, 90, 1000),
            "income": rng.integers(10_000, 90_000, 1000),  # no age comes near
            "score": rng.normal(size=1000),
            "small": rng.uniform(0, 0.001, 1000),
            # Nearly every row has a name of its own.
            "name": [f"n{one}" for one in rng.integers(0, 900, 1000)],
            "rare": np.where(np.arange(1000) == 7, "yes", "no"),
        }
    )
    for frame in (ORDERS[:199], _places(30), chance.assign(again=chance["score"])):
        assert TableCodec.fit(frame).always == ()


@given(st.integers(0, 1000), st.sampled_from(sorted(CODECS)))
def test_whatever_is_decoded_obeys(seed, name):
    codec = CODECS[name]
    frame = codec.decode(3 * torch.randn(50, codec.dim, generator=seeded(seed)))
    _require_obeyed(frame)
    pd.testing.assert_series_equal(frame.dtypes, FRAMES[name].dtypes)
    if name == "orders":
        assert (frame["gross"] == frame["gross"].round(2)).all()
    elif name == "places":
        assert frame["region"].isna().any()


@pytest.mark.parametrize(
    ("name", "conditions"),
    [
        ("orders", {"end": pd.Timestamp("2020-03-01")}),
        ("orders", {"gross": 80.25}),
        ("orders", {"net": 10.5, "gross": 99.75}),
        ("orders", {"tax": 10.5, "last": 50}),
        ("orders", {"least": 0.123456789, "first": (10, 60)}),
        ("orders", {"most": 0.123456789}),
        ("places", {"region": "north"}),
        ("places", {"city": "city 7"}),
        ("places", {"rain": True, "region": "west"}),
        ("places", {"code": 107}),
        ("dates", {"b": FRAMES["dates"]["b"][5]}),
    ],
    ids=str,
)
def test_rows_obey_whatever_is_given(name, conditions):
    rows = _drawn(name, num_rows=200, conditions=conditions)
    _require_obeyed(rows)
    for column, cell in conditions.items():
        is_range = isinstance(cell, tuple)
        assert (rows[column].between(*cell) if is_range else rows[column] == cell).all()


@pytest.mark.parametrize("name", CODECS)
def test_gaps_are_filled_with_what_obeys(name):
    frame = FRAMES[name][:400]
    gaps = frame.mask(np.random.default_rng(3).random(frame.shape) < 0.5)
    known, filled = gaps.notna(), _drawn(name, like=gaps)
    _require_obeyed(filled)
    pd.testing.assert_frame_equal(
        filled.where(known).astype(object), gaps.where(known).astype(object)
    )


def test_cells_that_contradict_are_kept_as_given():
    for name, cells, follows in (
        ("orders", {"first": 90, "last": 10, "net": 5.5, "gross": 1.25}, ("tax", -4.25)),
        ("orders", {"net": 10.004, "tax": 33.337}, ("gross", 43.34)),  # as exact as its column
        ("places", {"city": "city 1", "region": "north"}, ("code", 107)),
    ):
        told = pd.DataFrame(cells, index=range(20))
        rows = _drawn(name, like=told)
        pd.testing.assert_frame_equal(rows[told.columns], told, check_dtype=False)
        assert (rows[follows[0]] == follows[1]).all()
    codec = CODECS["places"]
    coordinates = torch.randn(200, codec.dim, generator=seeded())
    free = codec.model_copy(update={"rules": ()}).decode(coordinates)
    pd.testing.assert_frame_equal(codec.decode(coordinates, free), free)


@given(st.data())
def test_the_nearest_category_that_agrees_is_taken(data):
    count, num, each = (data.draw(st.integers(2, 6)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    implied = rng.integers(0, 3, (each, count))
    codes = np.column_stack([rng.integers(0, count, num), rng.integers(0, 3, (num, each))])
    words = np.array(list("abcdef"))
    every = [*words[: max(count, 3)]] * 2
    frame = pd.DataFrame(words[codes]).astype(pd.CategoricalDtype([*words]))
    known = pd.DataFrame(dict.fromkeys(frame, every)).astype(frame.dtypes[0])
    columns = [fit_column(place, known[place]) for place in frame]
    rule = Implied(
        kind="implied",
        places=tuple(range(each + 1)),
        implied=tuple(
            tuple(follows.tolist()) + (-1,) * (max(count, 3) - count) for follows in implied
        ),
    )
    given = np.column_stack([np.zeros(num, dtype=bool), rng.random((num, each)) < 0.6])
    rows = Rows(columns, [column.read(frame[column.name]) for column in columns])
    rule.repair(rows, given)
    found = np.column_stack([rows.codes(place) for place in frame])
    for before, fixed, after in zip(codes, given[:, 1:], found, strict=True):
        agreeing = [
            other for other in range(count) if ((implied[:, other] == before[1:]) | ~fixed).all()
        ]
        if agreeing:
            assert after[0] in agreeing
            assert abs(after[0] - before[0]) == min(abs(other - before[0]) for other in agreeing)
        else:
            assert after[0] == before[0]
        assert (after[1:] == np.where(fixed, before[1:], implied[:, after[0]])).all()


def test_each_column_of_an_order_keeps_to_the_values_it_can_have():
    rng = np.random.default_rng(0)
    day = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 300, 900), unit="D")
    stop = day + pd.to_timedelta(rng.integers(0, 20_000, 900), unit="min")
    least = rng.choice([10, 30, 50], 900)
    frame = pd.DataFrame(
        {"start": day, "stop": stop, "least": least, "most": least + rng.integers(0, 40, 900)}
    )
    for columns in (["start", "stop", "least", "most"], ["most", "least", "stop", "start"]):
        codec = TableCodec.fit(frame[columns])
        assert {*codec.always} >= {"start<=stop", "least<=most"}
        drawn = codec.decode(2 * torch.randn(4000, codec.dim, generator=seeded()))
        assert (drawn["start"] <= drawn["stop"]).all()
        assert (drawn["least"] <= drawn["most"]).all()
        assert (drawn["start"] == drawn["start"].dt.normalize()).all()
        assert drawn["least"].isin([10, 30, 50]).all()


@pytest.mark.parametrize("dtype", ["int8", "Int8", "int8[pyarrow]", "uint64", "float32"])
def test_a_sum_keeps_within_its_dtype(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 60, (2, 900))
    if dtype == "float32":
        a, b = a + rng.random(900), b + rng.random(900)
    numpys = dtype.lower().split("[")[0]
    frame = pd.DataFrame({"a": a.astype(numpys), "b": b.astype(numpys)})
    frame = frame.assign(c=frame["a"] + frame["b"]).astype(dtype)
    codec = TableCodec.fit(frame)
    assert codec.always == ("a+b=c",)
    drawn = codec.decode(2 * torch.randn(500, codec.dim, generator=seeded()))
    assert drawn.dtypes.equals(frame.dtypes)
    total = drawn["a"].astype(float) + drawn["b"].astype(float)
    np.testing.assert_allclose(total, drawn["c"].astype(float), rtol=1e-6, atol=1e-5)
    assert (drawn["c"].astype(float) >= 0).all()
    if "int8" in dtype.lower():
        given = pd.DataFrame({"a": [100] * 5, "b": [100] * 5}).astype(dtype)
        with refused(
            "column 'c' would have to be 200, .* holds -128 to 127; give other", DataError
        ):
            codec.decode(torch.randn(5, codec.dim), given)


def test_rules_that_fit_no_column_are_refused():
    known = CODECS["places"].to_dict()["rules"][0]
    for name, rule in (
        *(("orders", {"kind": "order", "places": p}) for p in ([0, 9], [0, 0], [0, 1], [0, 3, 5])),
        *(("orders", {"kind": "total", "places": p}) for p in ([1, 4], [0, 1, 2], [1, 4, 9])),
        *(("places", known | {"places": p}) for p in ([9, 0, 2, 3], [5, 0, 2, 3], [1, 1, 2, 3])),
        *(("places", known | {"implied": implied}) for implied in ([[0]], [[12] * 12] * 3, [])),
        ("places", known | {"kind": "never"}),
    ):
        with refused("codec: ", KanDiffusionError):
            TableCodec.from_dict({**CODECS[name].to_dict(), "rules": [rule]})
