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
from kan_diffusion.tables.rules.base import Broken, Rows
from kan_diffusion.tables.rules.together import Implied
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
    # What follows from two others has little to show.
    always = {name: {*codec.always} - {"a<=c"} for name, codec in CODECS.items()}
    assert always == {
        "orders": {"net+tax=gross", "first<=last", "least<=most", "start<=end"},
        "places": {"city->region", "city->rain", "city->code"},
        "dates": {"a<=b", "b<=c"},
    }
    assert {name: [*codec.mostly] for name, codec in CODECS.items() if codec.mostly} == {
        "places": ["city->size"]
    }
    assert "\n  net+tax=gross: always\n" in CODECS["orders"].summary("") + "\n"
    assert "\n  city->size: 99.00% of rows" in CODECS["places"].summary("")
    many = _orders(800)
    gaps = many.mask(np.random.default_rng(1).random(many.shape) < 0.2)
    assert {*TableCodec.fit(gaps).always} == always["orders"]
    codec = TableCodec.fit(ORDERS, without=["start<=end", "net+tax=gross"])
    assert {*codec.always} == {"first<=last", "least<=most", "net<=gross"}
    rows = codec.decode(torch.randn(300, codec.dim, generator=seeded()))
    assert (rows["start"] > rows["end"]).any()
    assert (rows["first"] <= rows["last"]).all()
    with refused("there is no rule 'start<end'; known: .*start<=end", DataError):
        TableCodec.fit(ORDERS, without=["start<end"])


def test_no_pair_of_fewer_than_five_rows_is_kept():
    rng = np.random.default_rng(0)
    city = rng.integers(0, 12, 600)
    frame = pd.DataFrame({"city": city, "region": city % 4})
    frame = pd.concat([frame, pd.DataFrame({"city": [12] * 6, "region": [0, 0, 1, 1, 2, 2]})])
    frame = ("city " + frame.astype(str)).sample(frac=1, random_state=0)
    (rule,) = TableCodec.fit(frame).rules
    assert rule.names(TableCodec.fit(frame).columns) == ["city->region"]
    assert len(rule.cells[0]) == 12


def test_combinations_exist_although_one_row_in_ten_has_a_rare_one():
    rng = np.random.default_rng(0)
    often = rng.lognormal(sigma=1.5, size=2000)
    pair = rng.choice(2000, 20_000, p=often / often.sum())
    number, carrier = rng.integers(1, 1500, 2000)[pair], rng.integers(0, 8, 2000)[pair]
    frame = pd.DataFrame({"number": number, "carrier": [f"carrier {one}" for one in carrier]})
    codec = TableCodec.fit(frame)
    assert 0.85 < codec.mostly["number&carrier"] < 0.95
    coordinates = torch.randn(5000, codec.dim, generator=seeded())
    coordinates[:, codec.names.index("number&carrier is kept")] = 1
    drawn = pd.MultiIndex.from_frame(codec.decode(coordinates))
    assert drawn.isin(pd.MultiIndex.from_frame(frame)).all()


