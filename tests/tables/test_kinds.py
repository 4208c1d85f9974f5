import numpy as np
import pandas as pd
import pytest
import torch

from helpers import refused
from kan_diffusion.errors import DataError
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.conditions import read_conditions
from kan_diffusion.tables.kinds import fit_column

N = 400


def _rng():
    return np.random.default_rng(0)


def _column(values, kind=""):
    return fit_column("a", pd.Series(values), kind)


def _decoded(column, cells):
    return column.restore(*column.decode(cells))


def _drawn(column, num=4000):
    rng = _rng()
    cells = rng.normal(size=(num, len(column.coordinates)))
    cells[:, : int(column.has_gaps)] = -1
    return _decoded(column, cells)


DAYS = pd.Series(pd.Timestamp("2021-03-01") + pd.to_timedelta(_rng().integers(0, 900, N), unit="D"))
MOSTLY_ZERO = np.where(_rng().random(N) < 0.7, 0, _rng().gamma(2, 30, N))


def test_kinds_are_found():
    letters, moments = _rng().choice(["x", "y", "z"], N), ["2020-01-01", "2021-02-03"]
    for values, kind in (
        (_rng().normal(size=N), "number"),
        (pd.to_timedelta(range(50), unit="min"), "number"),
        (_rng().integers(0, 400, N), "number"),
        (_rng().integers(-40, 400, N).astype(float), "number"),
        (MOSTLY_ZERO, "number"),
        (range(1960, 2021), "number"),  # years
        ([None, *range(1, 50)], "identifier"),  # as pandas reads whole numbers with a gap
        (_rng().permutation(600)[:N] + 10_000, "identifier"),  # with holes
        (_rng().choice(10**6, N, replace=False), "number"),  # unique by chance
        ([f"Ann {i}" for i in range(N - 1)] + ["Ann 0"], "identifier"),  # nearly unique
        (_rng().integers(0, 2, N), "category"),
        (_rng().random(N) < 0.5, "category"),
        (letters, "category"),
        ([str(10_115 + k % 50) for k in range(200)], "category"),  # text is no number
        ([f"{1 + k % 28}/2021" for k in range(200)], "category"),
        (pd.Categorical([1, 2, 2, 3]), "category"),
        (pd.Categorical(letters, ordered=True), "category"),
        (DAYS, "date"),
        ([f"{1 + k % 28:02d}.11.2021" for k in range(200)], "date"),
        (np.array(list(map(np.datetime64, moments)), object), "date"),
        (np.full(N, 7), "constant"),
        (["x", None, "x"], "constant"),
        ([np.nan, 2.5, 2.5], "constant"),
        ([f"P-{i:04d}" for i in range(N)], "identifier"),
        (range(5, 5 + N), "identifier"),
        (range(-N, 0), "number"),  # whose sign new identifiers would lose
    ):
        assert _column(values).kind == kind, values
    assert _column(["29.02.2024", "01.03.2024"] * 9, "category").kind == "category"


