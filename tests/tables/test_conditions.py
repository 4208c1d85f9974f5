import numpy as np
import pandas as pd
import pytest

from helpers import refused
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.conditions import conditions_from_texts, read_conditions
from kan_diffusion.tables.files import read_table

PLACE = np.arange(60)
SIZE = pd.CategoricalDtype(["small", "medium", "large"], ordered=True)
FRAME = pd.DataFrame(
    {
        "species": np.where(PLACE % 3 == 0, "setosa", "iris, wild"),
        "petal length": 1 + PLACE * 0.037,
        "age": PLACE % 50 + 18,
        "born": pd.Timestamp("2000-01-01") + pd.to_timedelta(PLACE * 7, unit="D"),
        "alive": PLACE % 2 == 0,
        "size": pd.Categorical.from_codes(PLACE % 3, dtype=SIZE),
        "visits": pd.array([None if p % 7 == 0 else p % 40 for p in PLACE], dtype="Int64"),
        7: PLACE * 1.5,
        "id": [f"p-{place:05d}" for place in PLACE],
        "deal": ["WD ", "New"] * 30,
        "paid": ["TRUE", "FALSE"] * 30,
        "a=b": [1, 2, 3, 4] * 15,
        "a": ["b=1", "c"] * 30,
        " net pay ": [5, 6, 7, 8] * 15,
        "words": ["x, y", 'say "no"', "z"] * 20,
    }
)
CODEC = TableCodec.fit(FRAME)
DAYS = pd.Series(pd.Timestamp("1988-05-01") + pd.to_timedelta(np.arange(1500), unit="D"))


def _asked(given, frame, codec):
    """Conditions on a frame, as texts or as a program gives them, and which rows meet them all."""
    given = [given] if isinstance(given, str) else given
    if isinstance(given, list):
        given = conditions_from_texts(given, [str(name) for name in frame])
    found = read_conditions(given, codec)
    return found, np.logical_and.reduce([one.holds(frame[name]) for name, one in found.items()])


def _met(given, **columns):
    """Which rows of a table of some columns meet conditions."""
    frame = pd.DataFrame(columns)
    return _asked(given, frame, TableCodec.fit(frame))[1].tolist()


@pytest.mark.parametrize(
    ("asked", "query"),
    [
        ("species=setosa", "species == 'setosa'"),
        ('species in setosa, "iris, wild"', "species == species"),
        ("1.5<=petal length<=2", "1.5 <= `petal length` <= 2"),
        ("30<=age<=40", "30 <= age <= 40"),
        (["age>=29.5", "7<=50"], "age >= 30 and `7` <= 50"),
        ("born>=2000-06-01", "born >= '2000-06-01'"),
        ("alive=true", "alive"),
        ("size<=medium", "size < 'large'"),
        ("visits=", "visits.isna()"),
        ("7<=12", "`7` <= 12"),
        # A bound may stand before its column.
        ("2000-06-01<=born", "born >= '2000-06-01'"),
        ("2000-06-01>=born", "born <= '2000-06-01'"),
        # Spaces and capitals need not be written, and names may have any signs.
        ("deal=WD", "deal == 'WD '"),
        ("deal=WD ", "deal == 'WD '"),
        ("paid=true", "paid == 'TRUE'"),
        ("a=b=2", "`a=b` == 2"),
        ("2<=a=b<=3", "2 <= `a=b` <= 3"),
        ("3<=a=b", "`a=b` >= 3"),
        ("a=b in 1, 4", "`a=b` in [1, 4]"),
        ("a=c", "a == 'c'"),
        ("net pay=7", "` net pay ` == 7"),
        (" net pay  in 5, 8", "` net pay ` in [5, 8]"),
        ("6<=net pay", "` net pay ` >= 6"),
        # What has a comma stands in double quotes in a list.
        ('words in "x, y", z', "words in ['x, y', 'z']"),
        ('words in say "no", z', "words in ['say \"no\"', 'z']"),
        ('words in "say ""no""", "x, y"', "words != 'z'"),
        # A gap and infinity are open ends.
        ({"petal length": (np.nan, 2.0)}, "`petal length` <= 2"),
        ({"age": (30, np.inf)}, "age >= 30"),
        ({"visits": (pd.NA, 7)}, "visits <= 7"),
        ({"born": ("2000-06-01", pd.NaT)}, "born >= '2000-06-01'"),
        ({"size": ("medium", None)}, "size >= 'medium'"),
        # A program gives values, lists and pairs.
        ({"species": "setosa", "age": [20, 21]}, "species == 'setosa' and age in [20, 21]"),
        ({"visits": None, "petal length": (None, 2.0)}, "visits.isna() and `petal length` <= 2"),
        ({"born": pd.Timestamp("2000-01-08")}, "'2000-01-08' <= born <= '2000-01-08'"),
        ({"alive": np.True_}, "alive"),
        ({"visits": [None, 8]}, "visits.isna() or visits == 8"),
    ],
    ids=str,
)
def test_conditions_pick_the_rows_that_a_query_of_pandas_picks(asked, query):
    named = FRAME.rename(columns=str)
    conditions, met = _asked(asked, FRAME, CODEC)
    expected = named.query(query, engine="python")
    assert len(expected) > 0
    assert named[met].index.equals(expected.index)
    for name, condition in conditions.items():
        if condition.is_value:
            assert expected[str(name)].nunique(dropna=False) == 1
            cells = condition.cells(3)
            assert cells.dtype == FRAME[name].dtype
            assert condition.holds(cells).all()


