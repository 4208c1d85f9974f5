import datetime
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers import refused
from kan_diffusion.errors import DataError, KanDiffusionError
from kan_diffusion.tables.codec import TableCodec
from mixed_tables import people


def _rng(seed=0):
    return np.random.default_rng(seed)


RNG, NUM = _rng(1), 600
FRAME = people(NUM, 0).assign(
    spent=np.where(RNG.random(NUM) < 0.6, 0, np.round(RNG.gamma(2, 40, NUM), 1)),
    visits=pd.array(RNG.integers(0, 200, NUM), dtype="Int64").copy(),
    answer=RNG.choice(np.array([True, False, None]), NUM),
    size=pd.Categorical(RNG.choice(["S", "M", "L"], NUM), ["S", "M", "L", "XL"], ordered=True),
    **{"7": RNG.normal(170, 8, NUM)},
)
DATES = pd.Series(pd.date_range("2020-01-01", periods=180, freq="17D"))

WHOLE = st.integers(-100, 3000)
TEXT, TRUTH = st.text(max_size=8), st.booleans()
DECIMALS = WHOLE.map(lambda k: k / 10)
DAYS = st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 1, 1))
MINUTES = st.integers(0, 100_000).map(lambda m: pd.Timestamp("2020-01-01") + pd.Timedelta(m, "min"))
PLAIN = [  # cells of dtypes that know no gap
    ("int8", st.integers(-128, 127)),
    ("uint64", st.integers(2**64 - 2000, 2**64 - 1)),
    ("int64", WHOLE),
    ("bool", TRUTH),
    ("float64", WHOLE.map(lambda k: k / 100)),
    ("float32", DECIMALS),
]
WITH_GAPS = [
    ("float64", WHOLE.map(float)),
    ("Int32", WHOLE),
    ("Float64", DECIMALS),
    ("boolean", TRUTH),
    (pd.StringDtype(na_value=np.nan), TEXT),
    (pd.StringDtype("python"), TEXT),
    ("string", TEXT),
    *((object, cells) for cells in (TEXT, TRUTH, DAYS, WHOLE)),
    (pd.CategoricalDtype(["c", "never", "a", "b"]), st.sampled_from("abc")),
    (pd.CategoricalDtype([7, 3, 1], ordered=True), st.sampled_from([3, 1, 7])),
    ("datetime64[s]", DAYS),
    ("datetime64[ns]", MINUTES),
    ("datetime64[ns, Asia/Kolkata]", MINUTES),
    ("timedelta64[ns]", WHOLE.map(lambda m: pd.Timedelta(m, "min"))),
    ("period[M]", st.integers(300, 700).map(lambda m: pd.Period(ordinal=m, freq="M"))),
    ("int16[pyarrow]", WHOLE),
    ("int64[pyarrow]", WHOLE),
    ("double[pyarrow]", DECIMALS),
    (pd.ArrowDtype(pa.large_string()), TEXT),
    ("bool[pyarrow]", TRUTH),
    ("date32[pyarrow]", DAYS),
    (pd.ArrowDtype(pa.timestamp("ms", "UTC")), MINUTES.map(lambda m: m.tz_localize("UTC"))),
]
EXACT = PLAIN + [(dtype, st.none() | cells) for dtype, cells in WITH_GAPS]


@st.composite
def _frames(draw):
    num, columns = draw(st.integers(1, 70)), {}
    for place, kind in enumerate(draw(st.lists(st.sampled_from(EXACT), min_size=1, max_size=5))):
        dtype, cells = kind
        few = draw(st.lists(cells, min_size=1, max_size=num))
        places = draw(st.lists(st.integers(0, len(few) - 1), min_size=num, max_size=num))
        name = place if place % 2 else f"{dtype}, {place}"
        columns[name] = pd.Series([few[place] for place in places], dtype=dtype)
    return pd.DataFrame(columns)


@given(_frames())
def test_any_frame_comes_back_as_it_was(frame):
    codec = TableCodec.fit(frame)
    rows = codec.encode(frame, _rng())
    assert rows.isfinite().all()
    assert rows.abs().max() < 30 if codec.dim else True
    # Where a map is so flat that a step is narrower than float32 is fine, a cell may leave its own.
    steps = np.stack([column.log_scale(frame[column.name]) for column in codec.columns])
    assume(steps.min() > -20 * np.log(2))
    back = codec.decode(rows)
    exact = [column.name for column in codec.columns if column.kind != "identifier"]
    pd.testing.assert_frame_equal(back[exact], frame[exact])
    pd.testing.assert_series_equal(back.dtypes, frame.dtypes)
    again = TableCodec.from_dict(json.loads(json.dumps(codec.to_dict())))
    assert again == codec
    pd.testing.assert_frame_equal(again.decode(rows), back)
    drawn = codec.decode(torch.randn(20, codec.dim))
    pd.testing.assert_series_equal(drawn.dtypes, frame.dtypes)