def test_a_kind_that_does_not_fit_is_refused():
    for values, kind, words in (
        (["x", "y"], "number", "'a' cannot be of kind 'number': it holds text; by itself it is"),
        ([1, 2, 3], "constant", "it has 3 different values"),
        ([1, 2, 3], "date", "it holds numbers"),
        ([0.5, 2], "identifier", "it holds numbers"),
        ([-1, -2], "identifier", "it holds numbers below 0"),
        (pd.Categorical(["x", "y", "z"]), "identifier", "without room for new values"),
    ):
        with refused(words, DataError):
            _column(values, kind)
    with refused("holds 'May 4' in row 2, which is not written as %Y-%m-%d; correct", DataError):
        _column(["2024-05-03", "May 4"], "date:%Y-%m-%d")
    for kinds, words in (
        ({"b": "number"}, "no column 'b' .*known: a"),
        ({"a": "integer"}, "unknown kind 'integer'.*known: category, constant"),
        ({"a": "date:%Q"}, "'date:%Q' is no kind; a format is that of a date"),
        ({"a": "number:%d"}, "'number:%d' is no kind"),
    ):
        with refused(words):
            TableCodec.fit(pd.DataFrame({"a": [1, 2]}), kinds)


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["$1,234.50", "$20.00", "-$3.10"], [1234.5, 20, -3.1]),
        (["20.4%", "-3%", None], [20.4, -3, np.nan]),
        (["12 kg", "1,004 kg", "7 kg"], [12, 1004, 7]),
        (["12kg", "14kg", "7kg"], [12, 14, 7]),
        (["1.234,50 €", "9,00 €", "(0,25 €)"], [1234.5, 9, -0.25]),
        (["1.234 €", "999 €", "-2.000 €"], [1234, 999, -2000]),
        (["1.234 m", "2.999 m", "0.125 m"], [1.234, 2.999, 0.125]),
        (["R$ -5,5", "R$ 12,0", "R$ 1,5"], [-5.5, 12, 1.5]),
        (["1\u202f234 F", "12 F", "5 F"], [1234, 12, 5]),
        (["1'234.5", "12.0", "-1'000.5"], [1234.5, 12, -1000.5]),
        (["52,000", "61,500", "999"], [52_000, 61_500, 999]),
        (["-12 °C", "3.5 °C", "20 °C"], [-12, 3.5, 20]),
        (["+5%", "-3%", "0%"], [5, -3, 0]),
        (["+$5.50", "-$3.20", "+$1,000.00"], [5.5, -3.2, 1000]),
        # Codes, numbers without a unit, and what could not be written as it was.
        (["A12", "A13", "A14"], None),
        (["12A", "13A", "14A"], None),
        (["#7", "#8", "#9"], None),
        (["007 kg", "012 kg", "100 kg"], "kg"),
        (["CUST-012", "CUST-013", "CUST-014"], None),
        (["12", "13", "14"], None),
        (["1,5", "2,7", "3,9"], None),
        (["1.5", "2.75", "3"], None),
        (["+5%", "-3%", "4%"], "%"),
        (["+1", "+2", "-3"], None),
        (["52.4,13.1", "52.5,13.2", "52.6,13.3"], None),
        (["412 345", "512 345", "612 345"], None),
        (["12 kg", "13 g", "14 kg"], None),
        (["12 kg ", "13 kg", "14 kg"], "kg"),
        (["13.50%", "13%", "2.25%"], "%"),
        (["1e3 kg", "12 kg", "4 kg"], None),
        (pd.Categorical(["12 kg", "13 kg", "14 kg"]), None),
    ],
)
def test_amounts_in_text_are_numbers_and_come_back_as_they_were(caplog, cells, values):
    cells = pd.Series(cells, name="a")
    column = fit_column("a", cells)
    if isinstance(values, list):
        read, missing = column.read(cells)
        np.testing.assert_array_equal(np.where(missing, np.nan, read), values)
        pd.testing.assert_series_equal(column.restore(read, missing), cells, check_names=False)
        assert not caplog.records
    else:
        assert column.storage.holds == "text"
        assert (f"amounts with '{values}' are" in caplog.text) == bool(values)
        assert len(caplog.records) == bool(values)
    caplog.clear()
    assert fit_column("a", cells, "category").storage.holds == "text"
    assert not caplog.records


def test_amounts_are_drawn_and_asked_for_as_they_are_written():
    size = _rng().normal(2e3, 900, 300).round(2)
    frame = pd.DataFrame({"price": [f"${x:,.2f}".replace("$-", "-$") for x in size]})
    frame["tax"] = [f"{x:.1f}%" for x in _rng().choice([7.5, 10.0, 19.0], 300)]
    codec = TableCodec.fit(frame)
    assert [column.kind for column in codec.columns] == ["number", "number"]
    assert "price: number, -$800.00 to $4,800.00" in codec.summary("")
    drawn = codec.decode(torch.randn(500, codec.dim, generator=torch.manual_seed(0)))
    assert drawn["price"].str.fullmatch(r"-?\$[0-9]{1,3}(,[0-9]{3})?\.[0-9]{2}").all()
    assert {*drawn["tax"]} == {"7.5%", "10.0%", "19.0%"}
    for given, lowest in (("$1,500", 1500), ("1500.5", 1500.5), (1500, 1500)):
        (condition,) = read_conditions({"price": (given, None)}, codec).values()
        assert condition.ends == (lowest, None)
    (condition,) = read_conditions({"tax": ["10%", 19]}, codec).values()
    np.testing.assert_array_equal(condition.holds(drawn["tax"]), drawn["tax"] != "7.5%")
    with refused("column 'price' holds numbers, not 'abc'; give one such as", DataError):
        read_conditions({"price": "abc"}, codec)
    with refused("holds '5 kg' in row 2, which is not written as .1,234.50", DataError):
        codec.encode(pd.DataFrame({"price": ["$1.00", "5 kg"]}), some=True)