def test_values_are_observed_and_ranges_and_lists_are_sought():
    given = {"species": "setosa", "visits": None, "born": pd.Timestamp("2000-01-08"), "alive": True}
    found = read_conditions(given | {"age": [20, 21], "petal length": (None, 2.0)}, CODEC)
    assert {name for name, one in found.items() if one.is_value} == given.keys()


@pytest.mark.parametrize("written", [None, "%d/%m/%Y"])
def test_a_year_is_a_year_and_a_day_is_read_as_its_column_reads_it(written):
    born = DAYS if written is None else DAYS.dt.strftime(written)
    for given, first, last in (
        ((1990, None), "1990-01-01", DAYS.iloc[-1]),
        ((None, "1990"), DAYS[0], "1990-12-31"),
        (("1989-02", "1989-02"), "1989-02-01", "1989-02-28"),
        (("1990", 1990), "1990-01-01", "1990-12-31"),
        ("1990", "1990-01-01", "1990-12-31"),
        ("1990-02", "1990-02-01", "1990-02-28"),
        ((None, "1990-02-05"), DAYS[0], "1990-02-05"),
        ((None, pd.Timestamp("1990-02-05")), DAYS[0], "1990-02-05"),
        ((None, "1990-02-05T00:00"), DAYS[0], "1990-02-05"),
        *([("05/06/1990", "1990-06-05", "1990-06-05")] if written else []),
    ):
        met = DAYS[_met({"born": given}, born=born)]
        assert (met.iloc[0], met.iloc[-1]) == (pd.Timestamp(first), pd.Timestamp(last))
    for wrong in (5, "soon") if written else ():
        with refused(f"column 'born' holds dates written as %d/%m/%Y, not '{wrong}'"):
            _met({"born": wrong}, born=born)


@pytest.mark.parametrize("unit", "YQMD")
def test_a_period_is_a_value_of_its_column(unit):
    periods = DAYS.dt.to_period(unit)
    codec = TableCodec.fit(periods.to_frame("at"))
    first, last = periods[300], periods[700]
    for given, met, is_value in (
        (first, periods == first, True),
        ([first, last], periods.isin([first, last]), False),
        ((first, last), periods.between(first, last), False),
        (str(first), periods == first, True),
        ((None, str(last)), periods <= last, False),
        ("1990Q2", DAYS.dt.to_period("Q") == pd.Period("1990Q2"), unit == "Q"),
    ):
        if unit != "Y" or given != "1990Q2":
            found = read_conditions({"at": given}, codec)["at"]
            assert found.holds(periods).tolist() == met.tolist()
            assert found.is_value == is_value
    months = DAYS.dt.strftime("%Y-%m").to_frame("at")
    assert read_conditions({"at": "1990-05"}, TableCodec.fit(months))["at"].is_value


def test_a_time_span_needs_a_unit():
    took = pd.Series(pd.to_timedelta(np.arange(90) % 50, unit="min"))
    for given in (5, "5", 2.5):
        with refused(
            f"column 'took' holds time spans; give {given} a unit, such as '{given} days'"
        ):
            _met({"took": (None, given)}, took=took)
    assert took[_met({"took": (None, "5 min")}, took=took)].max() == pd.Timedelta("5min")


