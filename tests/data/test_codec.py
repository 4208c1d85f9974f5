from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from helpers import refused
from kan_diffusion.data.codec import TableCodec
from kan_diffusion.data.tables import read_frame
from kan_diffusion.errors import DataError, KanDiffusionError


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _small_codes() -> pd.Series:
    return pd.Series(["x", "y"], dtype=pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string())))


def _mixed(num: int = 600, seed: int = 0) -> pd.DataFrame:
    rng = _rng(seed)
    days = pd.to_timedelta(rng.integers(0, 1000, num), unit="D")
    frame = pd.DataFrame(
        {
            "height": rng.normal(170, 8, num),
            "wealth": np.exp(2 * rng.normal(size=num)),
            "age": rng.integers(17, 90, num),
            "kids": rng.poisson(0.8, num),
            "price": np.round(20 * np.exp(rng.normal(size=num)), 2),
            "job": rng.choice(["cook", "smith", "Müller, Bäcker", "nurse", "clerk"], num),
            "member": rng.random(num) > 0.3,
            "since": pd.Timestamp("2020-01-01") + days,
            "spent": np.where(rng.random(num) < 0.6, 0, np.round(rng.gamma(2, 40, num), 1)),
            "score": np.where(rng.random(num) < 0.3, np.nan, rng.normal(size=num)),
            "visits": pd.array(rng.integers(0, 200, num), dtype="Int64"),
            "answer": rng.choice(np.array([True, False, None]), num),
            "size": pd.Categorical(
                rng.choice(["S", "M", "L"], num), categories=["S", "M", "L", "XL"], ordered=True
            ),
        }
    )
    frame.loc[rng.random(num) < 0.2, "visits"] = pd.NA
    return frame


_WHOLE = st.integers(-100, 3000)
_TEXT = st.text(max_size=8)
_DAYS = st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 1, 1))
_MINUTES = st.integers(0, 100_000).map(
    lambda m: pd.Timestamp("2020-01-01") + pd.Timedelta(m, "min")
)
_EXACT: dict[str, tuple[st.SearchStrategy[object], Callable[[list[object]], object]]] = {
    "int8": (st.integers(-128, 127), lambda v: np.array(v, "int8")),
    "uint64": (st.integers(2**64 - 2000, 2**64 - 1), lambda v: np.array(v, "uint64")),
    "int64": (_WHOLE, lambda v: np.array(v, "int64")),
    "bool": (st.booleans(), lambda v: np.array(v, bool)),
    "decimals": (_WHOLE.map(lambda k: k / 100), lambda v: np.array(v)),
    "float32": (_WHOLE.map(lambda k: k / 10), lambda v: np.array(v, "float32")),
    "whole floats": (st.none() | _WHOLE, lambda v: np.array(v, dtype=float)),
    "Int32": (st.none() | _WHOLE, lambda v: pd.array(v, dtype="Int32")),
    "Float64": (st.none() | _WHOLE.map(lambda k: k / 10), lambda v: pd.array(v, dtype="Float64")),
    "boolean": (st.none() | st.booleans(), lambda v: pd.array(v, dtype="boolean")),
    "str": (st.none() | _TEXT, lambda v: pd.array(v, dtype=pd.StringDtype(na_value=np.nan))),
    "string": (st.none() | _TEXT, lambda v: pd.array(v, dtype="string")),
    "python": (st.none() | _TEXT, lambda v: pd.array(v, dtype=pd.StringDtype("python"))),
    "objects": (st.none() | _TEXT, lambda v: pd.array(np.array(v, object), dtype=object)),
    "answers": (st.none() | st.booleans(), lambda v: np.array(v, object)),
    "numbers": (st.none() | _WHOLE, lambda v: np.array(v, object)),
    "dates": (st.none() | _DAYS, lambda v: np.array(v, object)),
    "money": (
        st.none() | _WHOLE.map(lambda k: Decimal(k) / 100),
        lambda v: pd.array(v, dtype=pd.ArrowDtype(pa.decimal128(10, 2))),
    ),
    "category": (
        st.none() | st.sampled_from("abc"),
        lambda v: pd.Categorical(v, categories=["c", "never", "a", "b"]),
    ),
    "order": (
        st.none() | st.sampled_from([3, 1, 7]),
        lambda v: pd.Categorical(v, categories=[7, 3, 1], ordered=True),
    ),
    "days": (st.none() | _DAYS, lambda v: pd.to_datetime(v).as_unit("s")),
    "minutes": (st.none() | _MINUTES, lambda v: pd.to_datetime(v).as_unit("ns")),
    "zone": (st.none() | _MINUTES, lambda v: pd.to_datetime(v).tz_localize("Asia/Kolkata")),
    "spans": (st.none() | _WHOLE, lambda v: pd.to_timedelta(v, unit="min")),
    "months": (
        st.none() | st.integers(300, 700),
        lambda v: pd.array(
            [None if m is None else pd.Period(ordinal=m, freq="M") for m in v], dtype="period[M]"
        ),
    ),
    "arrow int": (st.none() | _WHOLE, lambda v: pd.array(v, dtype="int16[pyarrow]")),
    "arrow text": (
        st.none() | _TEXT,
        lambda v: pd.array(v, dtype=pd.ArrowDtype(pa.large_string())),
    ),
    "arrow bool": (st.none() | st.booleans(), lambda v: pd.array(v, dtype="bool[pyarrow]")),
    "arrow date": (st.none() | _DAYS, lambda v: pd.array(v, dtype="date32[pyarrow]")),
    "arrow time": (
        st.none() | _MINUTES,
        lambda v: pd.array(v, dtype=pd.ArrowDtype(pa.timestamp("ms", "UTC"))),
    ),
}