def test_numbers_and_dates_come_in_the_steps_of_the_column_and_never_across_zero():
    for moments, of in (
        (DAYS, "D"),
        (DAYS.dt.to_period("M").dt.to_timestamp(), "M"),
        (DAYS + pd.to_timedelta(_rng().integers(0, 24, N), unit="h"), "h"),
        (DAYS.dt.tz_localize("Europe/Berlin"), "D"),
    ):
        drawn = _drawn(_column(moments))
        assert drawn.dtype == moments.dtype
        wall = drawn.dt.tz_localize(None)
        assert (wall.dt.to_period(of).dt.to_timestamp() == wall).all()
        assert drawn.nunique() > 20
    for values in (_rng().poisson(0.7, N), _rng().exponential(size=N) ** 2, MOSTLY_ZERO):
        for sign in (1, -1):
            assert (sign * _drawn(_column(sign * values), 100_000)).min() >= 0
    for values, step in (
        (_rng().integers(1, 900, N) * 25, 25),
        (_rng().integers(1, 900, N) * 0.5, 0.5),
        (np.round(_rng().gamma(2, 30, N), 2), 0.01),
        (np.round(_rng().gamma(2, 30, N), 1).astype("float32"), 0.1),
    ):
        drawn = _drawn(_column(values))
        assert drawn.dtype == values.dtype
        np.testing.assert_allclose(drawn / step, np.round(drawn / step), atol=1e-4)
        assert drawn.min() >= 0
        assert drawn.max() < 2.1 * values.max()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_number_is_zero_where_all_are_above_it_or_all_below(sign, dtype):
    rng = np.random.default_rng(0)
    values = pd.Series(sign * 10 ** -rng.gamma(1, 3, 3000), dtype=dtype)
    drawn = sign * fit_column("p", values).values(rng.normal(size=20_000))
    assert drawn.min() >= 0.01 * values.abs().min()
    assert 0.5 < np.quantile(drawn, 0.01) / values.abs().quantile(0.01) < 2
    prices = pd.Series(sign * rng.uniform(0.01, 9, 1000).round(2), dtype=dtype)
    drawn = sign * fit_column("price", prices).values(rng.normal(size=50_000))
    assert drawn.min() >= 0.01 - 1e-9


def test_numbers_near_the_end_of_a_small_dtype_come_as_far_as_the_data_go():
    for seed in range(4):
        values = (np.random.default_rng(seed).random(200) * 65_000).astype("float16")
        drawn = _drawn(_column(values)).astype(float)
        assert abs(np.median(drawn) - np.median(values.astype(float))) < 6_000
        assert 60_000 < drawn.max() <= 65_504


def test_scattered_numbers_that_many_rows_share_come_back_alone():
    rng = _rng()
    prices = np.sort(np.exp(rng.normal(3, 1, 200))).round(6)
    values = rng.choice(prices, 6000)
    values[:2000] = prices[40]
    values[-5:], values[-10:-5] = prices[-1], prices[0]
    own = [9123.456789, 17.171717]  # which nobody else has
    values[[2500, 2600]] = own
    column = _column(values)
    assert column.kind == "number"
    drawn = _drawn(column, 40_000)
    assert set(drawn) == set(values) - set(own)
    assert (drawn == prices[40]).mean() == pytest.approx((values == prices[40]).mean(), abs=0.01)
    assert not any(str(number) in str(column.model_dump()) for number in own)
    for many in (rng.normal(size=8000).round(2), rng.choice(np.exp(rng.normal(size=900)), 4000)):
        assert not _column(many).is_listed  # of which many are rare
    # A number between two levels is that below it.
    back = _decoded(column, column.encode(pd.Series(own), None, False))
    assert back.tolist() == [prices[prices < number][-1] for number in own]


