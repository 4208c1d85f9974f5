import datetime
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from helpers import refused
from kan_diffusion.errors import DataError, KanDiffusionError
from kan_diffusion.tables.codec import TableCodec
from mixed_tables import people


def _rng(seed=0):
    return np.random.default_rng(seed)


def _mixed(num=600):
    rng, sizes = _rng(1), ["S", "M", "L", "XL"]
    return people(num, 0).assign(
        spent=np.where(rng.random(num) < 0.6, 0, np.round(rng.gamma(2, 40, num), 1)),
        visits=pd.array(rng.integers(0, 200, num), dtype="Int64").copy(),
        answer=rng.choice(np.array([True, False, None]), num),
        size=pd.Categorical(rng.choice(sizes[:3], num), categories=sizes, ordered=True),
        **{"7": rng.normal(170, 8, num)},
    )


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
        columns[f"{dtype}, {place}"] = pd.Series([few[place] for place in places], dtype=dtype)
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
    exact = [str(c.name) for c in codec.columns if c.kind != "identifier"]
    pd.testing.assert_frame_equal(back[exact], frame[exact])
    pd.testing.assert_series_equal(back.dtypes, frame.dtypes)
    again = TableCodec.from_dict(json.loads(json.dumps(codec.to_dict())))
    assert again == codec
    pd.testing.assert_frame_equal(again.decode(rows), back)
    drawn = codec.decode(torch.randn(20, codec.dim))
    pd.testing.assert_series_equal(drawn.dtypes, frame.dtypes)


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


def test_a_mixed_frame_has_a_coordinate_for_each_name():
    frame = _mixed()
    codec = TableCodec.fit(frame)
    rows = codec.encode(frame, _rng())
    assert rows.shape == (len(frame), codec.dim)
    assert rows.dtype == torch.float32
    pd.testing.assert_frame_equal(codec.decode(rows), frame, rtol=1e-5, atol=1e-5)
    assert len(codec.names) == codec.dim
    assert {"job", "job is missing", "score is missing", "spent is zero"} <= set(codec.names)


def test_gaps_alone_one_value_beside_them_and_names_that_are_numbers_come_back():
    frame = pd.DataFrame({2: [None] * 4, 0: [2.5, np.nan, 2.5, np.nan], 1: "x"})
    codec = TableCodec.fit(frame, {2: "constant"})
    assert codec.names == ("0 is missing",)
    pd.testing.assert_frame_equal(codec.decode(codec.encode(frame)), frame)


def test_what_is_not_known_is_nan():
    frame = _mixed()
    codec = TableCodec.fit(frame)
    part = frame.drop(columns="smokes").assign(age=frame["age"].where(frame["age"] < 50))
    rows = codec.encode(part, _rng(), some=True)
    names = list(codec.names)
    assert rows[:, names.index("smokes")].isnan().all()
    unknown = torch.tensor(list(frame["age"] >= 50))
    assert torch.equal(rows[:, names.index("age")].isnan(), unknown)
    gap = torch.tensor(list(frame["score"].isna()))
    assert torch.equal(rows[:, names.index("score")].isnan(), gap)
    assert (rows[:, names.index("score is missing")] == -1).all()


def test_samples_respect_what_a_column_is():
    frame = _mixed()
    codec = TableCodec.fit(frame)
    drawn = codec.decode(3 * torch.randn(5000, codec.dim))
    pd.testing.assert_series_equal(drawn.dtypes, frame.dtypes)
    for name in ("age", "income", "spent", "visits"):
        assert drawn[name].min() >= 0
    assert (drawn["income"] == drawn["income"].round(1)).all()
    assert set(drawn["job"].dropna()) == set(frame["job"].dropna())
    assert (drawn["since"].dt.normalize() == drawn["since"]).all()