SMALL = ["int8", "uint8", "Int8", "Int64", "int16[pyarrow]", "float32", "Float64", "float64"]
TEXTS = [object, "str", "string", pd.ArrowDtype(pa.string()), "category"]
START = pd.Timestamp("2020-03-01")
DATED = [  # of days, and written so that those of one kind are compared
    lambda days: pd.Series(START + pd.to_timedelta(days, "D")).astype("datetime64[s]"),
    lambda days: pd.Series(START + pd.to_timedelta(days, "D")).dt.tz_localize("Asia/Kolkata"),
    lambda days: pd.Series(START + pd.to_timedelta(days, "D")).dt.date.astype(object),
    lambda days: pd.Series(START + pd.to_timedelta(days, "D")).astype("date32[pyarrow]"),
    lambda days: pd.Series(START + pd.to_timedelta(days, "D")).dt.strftime("%d.%m.%Y"),
    lambda days: pd.Series(START + pd.to_timedelta(days, "h")).dt.strftime("%H:%M").astype(object),
]


@st.composite
def _ruled(draw):
    random, num = _rng(draw(st.integers(0, 1000))), draw(st.integers(200, 240))
    numbers, text = draw(st.sampled_from(SMALL)), draw(st.sampled_from(TEXTS))
    dated, other = draw(st.permutations(DATED))[:2]
    net, tax, city = (random.integers(0, most, num) for most in (40, 20, 9))
    first, later = random.integers(0, 12, num), random.integers(0, 12, num)
    frame = pd.DataFrame({
        "net": pd.Series(net).astype(numbers),
        "tax": pd.Series(tax).astype(numbers),
        "gross": pd.Series(net + tax).astype(numbers),
        "city": pd.Series([f"city {each}" for each in city]).astype(text),
        "region": pd.Series([f"region {each // 3}" for each in city]).astype(text),
        "start": dated(first),
        "end": dated(first + later),
        "seen": other(random.integers(0, 24, num)),
        "id": pd.Series([f"A-{each:05}" for each in random.permutation(num)]).astype(text),
    })  # fmt: skip
    return frame.set_axis(random.permutation(num) - 7)


@settings(max_examples=5)
@given(_ruled())
def test_frames_with_rules_identifiers_and_any_index_come_back_and_are_obeyed(frame):
    codec = TableCodec.fit(frame)
    assert {"city->region", "net+tax=gross", "start<=end"} <= {*codec.always}
    back = codec.decode(codec.encode(frame, _rng()), frame[["id"]])
    pd.testing.assert_frame_equal(back, frame.reset_index(drop=True))
    drawn = codec.decode(torch.randn(300, codec.dim, generator=torch.Generator().manual_seed(0)))
    pd.testing.assert_series_equal(drawn.dtypes, frame.dtypes)
    assert (drawn["net"] + drawn["tax"] == drawn["gross"]).all()
    pairs = {*zip(frame["city"], frame["region"], strict=True)}
    assert {*zip(drawn["city"], drawn["region"], strict=True)} <= pairs
    ends = [codec.column(name).read(drawn[name])[0] for name in ("start", "end")]
    assert (ends[0] <= ends[1]).all()


@given(
    st.lists(st.none() | st.floats(-1e300, 1e300), min_size=1, max_size=50),
    st.sampled_from(["float64", "Float64", "double[pyarrow]"]),
)
def test_any_numbers_come_back_within_float32(values, dtype):
    frame = pd.DataFrame({"x": pd.Series(values, dtype=dtype)})
    try:
        codec = TableCodec.fit(frame)
    except DataError as error:
        assert "spread below" in str(error)  # noqa: PT017
        return
    back = codec.decode(codec.encode(frame, _rng()))
    before, after = (f["x"].to_numpy(float, na_value=np.nan) for f in (frame, back))
    if codec.columns[0].kind != "identifier":
        span = np.nanmax(before) / 8 - np.nanmin(before) / 8 if len(frame["x"].dropna()) else 0
        np.testing.assert_allclose(after / 8, before / 8, atol=span * 1e-4, rtol=1e-4)


def test_steps_hardly_wider_than_float32_is_fine_come_back():
    # Most rows are at one minute and few are weeks away, where the map is flat.
    start = pd.Timestamp("2020-01-01")
    late = start + pd.Timedelta(10**5, "min")
    codec = TableCodec.fit(pd.DataFrame({"at": [start] * 23 + [late] * 4}))
    frame = pd.DataFrame({"at": [late] * 5_000})
    pd.testing.assert_frame_equal(codec.decode(codec.encode(frame, _rng())), frame)


def test_what_is_not_known_is_nan_and_gaps_have_coordinates_of_their_own():
    codec = TableCodec.fit(FRAME)
    back = codec.decode(codec.encode(FRAME, _rng()))
    pd.testing.assert_frame_equal(back, FRAME, rtol=1e-5, atol=1e-5)
    part = FRAME.drop(columns="smokes").assign(age=FRAME["age"].where(FRAME["age"] < 50))
    rows = dict(zip(codec.names, codec.encode(part, _rng(), some=True).T, strict=True))
    assert rows["smokes"].isnan().all()
    assert rows["age"].isnan().tolist() == FRAME["age"].ge(50).tolist()
    assert rows["score"].isnan().tolist() == FRAME["score"].isna().tolist()
    assert (rows["score is missing"] == -1).all()