def test_numbers_that_a_dtype_has_no_room_for_are_refused():
    whole = pd.Series(_rng().integers(-100, 100, 60))
    for dtype, cell in (("int8", 300), ("Int8", -129), ("float16", 66_000.0)):
        column = _column(whole.astype(dtype))
        assert column.read(pd.Series([5, 127]))[0].tolist() == [5, 127]
        with refused(f"column 'a' has {cell:g} in row 2, and its dtype {dtype} holds -", DataError):
            column.read(pd.Series([5, cell]))


def test_identifiers_are_new(caplog):
    for known, first in (
        ([f"user{i}" for i in range(50)], "user50"),
        ([f"P-{i:04d}" for i in range(1, 300)], "P-0300"),
        ([f"2024/{i:04d}-A1" for i in range(1, 300)], "2024/0300-A1"),
        ([f"user{i}@example.org" for i in range(50)], "user50@example.org"),
        ([f"{i} a" for i in range(10, 50)], "50 a"),
        (["Anna", "Maria", "Julia"] * 7 + ["Ella"], "0001"),
        (["a1", "b", "c22"] * 7 + ["d"], "1"),
        ([f"{i:x}" * 20 for i in range(30)], "000000000000000001"),
    ):
        column = _column(known, "identifier")
        assert column.coordinates == ()
        drawn = column.numbered(_drawn(column, 80))
        assert drawn[0] == first
        assert drawn.is_unique
        assert not drawn.isin(known).any()
        given = pd.Series([drawn[9], known[0], None, drawn[3], None])
        filled = column.numbered(given.fillna(""), given)
        assert filled[given.notna()].tolist() == given.dropna().tolist()
        assert filled.is_unique
        assert not filled[given.isna()].isin([*known, *drawn[:10]]).any()
    frame = pd.DataFrame({"id": range(100, 150), "x": _rng().normal(size=50)})
    TableCodec.fit(frame)
    assert "column 'id' identifies rows" in caplog.text
    caplog.clear()
    assert TableCodec.fit(frame, {"id": "number"}).dim == 2
    assert not caplog.records


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("0{:010}", r"0\d{10}"),
        ("+49{:09}", r"\+49\d{9}"),
        ("{:08}", r"\d{8}"),
        ("V-{:012}", r"V-\d{12}"),
        ("V-{:012}.jpg", r"V-\d{12}\.jpg"),
        (None, r"\d{12}"),
    ],
)
def test_identifiers_that_are_far_apart_keep_their_width(form, pattern):
    numbers = _rng().choice(10**6, 400, replace=False)
    numbers = numbers if form else numbers * 10**5 + 10**11
    known = pd.Series([form.format(one) for one in numbers] if form else numbers)
    column = _column(known, "identifier")
    drawn = column.numbered(_drawn(column, 900))
    assert drawn.dtype == known.dtype
    assert drawn.astype(str).str.fullmatch(pattern).all()
    assert drawn.is_unique
    assert not drawn.isin(known).any()
    given = pd.Series([drawn[0], *known[:2]], dtype=known.dtype)
    free = pd.Series([False, False, False, True, True])
    given = pd.concat([given, given[:2]], ignore_index=True).mask(free)
    filled = column.numbered(given.fillna(given[0]), given)
    assert filled.is_unique
    assert not filled[free].isin(known).any()
    assert not column.numbered(_drawn(column, 30_000)).isin(known).any()  # more than the gap has


def test_identifiers_need_a_dtype_with_room_for_new_ones():
    for numbers in (np.arange(5, 105, dtype="int8"), np.arange(2e9, 2e9 + 99, dtype="int32")):
        for dtype in (numbers.dtype.name, numbers.dtype.name.title(), f"{numbers.dtype}[pyarrow]"):
            cells = pd.Series(numbers, dtype=dtype)
            assert _column(cells).kind == "number"
            with refused("holds numbers that leave no room for new ones in .nt", DataError):
                _column(cells, "identifier")
    column = _column(np.arange(900, dtype="int16"))
    with refused(
        "column 'a' has no room for 50,000 new identifiers, .* draw fewer rows", DataError
    ):
        column.numbered(_drawn(column, 50_000))
    assert column.numbered(_drawn(column, 9)).tolist() == list(range(900, 909))


