from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import refused
from kan_diffusion.data.codec import TableCodec
from kan_diffusion.data.conditions import cells, conditions_from_texts, read_conditions


def _frame() -> pd.DataFrame:
    num = 60
    place = np.arange(num)
    size = pd.CategoricalDtype(["small", "medium", "large"], ordered=True)
    return pd.DataFrame(
        {
            "species": np.where(place % 3 == 0, "setosa", "iris, wild"),
            "petal length": 1 + place * 0.037,
            "age": place % 50 + 18,
            "born": pd.Timestamp("2000-01-01") + pd.to_timedelta(place * 7, unit="D"),
            "alive": place % 2 == 0,
            "size": pd.Categorical.from_codes(place % 3, dtype=size),
            "visits": pd.array([None if p % 7 == 0 else p for p in place], dtype="Int64"),
            7: place * 1.5,
        }
    )


CODEC = TableCodec.fit(_frame())


@pytest.mark.parametrize(
    ("texts", "query"),
    [
        (["species=setosa"], "species == 'setosa'"),
        (['species in setosa, "iris, wild"'], "species == species"),
        (["1.5<=petal length<=2"], "1.5 <= `petal length` <= 2"),
        (["1.5 < petal length < 2.0"], "1.5 < `petal length` < 2"),
        (["age>=30", "age<40"], "30 <= age < 40"),
        (["age>30"], "age > 30"),
        (["30.5<age"], "age > 30.5"),
        (["60>=age"], "age <= 60"),
        (["age=31"], "age == 31"),
        (["age in 31, 32", "age<32"], "age == 31"),
        (["born>=2000-06-01"], "born >= '2000-06-01'"),
        (["born<2000-06-03"], "born < '2000-06-03'"),
        (["alive=true"], "alive"),
        (["size>small"], "size > 'small'"),
        (["small<=size<large"], "size < 'large'"),
        (["visits="], "visits.isna()"),
        (["visits>3"], "visits > 3"),
        (["7<=12"], "`7` <= 12"),
    ],
    ids=str,
)
def test_texts_pick_the_rows_that_a_query_of_pandas_picks(texts: list[str], query: str) -> None:
    frame = _frame()
    conditions = conditions_from_texts(texts, CODEC)
    met = np.logical_and.reduce([one.holds(frame[name]) for name, one in conditions.items()])
    named = frame.rename(columns=str)
    expected = named.query(query, engine="python")
    assert len(expected) > 0
    assert named[met].index.equals(expected.index)
    for name, condition in conditions.items():  # what stands in for extrapolation meets it, too
        some = condition.some()
        assert some.dtype == frame[name].dtype
        assert condition.holds(some).all()
        assert str(name) in str(condition)


@given(
    ends=st.tuples(st.integers(0, 80), st.integers(0, 80)).map(sorted),
    others=st.tuples(st.integers(0, 80), st.integers(0, 80)).map(sorted),
)
def test_two_ranges_make_their_intersection(ends: list[int], others: list[int]) -> None:
    texts = [f"{low}<=age<={high}" for low, high in (ends, others)]
    low, high = max(ends[0], others[0]), min(ends[1], others[1])
    if low > high:
        with refused("no value of column 'age'"):
            conditions_from_texts(texts, CODEC)
        return
    met = conditions_from_texts(texts, CODEC)["age"].holds(_frame()["age"])
    assert (met == _frame()["age"].between(low, high)).all()


@pytest.mark.parametrize(
    ("text", "kept"),
    [("big=9007199254740993", [1]), ("big>9007199254740992", [1, 2])],
)
def test_large_whole_numbers_are_exact(text: str, kept: list[int]) -> None:
    frame = pd.DataFrame({"big": np.arange(2**53, 2**53 + 3).repeat(20), "x": np.arange(60) * 0.1})
    found = conditions_from_texts([text], TableCodec.fit(frame))["big"]
    assert frame["big"][found.holds(frame["big"])].unique().tolist() == [2**53 + k for k in kept]


def test_a_program_gives_values_lists_and_pairs() -> None:
    frame = _frame()
    given = {
        "species": "setosa",
        "age": [20, 21],
        "petal length": (None, 2.0),
        "visits": None,
        "born": pd.Timestamp("2000-01-08"),
        "alive": np.True_,
    }
    found = read_conditions(given, CODEC)
    assert [name for name, one in found.items() if one.is_value] == [
        "species", "visits", "born", "alive",
    ]  # fmt: skip
    assert (found["age"].holds(frame["age"]) == frame["age"].isin([20, 21])).all()
    assert found["born"].holds(frame["born"]).tolist() == [False, True, *[False] * 58]


def test_days_of_a_time_zone_are_the_days_there() -> None:
    days = _frame()["born"].dt.tz_localize("Europe/Berlin")
    codec = TableCodec.fit(pd.DataFrame({"born": days, "age": _frame()["age"]}))
    day = pd.Timestamp("2000-01-08", tz="Europe/Berlin")
    for wanted, met in (
        (day, [1]),
        ([day, day + pd.Timedelta("7D")], [1, 2]),
        ((None, day), [0, 1]),
    ):
        condition = read_conditions({"born": wanted}, codec)["born"]
        assert np.flatnonzero(condition.holds(days)).tolist() == met
    assert read_conditions({"born": day}, codec)["born"].some().tolist() == [day]