@pytest.mark.parametrize("known", [(12, 6), (6, -6)], ids=["some", "others"])
def test_what_a_city_implies_holds_where_another_column_is_unknown(known):
    rng = np.random.default_rng(0)
    city = rng.integers(0, 12, 3000)
    frame = pd.DataFrame({"city": city, "region": city % 4, "zip": city // 2}).astype("str")
    frame["region"] = frame["region"].where(city < known[0])
    frame["zip"] = frame["zip"].where(city < known[1] if known[1] > 0 else city >= -known[1])
    codec = TableCodec.fit(frame)
    assert {*codec.always} >= {"city->region", "city->zip"}
    drawn = codec.decode(torch.randn(900, codec.dim, generator=seeded()))
    for name in ("region", "zip"):
        pairs = {*frame[["city", name]].dropna().itertuples(index=False, name=None)}
        implied = drawn[["city", name]].dropna()
        implied = implied[implied["city"].isin([city for city, _ in pairs])]
        assert {*implied.itertuples(index=False, name=None)} <= pairs
    assert TableCodec.from_dict(codec.to_dict()) == codec


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


def test_another_rule_takes_the_place_of_one_that_is_turned_off():
    rng = np.random.default_rng(0)
    b, c, f = rng.integers(0, 500, (3, 900))
    frame = pd.DataFrame({"b": b, "c": c, "d": b + c, "f": f, "e": b + c - f})
    first = TableCodec.fit(frame).always
    for name in first:
        codec = TableCodec.fit(frame, without=[name])
        assert name not in codec.always
        assert len(codec.always) >= len(first), name


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_dates_and_days_add_up_in_any_unit(unit):
    frame = PLANTED[["arrival", "nights", "leave", "start", "minutes", "end"]].copy()
    for name in ("arrival", "leave", "start", "end"):
        frame[name] = frame[name].astype(f"M8[{unit}]")
    frame["later"] = frame["start"] + pd.Timedelta("90min")
    codec = TableCodec.fit(frame)
    assert {*codec.always} >= {"arrival+nights=leave", "start+minutes/1440=end"}
    assert any("start" in name and "later" in name for name in codec.always)
    drawn = codec.decode(2 * torch.randn(900, codec.dim, generator=seeded()))
    assert (drawn["arrival"] + pd.to_timedelta(drawn["nights"], unit="D") == drawn["leave"]).all()
    assert (drawn["start"] + pd.to_timedelta(drawn["minutes"], unit="min") == drawn["end"]).all()
    assert (drawn["start"] + pd.Timedelta("90min") == drawn["later"]).all()


def test_what_a_single_row_breaks_or_few_rows_show_or_chance_is_no_rule():
    broken = ORDERS.copy()
    broken.loc[77, ["end", "gross"]] = broken["start"].min() - pd.Timedelta("9D"), 0.25
    codec = TableCodec.fit(broken)
    assert {*codec.always} == {"first<=last", "least<=most"}
    assert codec.mostly == {"net+tax=gross": 0.9975, "start<=end": 0.9975}
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
    for frame in (ORDERS[:199], _places(30), chance):
        assert TableCodec.fit(frame).rules == ()


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


def test_cells_that_contradict_are_kept_as_given_and_a_line_says_so(caplog):
    for name, cells, follows in (
        ("orders", {"first": 90, "last": 10, "net": 5.5, "gross": 1.25}, ("tax", -4.25)),
        ("orders", {"net": 10.004, "tax": 33.337}, ("gross", 43.34)),  # as exact as its column
        ("places", {"city": "city 1", "region": "north"}, ("code", 107)),
    ):
        given = pd.DataFrame(cells, index=range(20))
        rows = _drawn(name, like=given)
        pd.testing.assert_frame_equal(rows[given.columns], given, check_dtype=False)
        assert (rows[follows[0]] == follows[1]).all()
    assert "20 of 20 rows break city->code, city->region, city->rain, since their" in caplog.text
    codec = CODECS["places"]
    coordinates = torch.randn(200, codec.dim, generator=seeded())
    free = TableCodec.from_dict({**codec.to_dict(), "rules": []}).decode(coordinates[:, :-1])
    pd.testing.assert_frame_equal(codec.decode(coordinates, free), free)


@given(st.data())
def test_the_nearest_combination_with_what_is_given_is_taken(data):
    count, num, each = (data.draw(st.integers(2, 6)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    implied = rng.integers(0, 3, (count, each))
    table = np.column_stack([np.arange(count), implied])
    codes = np.column_stack([rng.integers(0, count, num), rng.integers(0, 3, (num, each))])
    words = np.array(list("abcdef"))
    frame = pd.DataFrame(words[codes]).astype(pd.CategoricalDtype([*words]))
    known = pd.DataFrame(dict.fromkeys(frame, [*words] * 2)).astype(frame.dtypes[0])
    columns = [fit_column(place, known[place]) for place in frame]
    places, cells = tuple(range(each + 1)), tuple(map(tuple, table.T.tolist()))
    rule = Implied(kind="implied", places=places, dependent=places[1:], cells=cells)
    stays = np.column_stack([np.zeros(num, dtype=bool), rng.random((num, each)) < 0.6])
    rows = Rows(columns, [column.read(frame[column.name]) for column in columns])
    broken = np.flatnonzero(~rule.holds(rows))
    assert {*broken} == {i for i, row in enumerate(codes.tolist()) if row not in table.tolist()}
    rule.untell(rows, Broken(broken, np.zeros((len(broken), 0)), stays[broken]))
    found = np.column_stack([columns[place].codes(*rows.cells[place]) for place in frame])
    for before, fixed, after in zip(codes, stays[:, 1:], found, strict=True):
        agreeing = np.flatnonzero(((implied == before[1:]) | ~fixed).all(axis=1))
        if len(agreeing):
            assert abs(after[0] - before[0]) == np.abs(agreeing - before[0]).min()
            assert (after[1:] == implied[after[0]]).all()
        assert (after[1:] == before[1:])[fixed].all()


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


def test_a_rule_with_exceptions_gives_way_where_a_dtype_has_no_room():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"q": rng.integers(0, 6, 800), "p": rng.integers(1, 90, 800)})
    frame["t"] = frame["q"] * frame["p"] + (np.arange(800) % 300 == 7)
    codec = TableCodec.fit(frame.astype({"q": "int8"}))
    assert codec.mostly == {"q*p=t": 0.9962}
    given = pd.DataFrame({"p": [2] * 60, "t": [9_000] * 60})  # 4,500 times
    drawn = codec.decode(torch.randn(60, codec.dim, generator=seeded()), given)
    assert (drawn[["p", "t"]] == given).all(axis=None)
    exact = TableCodec.fit(frame.assign(t=frame["q"] * frame["p"]).astype({"q": "int8"}))
    with refused(
        r"'q' would have to be 4500, since q\*p=t, and only 0, 1, .* are known", DataError
    ):
        exact.decode(torch.randn(60, exact.dim, generator=seeded()), given)


def test_an_order_is_found_across_the_largest_number_with_a_sign():
    rng = np.random.default_rng(0)
    low = rng.integers(2**63 - 10**6, 2**63 - 1, 500).astype("uint64")
    high = low + rng.integers(0, 10**6, 500).astype("uint64")
    codec = TableCodec.fit(pd.DataFrame({"low": low, "high": high}))
    assert codec.always == ("low<=high",)
    drawn = codec.decode(torch.randn(500, codec.dim, generator=seeded()))
    assert (drawn["low"] <= drawn["high"]).all()


def test_a_time_that_no_day_has_is_refused_in_words():
    rng = np.random.default_rng(0)
    opens, minutes = rng.integers(300, 600, 500), rng.integers(30, 600, 500)
    texts = (pd.Timestamp("2020") + pd.to_timedelta(opens, "min")).strftime("%H:%M")
    ends = (pd.Timestamp("2020") + pd.to_timedelta(opens + minutes, "min")).strftime("%H:%M")
    codec = TableCodec.fit(pd.DataFrame({"opens": texts, "minutes": minutes, "closes": ends}))
    given = pd.DataFrame({"opens": ["23:00"] * 5, "minutes": [300] * 5})
    with refused("'closes' would have to be 1 days 04:00:00, .* a day has 24 hours", DataError):
        codec.decode(torch.randn(5, codec.dim, generator=seeded()), given)


@pytest.mark.parametrize(
    ("low", "ends"),
    [
        (np.arange(500) * 7 % 499 // 2, (5000, -5)),
        (np.arange(500) * 7 % 499 / 3, (5000.5, -7.25)),
        (pd.date_range("2020", periods=500).to_series().array, ("2030-01-01", "1990-01-01")),
    ],
)
def test_an_order_holds_beside_a_given_cell_beyond_its_range(low, ends):
    gap = np.random.default_rng(0).integers(0, 60, 500)
    apart = pd.to_timedelta(gap, unit="D") if isinstance(ends[0], str) else gap
    frame = pd.DataFrame({"low": low, "high": low + apart})
    codec = TableCodec.fit(frame)
    assert codec.always == ("low<=high",)
    for name, end in zip(("low", "high"), ends, strict=True):
        given = pd.DataFrame({name: [end] * 50}).astype(frame.dtypes[name])
        drawn = codec.decode(torch.randn(50, codec.dim, generator=seeded()), given)
        assert (drawn["low"] <= drawn["high"]).all()
        assert (drawn[name] == given[name]).all()


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


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float64"])
def test_a_part_of_a_date_is_what_its_column_can_have(dtype):
    rng = np.random.default_rng(0)
    date = pd.Timestamp("2022-01-01") + pd.to_timedelta(rng.integers(0, 730, 900), unit="D")
    frame = pd.DataFrame({"date": date, "year": date.year.astype(dtype)})
    codec = TableCodec.fit(frame)
    assert "year of date=year" in codec.always
    drawn = codec.decode(3 * torch.randn(3000, codec.dim, generator=seeded()))
    assert drawn["year"].isin([2022, 2023]).all()
    assert (drawn["date"].dt.year == drawn["year"]).all()
    day = date[date.day_of_year <= 120]
    small = pd.DataFrame({"date": day, "day": day.day_of_year.astype("int8")})
    codec = TableCodec.fit(small)
    given = pd.DataFrame({"date": pd.DatetimeIndex(["2023-09-01"] * 5)})
    with refused("'day' would have to be 244, since day of year of date=day, and", DataError):
        codec.decode(torch.randn(5, codec.dim), given)


def test_a_difference_of_what_another_rule_tells_stays_within_its_dtype():
    rng = np.random.default_rng(0)
    b, t = rng.integers(1, 400, (2, 900))
    c = rng.integers(0, b + t + 1)
    frame = pd.DataFrame({"t": t, "b": b, "a": b + t, "c": c, "d": b + t - c}).astype("uint16")
    codec = TableCodec.fit(frame)
    content = codec.to_dict()
    content["rules"] = [
        {"kind": "linear", "places": [0, 1, 2], "weights": [1, 1, -1], "dependent": [0]},
        {"kind": "linear", "places": [2, 3, 4], "weights": [1, -1, -1], "dependent": [2]},
    ]
    codec = TableCodec.from_dict(content)
    drawn = codec.decode(3 * torch.randn(5000, codec.dim, generator=seeded())).astype(int)
    assert (drawn["t"] + drawn["b"] == drawn["a"]).all()


def _planted(num=3000):
    """Sums, offsets and factors of numbers and dates, and columns of chance between them."""
    rng = np.random.default_rng(0)
    net, tax = rng.gamma(2, 50, num).round(2), rng.gamma(2, 9, num).round(2)
    floors = [rng.integers(400, 2000, num), rng.integers(0, 900, num) * (rng.random(num) < 0.4)]
    cellar = rng.integers(50, 300, num) * (rng.random(num) < 0.03)
    celsius = rng.normal(15, 8, num).round(1)
    parts = rng.integers(0, 1000, (num, 5))
    nights, minutes = rng.integers(1, 9, num), rng.integers(20, 600, num)
    arrival = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 300, num), unit="D")
    start = pd.Timestamp("2021-01-01") + pd.to_timedelta(rng.integers(0, 10**5, num), unit="min")
    fine = rng.normal(size=(num, 2))
    price = rng.integers(1000, 9000, num) / 100
    city = rng.integers(0, 12, num)
    flight = rng.integers(0, 100, num)
    return pd.DataFrame({
        "net": net, "tax": tax, "gross": (net + tax).round(2),
        "first": floors[0], "second": floors[1], "cellar": cellar,
        "area": (sum(floors) + cellar).astype("int16"),
        "celsius": celsius, "kelvin": (celsius + 273.15).round(2),
        "fahrenheit": (1.8 * celsius + 32).round(2),
        **{f"part {i}": parts[:, i] for i in range(5)}, "all": parts.sum(axis=1),
        "arrival": arrival, "nights": nights, "leave": arrival + pd.to_timedelta(nights, unit="D"),
        "price": price, "total": (price * nights).round(2),
        "start": start, "minutes": minutes, "hour": start.hour, "weekday": start.day_of_week + 1,
        "end": start + pd.to_timedelta(minutes, unit="min"),
        "u": fine[:, 0], "v": fine[:, 1], "w": fine.sum(axis=1),
        "city": [f"city {one}" for one in city], "region": [f"region {one % 4}" for one in city],
        "carrier": [f"carrier {one % 7}" for one in flight], "flight": 3 * flight,
        "chance": rng.integers(0, 900, num), "any": rng.choice(list("pqrs"), num),
    })  # fmt: skip


PLANTED = _planted()
RELATED = {
    "net+tax=gross", "first+second+cellar=area", "celsius+273.15=kelvin",
    "1.8*celsius+32=fahrenheit", "part 0+part 1+part 2+part 3+part 4=all", "u+v=w",
    "arrival+nights=leave", "start+minutes/1440=end", "city->region", "flight->carrier",
    "nights*price=total", "hour of start=hour", "weekday of start+1=weekday",
}  # fmt: skip


def _rows(codec, frame):
    return Rows(codec.columns, [column.read(frame[column.name]) for column in codec.columns])


def test_relations_are_found_and_kept_exactly():
    codec = TableCodec.fit(PLANTED)
    assert ({*codec.always}, codec.mostly) == (RELATED, {})
    assert TableCodec.from_dict(codec.to_dict()) == codec
    coordinates = 2 * torch.randn(20_000, codec.dim, generator=seeded())
    rows = PLANTED.sample(20_000, replace=True, random_state=0, ignore_index=True)
    some = rows.where(np.random.default_rng(1).random(rows.shape) < 0.4)
    for known in (None, some):
        drawn = codec.decode(coordinates, known)
        for rule in codec.rules:
            assert rule.holds(_rows(codec, drawn)).all(), rule.names(codec.columns)
    shuffled = PLANTED.apply(
        lambda cells: np.random.default_rng([*cells.name.encode()]).permutation(cells)
    )
    assert TableCodec.fit(shuffled).rules == ()


@pytest.mark.parametrize("share", [0.001, 0.005])
def test_relations_with_exceptions_come_back_with_these(share):
    rng = np.random.default_rng(1)
    frame = pd.concat([PLANTED] * 2, ignore_index=True)
    for name in frame:
        odd = rng.random(len(frame)) < share
        frame.loc[odd, name] = rng.permutation(frame[name])[odd]
    gaps = frame.mask(rng.random(frame.shape) < 0.03)
    for rows in (frame, gaps):
        codec = TableCodec.fit(rows)
        assert {*codec.mostly} | {*codec.always} == RELATED
        assert min(codec.mostly.values()) > 0.99 - 6 * share
        back = codec.decode(codec.encode(rows, rng))
        # A last day that fewer than five rows have comes back as the day before.
        back, rows = back.drop(columns="leave"), rows.drop(columns="leave")
        pd.testing.assert_frame_equal(back, rows.astype(back.dtypes), atol=1e-4, rtol=1e-5)


def test_given_cells_of_relations_stay_and_the_others_follow():
    codec = TableCodec.fit(PLANTED)
    rows = torch.randn(300, codec.dim, generator=seeded())
    for cells in (
        {"gross": 80.25},
        {"gross": 80.25, "net": 50.5},
        {"area": 1500, "first": 900},
        {"fahrenheit": 50.0},
        {"leave": pd.Timestamp("2020-03-01")},
        {"leave": pd.Timestamp("2020-03-01"), "nights": 3},
        {"all": 2500, "part 4": 10, "part 2": 500},
        {"region": "region 2"},
        {"total": 123.45},
        {"hour": 13, "weekday": 2},
        {"end": pd.Timestamp("2021-02-03 04:05")},
    ):
        given = pd.DataFrame(cells, index=range(300))
        drawn = codec.decode(rows, given)
        pd.testing.assert_frame_equal(drawn[[*cells]], given.astype(drawn[[*cells]].dtypes))
        for rule in codec.rules:
            assert rule.holds(_rows(codec, drawn)).all(), (cells, rule.names(codec.columns))
    network = denoiser("mlp", codec.dim, observable=True)
    pipeline = TableDiffusionPipeline(network, process(), codec)
    with refused("no row has net = 1.*: net.tax=gross holds in all rows; give", DataError):
        pipeline.draw(5, conditions={"net": 1.0, "tax": 2.0, "gross": 4.0})
    with refused("no row has gross = 9.0, .*: net.tax=gross holds in all rows; give", DataError):
        pipeline.draw(5, conditions={"gross": 9.0, "net": 8.0, "tax": 0.5})


def _bill(num=3000):
    """Items have a price, which times their number is a total that says much of the item."""
    rng = np.random.default_rng(0)
    place, number = rng.integers(0, 8, num), rng.integers(1, 9, num)
    price = np.array([3.5, 5.5, 7.5, 11.5, 13.5, 17.5, 19.5, 23.5])[place]
    items = np.array([*"abcdefgh"])[place]
    return pd.DataFrame({"item": items, "price": price, "number": number, "total": price * number})


def _tree(num=1500):
    """Three sums: two are of one whole, and a part of it has parts of its own."""
    rng = np.random.default_rng(0)
    mine = np.where(rng.random(num) < 0.6, 0, rng.integers(0, 1000, num))
    yours = rng.integers(0, 40, num)
    whole = mine + yours
    spent = np.where(rng.random(num) < 0.5, 0, rng.binomial(whole, 0.3))
    left = whole - spent
    half = rng.binomial(left, 0.5)
    return pd.DataFrame({
        "whole": whole, "spent": spent, "left": left, "mine": mine, "yours": yours, "half": half,
        "rest": left - half,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("frame", "rules"),
    [
        (_bill(), {"item->price", "price*number=total", "total&item"}),
        (_tree(), {"spent+left=whole", "mine+yours=whole", "half+rest=left"}),
    ],
    ids=["bill", "tree"],
)
def test_rules_that_share_columns_are_kept_together(frame, rules):
    codec = TableCodec.fit(frame)
    assert {*codec.always, *codec.mostly} >= rules
    rows = frame.sample(5000, replace=True, random_state=1, ignore_index=True)
    some = rows.where(np.random.default_rng(9).random(rows.shape) < 0.4)
    coordinates = torch.randn(5000, codec.dim, generator=seeded())
    for known in (None, some):
        drawn = codec.decode(coordinates, known)
        for rule in codec.rules:
            if rule.kept == 1:
                assert rule.holds(_rows(codec, drawn)).all(), rule.names(codec.columns)
    assert ((drawn == some) | some.isna()).all(axis=None)


def test_hours_are_those_of_all_their_dates_and_of_wall_times_that_there_are():
    rng = np.random.default_rng(0)
    minutes = pd.to_timedelta(rng.integers(0, 20_000, 3000), unit="min")
    start = (pd.Timestamp("2024-03-25", tz="UTC") + minutes).tz_convert("Europe/Berlin")
    other = pd.Timestamp("2025-01-01") + pd.to_timedelta(rng.integers(0, 300, 3000), unit="D")
    seen = other + pd.to_timedelta(60 * start.hour + rng.integers(0, 60, 3000), unit="min")
    codec = TableCodec.fit(pd.DataFrame({"start": start, "hour": start.hour, "seen": seen}))
    assert {"hour of start=hour", "hour of seen=hour"} <= {*codec.always}
    drawn = codec.decode(torch.randn(20_000, codec.dim, generator=seeded()))
    assert (drawn["start"].dt.hour == drawn["hour"]).all()
    assert (drawn["seen"].dt.hour == drawn["hour"]).all()


def test_times_of_day_and_weekdays_come_back_where_they_matter():
    rng = np.random.default_rng(0)
    days = rng.integers(0, 700, 9000)
    days = days[(days % 7 < 5) | (rng.random(9000) < 0.2)][:5000]
    minutes = np.where(rng.random(5000) < 0.6, 540 + 15 * rng.integers(0, 20, 5000), 0)
    minutes += (minutes == 0) * rng.integers(360, 1320, 5000)
    first = pd.Timestamp("2019-01-07")  # a Monday
    frame = pd.DataFrame({
        "at": first + pd.to_timedelta(1440 * days + minutes, unit="min"),
        "even": first + pd.to_timedelta(rng.integers(0, 10**6, 5000), unit="min"),
    })  # fmt: skip
    codec = TableCodec.fit(frame)
    assert codec.always == ("weekday of at", "time of day of at")
    rows = codec.encode(frame, rng)
    pd.testing.assert_frame_equal(codec.decode(rows), frame)
    assert TableCodec.from_dict(codec.to_dict()) == codec
    drawn = codec.decode(torch.randn(50_000, codec.dim, generator=seeded()))["at"]
    for part in ("hour", "day_of_week"):
        shares = (getattr(at.dt, part).value_counts(normalize=True) for at in (frame["at"], drawn))
        assert next(shares).sub(next(shares), fill_value=0).abs().max() < 0.02
    assert drawn.dt.minute.isin([0, 15, 30, 45]).mean() > 0.6
    pd.testing.assert_frame_equal(codec.decode(rows.flip(0), frame), frame)
    assert TableCodec.fit(frame, without=codec.always).rules == ()


def test_rules_that_fit_no_column_are_refused():
    known = next(r for r in CODECS["places"].to_dict()["rules"] if r["kind"] == "implied")
    linear = {"kind": "linear", "weights": [1, 1, -1]}
    for name, rule in (
        *(("orders", {"kind": "order", "places": p}) for p in ([0, 9], [0, 0], [0, 1], [0, 3, 5])),
        *(("orders", linear | {"places": p}) for p in ([1, 4], [0, 1, 9], [1, 4, 90], [1, 1, 4])),
        *(("orders", linear | {"places": [1, 4, 2]} | odd) for odd in (
            {"weights": [1, 0, -1]}, {"weights": [1, 2**61, -1]}, {"weights": [1, 2**59, -1]},
            {"total": 0.5}, {"dependent": [0]},
        )),
        *(("places", known | {"places": p}) for p in ([9, 0, 2, 3], [5, 0, 2, 3], [1, 1, 2, 3])),
        *(("places", known | {"cells": cells}) for cells in ([[0]], [[12] * 12] * 3, [])),
        ("places", known | {"kind": "never"}),
    ):  # fmt: skip
        with refused("codec: ", KanDiffusionError):
            TableCodec.from_dict({**CODECS[name].to_dict(), "rules": [rule]})
    order = {"kind": "order", "places": [0, 3]}
    wide = known | {"cells": [[0] * 50_000] * len(known["places"])}
    for name, rules in (("orders", [order] * 1001), ("places", [wide] * 21)):
        with refused("codec: .*(1000 items|may list 1,000,000)", KanDiffusionError):
            TableCodec.from_dict({**CODECS[name].to_dict(), "rules": rules})


def test_cells_of_rules_that_a_dtype_does_not_hold_are_refused():
    frame = PLACES[["city", "code"]].assign(code=PLACES["code"] // 7).astype({"code": "int8"})
    content = TableCodec.fit(frame).to_dict()
    (rule,) = content["rules"]
    rule["cells"] = [rule["cells"][0], [300, *rule["cells"][1][1:]]]
    with refused("codec: .*the rule 'implied' of 1, 0|0, 1 does not fit", KanDiffusionError):
        TableCodec.from_dict(content)