@st.composite
def _frames(draw: st.DrawFn) -> pd.DataFrame:
    num = draw(st.integers(1, 70))
    names = draw(st.lists(st.sampled_from(sorted(_EXACT)), min_size=1, max_size=5))
    columns = []
    for name in names:
        cells, make = _EXACT[name]
        few = draw(st.lists(cells, min_size=1, max_size=num))
        places = draw(st.lists(st.integers(0, len(few) - 1), min_size=num, max_size=num))
        columns.append(pd.Series(make([few[place] for place in places])))
    frame = pd.concat(columns, axis=1)
    frame.columns = pd.Index([f"{name}, {place}" for place, name in enumerate(names)])
    return frame


@given(_frames())
def test_any_frame_comes_back_as_it_was(frame: pd.DataFrame) -> None:
    codec = TableCodec.fit(frame)
    rows = codec.encode(frame, _rng())
    assert rows.isfinite().all()
    assert rows.abs().max() < 30 if codec.dim else True
    # Where a map is so flat that a step is narrower than float32 is fine, a cell may leave its own.
    steps = np.stack([column.log_scale(frame[column.name]) for column in codec.columns])
    assume(steps.min() > -20 * np.log(2))
    back = codec.decode(rows, _rng())
    exact = [str(c.name) for c in codec.columns if c.kind != "identifier"]
    pd.testing.assert_frame_equal(back[exact], frame[exact])
    pd.testing.assert_series_equal(back.dtypes, frame.dtypes)
    again = TableCodec.from_dict(json.loads(json.dumps(codec.to_dict())))
    assert again == codec
    pd.testing.assert_frame_equal(again.decode(rows, _rng()), back)
    drawn = codec.decode(torch.randn(20, codec.dim), _rng())
    pd.testing.assert_series_equal(drawn.dtypes, frame.dtypes)


@given(
    st.lists(st.none() | st.floats(-1e300, 1e300), min_size=1, max_size=50),
    st.sampled_from(["float64", "Float64", "double[pyarrow]"]),
)
def test_any_numbers_come_back_within_float32(values: list[float | None], dtype: str) -> None:
    frame = pd.DataFrame({"x": pd.Series(values, dtype=dtype)})
    try:
        codec = TableCodec.fit(frame)
    except DataError as error:
        assert "spread below" in str(error)  # noqa: PT017
        return
    back = codec.decode(codec.encode(frame, _rng()), _rng())
    before, after = (f["x"].to_numpy(float, na_value=np.nan) for f in (frame, back))
    if codec.columns[0].kind != "identifier":
        span = np.nanmax(before) / 8 - np.nanmin(before) / 8 if len(frame["x"].dropna()) else 0
        np.testing.assert_allclose(after / 8, before / 8, atol=span * 1e-4, rtol=1e-4)


def test_steps_hardly_wider_than_float32_is_fine_come_back() -> None:
    # Most rows are at one minute and few are weeks away, where the map is flat.
    start = pd.Timestamp("2020-01-01")
    late = start + pd.Timedelta(10**5, "min")
    codec = TableCodec.fit(pd.DataFrame({"at": [start] * 23 + [late] * 4}))
    frame = pd.DataFrame({"at": [late] * 5_000})
    pd.testing.assert_frame_equal(codec.decode(codec.encode(frame, _rng()), _rng()), frame)


def test_a_mixed_frame_comes_back_also_by_a_codec_that_was_json() -> None:
    frame = _mixed()
    codec = TableCodec.fit(frame)
    rows = codec.encode(frame, _rng())
    assert rows.shape == (len(frame), codec.dim)
    assert rows.dtype == torch.float32
    back = codec.decode(rows, _rng())
    pd.testing.assert_frame_equal(back, frame, rtol=1e-5)
    again = TableCodec.from_dict(json.loads(json.dumps(codec.to_dict())))
    assert again == codec
    assert torch.equal(again.encode(frame), codec.encode(frame))
    places = [place for block in codec.blocks for place in range(block.start, block.stop)]
    assert places == list(range(codec.dim)) == list(range(len(codec.names)))
    assert "spent is zero" in codec.names
    assert {"job", "score is missing"} <= set(codec.names)