def test_what_stands_in_for_a_range_has_the_resolution_of_its_column() -> None:
    for name, ends in (("born", ("2031-01-01", "2031-12-31")), (7, (1000, 1100))):
        condition = read_conditions({name: ends}, CODEC)[name]
        some = condition.some()
        assert len(some.unique()) > 10
        assert condition.holds(some).all()
        assert (some == (some.dt.normalize() if name == "born" else some // 1.5 * 1.5)).all()
    narrow = read_conditions({7: (1000.1, 1000.2)}, CODEC)[7]
    assert narrow.holds(narrow.some()).all()


@pytest.mark.parametrize(
    ("name", "ends", "query"),
    [
        ("petal length", (np.nan, 2.0), "`petal length` <= 2"),
        ("petal length", (-np.inf, 2.0), "`petal length` <= 2"),
        ("age", (30, np.inf), "age >= 30"),
        ("visits", (pd.NA, 7), "visits <= 7"),
        ("born", ("2000-06-01", pd.NaT), "born >= '2000-06-01'"),
        ("size", ("medium", np.nan), "size >= 'medium'"),
    ],
    ids=str,
)
def test_a_gap_and_infinity_are_open_ends(name: str, ends: tuple, query: str) -> None:
    frame = _frame().rename(columns=str)
    met = read_conditions({name: ends}, CODEC)[name].holds(frame[name])
    assert frame[met].index.equals(frame.query(query, engine="python").index)


@pytest.mark.parametrize("dtype", [np.float32, "Float32", "float[pyarrow]", np.float16])
def test_numbers_are_as_exact_as_their_column(dtype: object) -> None:
    tenths = pd.Series(np.arange(1, 61) % 10 / 10)
    frame = pd.DataFrame({"x": tenths.astype(dtype), "y": np.arange(60) * 0.37})
    codec = TableCodec.fit(frame)
    for text, expected in (
        ("x=0.3", tenths == 0.3),
        ("x in 0.3, 0.7", tenths.isin([0.3, 0.7])),
        ("x<=0.3", tenths <= 0.3),
        ("x<0.7", tenths < 0.7),
        ("0.1<x", tenths > 0.1),
    ):
        assert conditions_from_texts([text], codec)["x"].holds(frame["x"]).tolist() == list(
            expected
        )


@pytest.mark.parametrize("amounts", [[3, 7], [1, 2, 5]])
def test_zero_is_a_value_of_a_column_of_many_zeros(amounts: list[int]) -> None:
    frame = pd.DataFrame({"x": [0] * 60 + amounts * 20})
    frame["word"] = ["a", "b", "c", "d"] * (len(frame) // 4)
    codec = TableCodec.fit(frame, {"x": "mostly-zero"})
    back = codec.decode(codec.encode(frame, np.random.default_rng(0)), np.random.default_rng(0))
    pd.testing.assert_frame_equal(back, frame)
    for wanted in (0, [0], (0, 0)):
        assert read_conditions({"x": wanted}, codec)["x"].holds(frame["x"]).sum() == 60
    with refused("no value '4'; known: 0, "):
        read_conditions({"x": 4}, codec)


@pytest.mark.parametrize("dtype", ["int8", "Int8", "int8[pyarrow]", "int64", "uint64"])
def test_whole_numbers_have_room_in_their_column(dtype: str) -> None:
    frame = pd.DataFrame({"n": pd.Series(range(100, 120)).repeat(3).astype(dtype)})
    codec = TableCodec.fit(frame)
    too_large = 300 if "8" in dtype else 2**70
    for wanted in (too_large, [too_large], (too_large, None), (None, -too_large)):
        with refused("column 'n' holds (whole )?numbers, not"):
            read_conditions({"n": wanted}, codec)
    condition = read_conditions({"n": (110, too_large)}, codec)["n"]
    assert condition.holds(frame["n"]).sum() == 30
    assert condition.holds(condition.some()).all()


def test_a_range_without_a_category_is_refused() -> None:
    frame = pd.DataFrame({"zip": [101, 205, 309] * 20, "two": [3, 7] * 30, "one": 5, "x": 0.1})
    codec = TableCodec.fit(frame, {"zip": "categorical"})
    for name in ("zip", "two", "one"):
        with refused(f"no value of column '{name}' is from 110 to 120"):
            read_conditions({name: (110, 120)}, codec)
    assert read_conditions({"zip": (200, 400)}, codec)["zip"].holds(frame["zip"]).sum() == 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("species", "'species' is no condition"),
        ("age==3", "is no condition"),
        ("age>", "is no condition"),
        ("specis=setosa", "no column 'specis'; known: species, petal length"),
        ("species=rose", "no value 'rose'; known: iris, wild, setosa"),
        ("species>setosa", "categories and no ranges"),
        ("age=1.5", "holds whole numbers, not '1.5'"),
        ("age=", "has no gaps"),
        ("age>old", "holds numbers, not 'old'"),
        ("age>=nan", "holds numbers, not 'nan'"),
        ("petal length>inf", "holds numbers, not 'inf'"),
        ("born>soon", "holds dates, not 'soon'"),
        ("born>=NaT", "holds dates, not 'NaT'"),
        ("alive=perhaps", "holds true or false, not 'perhaps'"),
        ("3<=petal length<=2", "is from 3.0 to 2.0"),
        ("size>large", "no value of column 'size'"),
    ],
)
def test_texts_that_are_no_condition_are_refused(text: str, message: str) -> None:
    with refused(message):
        conditions_from_texts([text], CODEC)


def test_conditions_that_contradict_each_other_are_refused() -> None:
    with refused("contradict each other"):
        conditions_from_texts(["species=setosa", "species=iris, wild"], CODEC)


def test_cells_have_the_dtype_of_their_column() -> None:
    frame = _frame()
    for name, entries in (("visits", [3, None]), ("size", ["large", None]), ("age", ["20", 21.0])):
        series = cells(CODEC.column(name), entries)
        assert series.dtype == frame[name].dtype
        assert series.isna().tolist() == [value is None for value in entries]
    assert cells(CODEC.column("age"), ["20", 21.0]).tolist() == [20, 21]