def test_whole_numbers_that_repeat_as_codes_do_are_named_and_amounts_are_not(caplog):
    rng, num = _rng(), 2000
    frame = pd.DataFrame({
        "code": rng.choice(rng.integers(10_000, 99_999, 200), num),
        "salary": rng.integers(20_000, 99_000, num),
        "rounded": 100 * rng.integers(200, 990, num),
        "height": rng.normal(1700, 80, num).astype(int),
        "born": rng.integers(1940, 2005, num),
        "width": rng.choice(rng.integers(1, 99_999, 200), num),
        "few": rng.choice([10_115, 20_095, 50_667], num),
    })  # fmt: skip
    TableCodec.fit(frame)
    (said,) = caplog.messages
    assert said.startswith("column 'code' holds whole numbers of 5 digits that repeat as codes do")
    assert "give the column the kind 'category'" in said
    caplog.clear()
    TableCodec.fit(frame, {"code": "number"})
    assert not caplog.messages


def test_no_row_of_the_data_stands_in_the_codec():
    rng = _rng()
    wealth, height = np.exp(2 * rng.normal(size=500)), rng.normal(170, 9, 500)
    rows = np.column_stack([wealth, height, rng.integers(10**6, 10**7, 500) / 100])
    text = str(TableCodec.fit(pd.DataFrame(rows)).to_dict())
    assert not any(repr(cell) in text for cell in rows.ravel().tolist())


def test_the_scale_of_densities_is_that_of_the_coordinates():
    rng = _rng()
    frame = pd.DataFrame({"x": np.exp(rng.normal(size=500)), "k": rng.integers(0, 900, 500) / 10})
    codec = TableCodec.fit(frame)
    x, k = codec.columns
    step = 1e-6
    moved = [x.distribution.forward(frame["x"].to_numpy() + s)[0] for s in (-step, step)]
    expected = np.log((moved[1] - moved[0]) / (2 * step))
    np.testing.assert_allclose(x.log_scale(frame["x"]), expected, atol=1e-4)
    # A tenth is a step: the probability of one is that of the density over it.
    cells = pd.Series(np.arange(0, 90, 0.1).round(1))
    z = k.encode(cells, None, False)[:, 0].astype(float)
    density = np.exp(k.log_scale(cells) - z**2 / 2) / np.sqrt(2 * np.pi)
    assert density.sum() * 0.1 == pytest.approx(1, abs=0.02)
    both = x.log_scale(frame["x"]) + k.log_scale(frame["k"])
    np.testing.assert_allclose(codec.continuous(frame)[2], both)


def test_rare_categories_come_no_more_often_than_they_did(caplog):
    titles = pd.Series(["clerk"] * 5000 + ["nurse"] * 4000 + [f"title {k}" for k in range(999)])
    titles[0] = None
    column = _column(titles)
    TableCodec.fit(titles.to_frame("a"))
    assert "'a' has 999 texts that fewer than five rows have" in caplog.text
    rare = np.isin(column.known, [f"title {k}" for k in range(999)])
    cells = column.encode(pd.Series(column.known), None, False)
    often = np.concatenate([np.repeat(cells[rare][:3], 40, axis=0), cells[~rare].repeat(2440, 0)])
    drawn = _decoded(column, column.tempered(often))
    counts = drawn.value_counts()
    assert counts[column.known[rare][:3]].tolist() == [1, 1, 1]  # a share of 1 in 9,998
    assert counts.sum() == len(often)
    assert counts[["clerk", "nurse"]].sum() == len(often) - 3
    # Rows as they were stay as they are, and so do gaps.
    rows = column.encode(titles, _rng(), False)
    pd.testing.assert_series_equal(_decoded(column, column.tempered(rows)), _decoded(column, rows))
    two = _column(np.arange(2000) < 3)
    flags = two.encode(pd.Series([True] * 500), None, False)
    assert _decoded(two, two.tempered(flags)).sum() == 1