def test_bad_frames_are_refused():
    for frame, words in (
        (pd.DataFrame(), "has no columns"),
        (pd.DataFrame({"a": [1.0, np.inf]}), "column 'a' has inf in row 2"),
        (pd.DataFrame({"a": ["x", 1]}), "'a' mixes types: row 2 holds int after str"),
        (pd.DataFrame({"a": [[1], [2]]}), "column 'a' holds objects of type list"),
        (pd.DataFrame({"a": [1 + 2j]}), "column 'a' has dtype complex128"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns of the same name: 'a'"),
    ):
        with refused(words, DataError):
            TableCodec.fit(frame)
    frame = _mixed()
    codec, age = TableCodec.fit(frame), frame["age"]
    for other, words in (
        (frame.drop(columns="age"), "column 'age' of the rows trained on is missing"),
        (frame.assign(new=1), "column 'new' is new"),
        (frame.assign(job="pilot"), "column 'job' has 'pilot' in row 1"),
        (frame.assign(age=age.where(frame.index != 6)), "'age' has a gap in row 7"),
        (frame.assign(age=age + 0.5), "'age' has .*.5 in row 1, and only whole numbers"),
        (frame.assign(age="old"), "should hold numbers, as in .* trained on, and row 1 holds text"),
    ):
        with refused(words, DataError):
            codec.encode(other)


def test_dtypes_that_would_not_come_back_are_refused_before_anything_is_trained():
    days = pd.date_range("2020-01-01", periods=9)
    for cells, words in (
        (pd.cut(np.arange(9.0), 3), "column 'a' has dtype interval"),
        (pd.cut(days, 3), "column 'a' has dtype interval"),
        (pd.array([Decimal("1.25")] * 8, pd.ArrowDtype(pa.decimal128(5, 2))), "has dtype decimal"),
        (np.array([Decimal(1), Decimal(2)]), "'a' holds objects of type Decimal"),
    ):
        with refused(words, DataError):
            TableCodec.fit(pd.DataFrame({"a": pd.Series(cells)}))


def test_text_is_a_category_unless_it_is_dates_in_one_format(caplog):
    codes = [f"{code:05d}" for code in _rng().integers(0, 99_999, 60)] * 3
    days = pd.Series(pd.date_range("2020-01-01", periods=180, freq="17D"))
    frame = pd.DataFrame({"zip": codes, "day": days.dt.strftime("%d.%m.%Y")})
    codec = TableCodec.fit(frame)
    assert [column.kind for column in codec.columns] == ["category", "date"]
    drawn = codec.decode(torch.randn(500, codec.dim))
    assert set(drawn["zip"]) <= set(codes)
    written = pd.to_datetime(drawn["day"], format="%d.%m.%Y").dt.strftime("%d.%m.%Y")
    assert (written == drawn["day"]).all()
    assert TableCodec.fit(frame, {"day": "category"}).columns[1].kind == "category"
    assert not caplog.records
    for day in ("2020-02-30", "unknown"):
        mixed = pd.DataFrame({"day": [*days.dt.strftime("%Y-%m-%d"), day]})
        with refused(f"'day' mixes dates and text: row 181 holds '{day}'", DataError):
            TableCodec.fit(mixed)
    for form, told in (("%d/%m/%Y", 0), ("%m/%d/%Y", 0), ("ambiguous", 1)):
        caplog.clear()
        text = days.dt.strftime(form) if "%" in form else ["05/06/2020", "07/08/2021"] * 90
        TableCodec.fit(pd.DataFrame({"day": text}))
        assert len(caplog.records) == told
        assert not told or "read as day/month/year" in caplog.text


def test_digits_are_text_where_the_rows_trained_on_held_text(tmp_path):
    codec = TableCodec.fit(pd.DataFrame({"code": ["10115", "20095", "01A"] * 9}))
    (tmp_path / "like.csv").write_text("code\n20095\n\n10115\n")
    for rows in (codec.read(tmp_path / "like.csv"), pd.DataFrame({"code": [20095, 10115]})):
        observed = codec.encode(rows, some=True)
        expected = codec.encode(pd.DataFrame({"code": ["20095", "10115"]}))
        torch.testing.assert_close(observed, expected)
    with refused("column 'code' has '7' in row 1, which is not in the rows trained on", DataError):
        codec.encode(pd.DataFrame({"code": [7]}))


def test_identifiers_need_a_dtype_with_room_for_new_ones():
    for numbers in (
        np.arange(5, 105, dtype="int8"),
        np.arange(2 * 10**9, 2 * 10**9 + 99, dtype="i4"),
    ):
        for dtype in (numbers.dtype.name, numbers.dtype.name.title(), f"{numbers.dtype}[pyarrow]"):
            frame = pd.DataFrame({"id": pd.Series(numbers, dtype=dtype), "x": numbers % 7})
            assert TableCodec.fit(frame).columns[0].kind == "number"
            with refused("holds numbers that leave no room for new ones in .nt", DataError):
                TableCodec.fit(frame, {"id": "identifier"})
    column = TableCodec.fit(pd.DataFrame({"id": np.arange(900, dtype="int16"), "x": 1})).columns[0]
    drawn = column.decode(np.zeros((50_000, 0)))
    with refused(
        "column 'id' has no room for 50,000 new identifiers, .* draw fewer rows", DataError
    ):
        column.numbered(drawn)
    assert column.numbered(drawn[:9]).tolist() == list(range(900, 909))


def _places(content, place=()):
    inner = []
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            inner += [(*place, key), *_places(value, (*place, key))]
    return inner


def test_a_codec_has_a_share_of_each_category():
    content = TableCodec.fit(_mixed(100)).to_dict()
    for changes in ({"frequencies": [0.5, 0.5]}, {"categories": ["clerk", "clerk", "nurse"]}):
        damaged = json.loads(json.dumps(content))
        damaged["columns"][1] |= changes
        with refused("codec: .*column 'job' needs a frequency for each of its categories"):
            TableCodec.from_dict(damaged)


ODD = [None, True, -1, 0, 2, 0.5, 1e308, 2**63, "", "%9999999d", "text", "int64", [], [1], {}]


@given(st.randoms(use_true_random=False), st.sampled_from(ODD))
def test_a_damaged_codec_is_refused_or_decodes(random, value):
    content = json.loads(json.dumps(TableCodec.fit(_mixed(100)).to_dict()))
    place = random.choice(_places(content))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    try:
        damaged = TableCodec.from_dict(content)
    except KanDiffusionError as error:
        assert str(error).startswith("codec: ")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert len(damaged.decode(torch.randn(5, damaged.dim))) == 5