def test_times_without_a_zone_are_those_of_their_column_in_rows_and_in_conditions():
    zone = "America/New_York"
    times = pd.Series(pd.date_range("2021-03-01 08:00", periods=300, freq="97min", tz=zone))
    codec = TableCodec.fit(times.to_frame("at"))
    naive = times.dt.tz_localize(None)
    for cells in (naive, naive.astype(object)):
        row = pd.DataFrame({"at": cells[:3]})
        drawn = codec.decode(codec.encode(row), row)
        assert drawn["at"].tolist() == times[:3].tolist()
    for ends in ((naive[5], naive[7]), (times[5], times[7]), [*times[5:8]]):
        assert np.flatnonzero(_met({"at": ends}, at=times)).tolist() == [5, 6, 7]
    assert read_conditions({"at": times[5]}, codec)["at"].cells(2).tolist() == [times[5]] * 2
    assert "(America/New_York)" in codec.summary("times")


def test_a_range_keeps_to_the_few_values_of_its_column():
    frame = pd.DataFrame({"zip": [101, 205, 309] * 20, "two": [3, 7] * 30, "one": 5})
    frame = frame.assign(x=frame["zip"] / 100)
    codec = TableCodec.fit(frame, {"zip": "category"})
    for name, known in (("zip", "101, 205, 309"), ("two", "3, 7"), ("one", "5"), ("x", "1.01, 2")):
        with refused(f"no value of column '{name}' is within \\(110, 120\\); known: {known}"):
            read_conditions({name: (110, 120)}, codec)
    for name, ends, values in (("zip", (200, 400), [205, 309]), ("x", (2, None), [2.05, 3.09])):
        condition = read_conditions({name: ends}, codec)[name]
        assert sorted(condition.values.tolist()) == values
        assert condition.holds(frame[name]).sum() == 40


@pytest.mark.parametrize("dtype", [np.float32, "Float32", "float[pyarrow]", np.float16])
def test_numbers_are_as_exact_as_their_column(dtype):
    tenths = pd.Series(np.arange(1, 61) % 10 / 10)
    for text, expected in (
        ("x=0.3", tenths == 0.3),
        ("x in 0.3, 0.7", tenths.isin([0.3, 0.7])),
        ("x<=0.3", tenths <= 0.3),
    ):
        assert _met(text, x=tenths.astype(dtype)) == expected.tolist()


@pytest.mark.parametrize("dtype", ["int8", "uint64"])
def test_whole_numbers_are_exact_and_have_room_in_their_column(dtype):
    n = pd.Series(range(60, 120)).astype(dtype)
    too_large = 300 if dtype == "int8" else 2**70
    if dtype == "uint64":
        large = pd.Series(2**64 - 1 - np.arange(90, dtype="uint64") % 45)
        met = _met({"n": [2**64 - 1, str(2**64 - 4)]}, n=large)
        assert {*large[met]} == {2**64 - 1, 2**64 - 4}
        big = pd.Series(np.arange(2**53, 2**53 + 3).repeat(20))
        assert {*big[_met("big=9007199254740993", big=big)] - 2**53} == {1}
    for wanted, words in (
        (too_large, "column 'n' has (300|1.18059e.21) in a condition, and "),
        ((too_large, None), "no value of column 'n' is within"),
    ):
        with refused(words):
            _met({"n": wanted}, n=n)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"species": []}, "column 'species' is to have one of no values"),
        ("species", "'species' is no condition"),
        ("age<3", "is no condition"),
        ("1<=age=3", "is no condition"),
        ("age==3", "holds numbers, not '=3'"),
        ("specis=setosa", "no column 'specis'; known: species, petal length"),
        ("species=rose", "never drawn as 'rose'; known: \"iris, wild\", setosa"),
        ("species>=setosa", "categories and no ranges"),
        ("age=1.5", "column 'age' has 1.5 in a condition, and only whole numbers"),
        ("age=", "has no gaps"),
        ("id=p-00001", "identifiers, which are made anew"),
        ("age>=old", "holds numbers, not 'old'"),
        ("age>=nan", "holds numbers, not 'nan'"),
        ("petal length>=inf", "column 'petal length' has inf in a condition, beyond"),
        ("born>=NaT", "holds dates, not 'NaT'"),
        ("born=2000-13", "holds dates, not '2000-13'"),
        ("born<=0000", "holds dates, not '0000'"),
        ("alive=perhaps", "holds truth values, not 'perhaps'"),
        ("3<=petal length<=2", r"'petal length' is within \(3, 2\), which ends before it begins;"),
        ("born>=2031-01-01", r"'born' is within \(2031-01-01, None\); smallest and largest: 1999"),
        ("words in x, y", "column 'words' is never drawn as 'x'; known: say \"no\", \"x, y\", z"),
        ('words in "x, y', "is no list .*put a value with a comma in double quotes"),
        ('words in "x" y, z', "is no list .*put a value with a comma in double quotes"),
        ("words in x\ny", "is no list .*put a value with a comma in double quotes"),
        (["age>=30", "age<=40"], "two conditions on column 'age'"),
    ],
    ids=str,
)
def test_conditions_that_cannot_be_met_are_refused(given, message):
    with refused(message):
        _asked(given, FRAME, CODEC)


