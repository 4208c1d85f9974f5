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
from kan_diffusion.tables.constraints import Rule, obeying
from kan_diffusion.tables.pipeline import TableDiffusionPipeline
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
    count, num, each = (data.draw(st.integers(1, 6)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    implied = rng.integers(0, 3, (each, count))
    rules = [
        Rule(columns=(0, 1 + place), implied=tuple(follows.tolist()))
        for place, follows in enumerate(implied)
    ]
    codes = np.column_stack([rng.integers(0, count, num), rng.integers(0, 3, (num, each))])
    given = np.column_stack([np.zeros(num, dtype=bool), rng.random((num, each)) < 0.6])
    found = obeying(codes, given, rules)
    for before, known, after in zip(codes, given[:, 1:], found, strict=True):
        agreeing = [
            other for other in range(count) if ((implied[:, other] == before[1:]) | ~known).all()
        ]
        if agreeing:
            assert after[0] in agreeing
            assert abs(after[0] - before[0]) == min(abs(other - before[0]) for other in agreeing)
        else:
            assert after[0] == before[0]
        assert (after[1:] == np.where(known, before[1:], implied[:, after[0]])).all()


def test_rules_that_fit_no_column_are_refused():
    known = CODECS["places"].to_dict()["rules"][0]
    for name, rule in (
        *(("orders", {"columns": c}) for c in ([0, 9], [0, 0], [0, 1], [0, 1, 2])),
        *(("places", known | {"columns": c}) for c in ([9, 0], [5, 0], [1, 1], [1, 0, 2])),
        *(("places", known | {"implied": implied}) for implied in ([0], [12] * 12)),
    ):
        with refused("codec: ", KanDiffusionError):
            TableCodec.from_dict({**CODECS[name].to_dict(), "rules": [rule]})