def test_what_is_not_known_is_nan() -> None:
    frame = _mixed()
    codec = TableCodec.fit(frame)
    part = frame.drop(columns="job").assign(age=frame["age"].where(frame["age"] < 50))
    rows = codec.observe(part, _rng())
    names = list(codec.names)
    assert rows[:, names.index("job")].isnan().all()
    unknown = torch.tensor(list(frame["age"] >= 50))
    assert torch.equal(rows[:, names.index("age")].isnan(), unknown)
    gap = torch.tensor(list(frame["score"].isna()))
    assert torch.equal(rows[:, names.index("score")].isnan(), gap)
    assert (rows[:, names.index("score is missing")] == -1).all()


def test_samples_respect_what_a_column_is() -> None:
    frame = _mixed()
    codec = TableCodec.fit(frame)
    drawn = codec.decode(3 * torch.randn(5000, codec.dim), _rng())
    pd.testing.assert_series_equal(drawn.dtypes, frame.dtypes)
    for name in ("wealth", "kids", "price", "spent", "visits"):
        assert drawn[name].min() >= 0
    assert (drawn["price"] == drawn["price"].round(2)).all()
    assert set(drawn["job"]) <= set(frame["job"])
    assert (drawn["since"].dt.normalize() == drawn["since"]).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pd.DataFrame(), "0 rows and 0 columns"),
        (lambda: pd.DataFrame({"a": [1.0, np.inf]}), "column 'a' has inf in row 2"),
        (lambda: pd.DataFrame({"a": ["x", 1]}), "'a' mixes types: row 2 holds int after str"),
        (lambda: pd.DataFrame({"a": [[1], [2]]}), "column 'a' holds objects of type list"),
        (lambda: pd.DataFrame({"a": [1 + 2j]}), "column 'a' has dtype complex128"),
        (lambda: pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns are named 'a'"),
        (lambda: pd.DataFrame({"a": _small_codes()}), "column 'a' has dtype dictionary"),
    ],
)
def test_bad_frames_are_refused(make, words: str) -> None:
    with refused(words, DataError):
        TableCodec.fit(make())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop(columns="age"), "column 'age' of the rows trained on is missing"),
        (lambda f: f.assign(new=1), "column 'new' is new"),
        (lambda f: f.assign(job="pilot"), "column 'job' has 'pilot' in row 1"),
        (lambda f: f.assign(age=f["age"].where(f.index != 6)), "'age' has a gap in row 7"),
        (lambda f: f.assign(age=f["age"] + 0.5), "'age' has .*.5 in row 1, and only whole numbers"),
        (
            lambda f: f.assign(age="old"),
            "held numbers in the rows trained on, and row 1 holds text",
        ),
    ],
)
def test_other_frames_are_refused(change, words: str) -> None:
    frame = _mixed()
    with refused(words, DataError):
        TableCodec.fit(frame).encode(change(frame))


def test_digits_are_text_where_the_rows_trained_on_held_text(tmp_path: Path) -> None:
    codec = TableCodec.fit(pd.DataFrame({"code": ["10115", "20095", "K1A"] * 9}))
    (tmp_path / "like.csv").write_text("code\n20095\n\n10115\n")
    observed = codec.observe(read_frame(tmp_path / "like.csv").frame)
    torch.testing.assert_close(observed, codec.observe(pd.DataFrame({"code": ["20095", "10115"]})))
    with refused("column 'code' has '7' in row 1, which is not in the rows trained on", DataError):
        codec.observe(pd.DataFrame({"code": [7]}))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "Int8", "int8[pyarrow]", "float32"])
def test_identifiers_that_outgrow_their_dtype_get_a_wider_one(dtype: str) -> None:
    frame = pd.DataFrame({"id": pd.Series(range(5, 105), dtype=dtype), "x": np.arange(100) % 7})
    codec = TableCodec.fit(frame)
    assert codec.decode(torch.zeros(100, codec.dim), _rng()).dtypes.equals(frame.dtypes)
    drawn = codec.decode(torch.zeros(300, codec.dim), _rng())["id"]
    assert drawn.tolist() == list(range(5, 305))
    assert str(drawn.dtype) == (dtype if dtype == "float32" else dtype.replace("8", "64"))


_PLACE = tuple[str | int, ...]


def _places(content: object, place: _PLACE = ()) -> list[_PLACE]:
    """Where the values of nested lists and dictionaries are."""
    inner: list[_PLACE] = []
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            inner += [(*place, key), *_places(value, (*place, key))]
    return inner


_ODD = [None, True, -1, 0, 2, 0.5, 1e308, 2**63, "", "x", "%9999999d", "text", "int64", [], [1], {}]


@given(st.randoms(use_true_random=False), st.sampled_from(_ODD))
def test_a_damaged_codec_is_refused_or_decodes(random, value: object) -> None:
    codec = TableCodec.fit(_mixed(100))
    content = json.loads(json.dumps(codec.to_dict()))
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
    assert len(damaged.decode(torch.randn(5, damaged.dim), _rng())) == 5


def test_a_damaged_codec_is_refused() -> None:
    content = TableCodec.fit(_mixed()).to_dict()
    content["columns"][0]["transform"]["scale"] = float("nan")
    with refused("codec: .*scale", KanDiffusionError):
        TableCodec.from_dict(content)
