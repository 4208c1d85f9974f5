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
        ("born>soon", "holds dates, not 'soon'"),
        ("alive=perhaps", "holds true or false, not 'perhaps'"),
        ("3<=petal length<=2", "is from 3.0 to 2.0"),
        ("size>large", "no value of column 'size'"),
    ],
)
def test_texts_that_are_no_condition_are_refused(text: str, message: str) -> None:
    with refused(message):
        conditions_from_texts([text], CODEC)
    with refused("contradict each other"):
        conditions_from_texts(["species=setosa", 'species="iris, wild"'.replace('"', "")], CODEC)


def test_cells_have_the_dtype_of_their_column() -> None:
    frame = _frame()
    for name, entries in (("visits", [3, None]), ("size", ["large", None]), ("age", ["20", 21.0])):
        series = cells(CODEC.column(name), entries)
        assert series.dtype == frame[name].dtype
        assert series.isna().tolist() == [value is None for value in entries]
    assert cells(CODEC.column("age"), ["20", 21.0]).tolist() == [20, 21]