def test_a_time_that_no_day_has_is_refused_and_names_that_are_not_known_end_at_the_first_sign():
    with refused("column 'at' holds times of day written as %H:%M, not '24:00'"):
        _met({"at": "24:00"}, at=[f"{hour:02}:30" for hour in PLACE % 24])
    assert conditions_from_texts(["pay=>50K", "job=a=b"]) == {"pay": ">50K", "job": "a=b"}


def test_numbers_may_have_the_decimal_comma_of_their_file(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text("price;name\n" + "".join(f"{n // 4},{25 * (n % 4):02d};x\n" for n in range(60)))
    frame, form = read_table(path)
    plain = TableCodec.fit(frame)
    codec = plain.model_copy(update={"form": form})
    for text, met in (
        ("price=3,25", frame["price"] == 3.25),
        ("price>=3,5", frame["price"] >= 3.5),
        ("3,50<=price<=4.25", frame["price"].between(3.5, 4.25)),
        ('price in "3,25", 4', frame["price"].isin([3.25, 4])),
    ):
        assert _asked(text, frame, codec)[1].tolist() == met.tolist()
    with refused("'price' holds numbers, not '3,25'"):
        _asked("price=3,25", frame, plain)


@pytest.mark.parametrize("declared", [[3, 1, 2], ["2021-03-01", "2021-01-01", "2021-02-01"]])
def test_the_declared_order_of_categories_decides_a_range_whatever_they_are(declared):
    known = pd.Series(declared) if declared[0] == 3 else pd.to_datetime(pd.Series(declared))
    size = pd.Categorical.from_codes(PLACE % 3, dtype=pd.CategoricalDtype(known, ordered=True))
    first, second, third = declared
    for given, met in (
        (f"size>={second}", [1, 2]),
        (f"size<={first}", [0]),
        (f"{second}<=size<={third}", [1, 2]),
    ):
        assert _met(given, size=size) == np.isin(PLACE % 3, met).tolist()
    unknown = ("size>=9", "size>=2.5") if first == 3 else ("size>=2020-12-31",)
    for given in (f"{second}<=size<={first}", *unknown):
        with refused(f"known: {first}"):
            _met(given, size=size)
    wider = pd.concat([known, known.max() + (known.max() - known.min()) * pd.Series([1, 2])])
    wide = size.astype(pd.CategoricalDtype(wider, ordered=True))  # with some that no row has
    assert _met({"size": (second, wider.iloc[-2])}, size=wide) == (PLACE % 3 > 0).tolist()
    with refused(f"no value of column 'size' is within .*known: {first}"):
        _met({"size": tuple(wider[-2:])}, size=wide)
    # In order by value, any end will do.
    rising = size.astype(pd.CategoricalDtype(known.sort_values(), ordered=True))
    ends = (2.5, None) if first == 3 else ("2021-02-15", None)
    assert _met({"size": ends}, size=rising) == (rising == known[0]).tolist()


def test_a_time_that_a_change_of_clocks_leaves_out_or_repeats_is_read_by_a_rule():
    for day, hour, met in (
        ("2021-03-14", "02:30", ["03:00-0400"]),  # left out
        ("2021-11-07", "01:30", ["01:30-0400", "01:30-0500"]),  # there twice
    ):
        hours = pd.date_range(day, periods=96, freq="30min", tz="America/New_York")
        at = hours[_met({"at": f"{day} {hour}"}, at=hours)]
        assert at.strftime("%H:%M%z").tolist() == met
        assert hours[_met({"at": (f"{day} {hour}", None)}, at=hours)][0] == at[0]