def test_frames_that_cannot_be_described_are_refused():
    written, money = DATES.dt.strftime("%Y-%m-%d"), pd.Series([Decimal("1.25"), Decimal(2)] * 4)
    for frame, words in (
        (pd.DataFrame(), "has no columns"),
        (pd.DataFrame({"a": []}), "no rows"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns of the same name: 'a'"),
        ({"a": [1.0, np.inf]}, "column 'a' has inf in row 2"),
        ({"a": ["x", 1]}, "'a' mixes types: row 2 holds int after str"),
        ({"a": [[1], [2]]}, "column 'a' holds objects of type list"),
        ({"a": money}, "'a' holds objects of type Decimal"),
        ({"a": [1 + 2j]}, "column 'a' has dtype complex128"),
        ({"a": pd.cut(np.arange(9.0), 3)}, "column 'a' has dtype interval"),
        ({"a": pd.cut(DATES, 3)}, "column 'a' has dtype interval"),
        ({"a": money.astype(pd.ArrowDtype(pa.decimal128(5, 2)))}, "has dtype decimal"),
        ({"a": [*written, "2020-02-30"]}, "dates and text: row 181 holds '2020-02-30'"),
        ({"a": [*written, "unknown"]}, "dates and text: row 181 holds 'unknown'"),
    ):
        with refused(words, DataError):
            TableCodec.fit(pd.DataFrame(frame))


def test_rows_unlike_those_trained_on_are_refused():
    codec, age = TableCodec.fit(FRAME), FRAME["age"]
    for other, words in (
        (FRAME.drop(columns="age"), "column 'age' of the rows trained on is missing"),
        (FRAME.assign(new=1), "column 'new' is new"),
        (FRAME.assign(job="pilot"), "column 'job' has 'pilot' in row 1"),
        (FRAME.assign(age=age.where(FRAME.index != 6)), "'age' has a gap in row 7"),
        (FRAME.assign(age=age + 0.5), "'age' has .*.5 in row 1, and only whole numbers"),
        (FRAME.assign(age="old"), "should hold numbers, as in .* trained on, and row 1 holds text"),
        (FRAME.assign(score=1e40), r"1e\+40 in row 1, more than 1e\+12 times the spread"),
    ):
        with refused(words, DataError):
            codec.encode(other)
    rows = torch.zeros(3, codec.dim)
    rows[1, 0] = torch.nan
    for coordinates, words in (
        (rows, "row 2 has coordinates that are NaN or infinite"),
        (rows[:, 1:], "rows must have shape .n, "),
    ):
        with refused(words, DataError):
            codec.decode(coordinates)


def test_digits_are_text_where_the_rows_trained_on_held_text(tmp_path):
    codec = TableCodec.fit(pd.DataFrame({"code": ["10115", "20095", "01A"] * 9}))
    (tmp_path / "like.csv").write_text("code\n20095\n\n10115\n")
    for rows in (codec.read(tmp_path / "like.csv")[0], pd.DataFrame({"code": [20095, 10115]})):
        observed = codec.encode(rows, some=True)
        expected = codec.encode(pd.DataFrame({"code": ["20095", "10115"]}))
        torch.testing.assert_close(observed, expected)
    with refused("column 'code' has '7' in row 1, which is not in the rows trained on", DataError):
        codec.encode(pd.DataFrame({"code": [7]}))


def _places(content):
    """Each key of JSON and of what is in it, with what has it."""
    of_dict = content if isinstance(content, dict) else {}
    for key in of_dict or range(len(content) if isinstance(content, list) else 0):
        yield content, key
        yield from _places(content[key])


def test_a_codec_has_a_share_of_each_category():
    for changes in ({"frequencies": [0.5, 0.5]}, {"categories": ["clerk", "clerk", "nurse"]}):
        content = TableCodec.fit(FRAME[:100]).to_dict()
        content["columns"][1] |= changes
        with refused("codec: .*column 'job' needs a frequency for each of its categories"):
            TableCodec.from_dict(content)


ODD = [None, True, -1, 0, 2, 0.5, 1e308, 2**63, "", "%9999999d", "text", "int64", [], [1], {}]


@given(st.randoms(use_true_random=False), st.sampled_from(ODD))
def test_a_damaged_codec_is_refused_or_decodes(random, value):
    content = TableCodec.fit(FRAME[:100]).to_dict()
    inner, key = random.choice([*_places(content)])
    inner[key] = value
    try:
        damaged = TableCodec.from_dict(content)
    except KanDiffusionError as error:
        assert str(error).startswith("codec: ")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert len(damaged.decode(torch.randn(5, damaged.dim))) == 5
