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
    }
)
CODEC = TableCodec.fit(FRAME)


def test_conditions_pick_the_rows_that_a_query_of_pandas_picks():
    named = FRAME.rename(columns=str)
    for asked, query in (
        (["species=setosa"], "species == 'setosa'"),
        (['species in setosa, "iris, wild"'], "species == species"),
        (["1.5<=petal length<=2"], "1.5 <= `petal length` <= 2"),
        (["30<=age<=40"], "30 <= age <= 40"),
        (["age>=29.5", "7<=50"], "age >= 30 and `7` <= 50"),
        (["born>=2000-06-01"], "born >= '2000-06-01'"),
        (["alive=true"], "alive"),
        (["size<=medium"], "size < 'large'"),
        (["visits="], "visits.isna()"),
        (["7<=12"], "`7` <= 12"),
        # A gap and infinity are open ends.
        ({"petal length": (np.nan, 2.0)}, "`petal length` <= 2"),
        ({"age": (30, np.inf)}, "age >= 30"),
        ({"visits": (pd.NA, 7)}, "visits <= 7"),
        ({"born": ("2000-06-01", pd.NaT)}, "born >= '2000-06-01'"),
        ({"size": ("medium", None)}, "size >= 'medium'"),
    ):
        given = conditions_from_texts(asked) if isinstance(asked, list) else asked
        conditions = read_conditions(given, CODEC)
        met = np.logical_and.reduce([one.holds(FRAME[name]) for name, one in conditions.items()])
        expected = named.query(query, engine="python")
        assert len(expected) > 0
        assert named[met].index.equals(expected.index)
        for name, condition in conditions.items():
            if condition.is_value:
                cells = condition.cells(3)
                assert cells.dtype == FRAME[name].dtype
                assert condition.holds(cells).all()


def test_a_program_gives_values_lists_and_pairs():
    day = pd.Timestamp("2000-01-08")
    given = {"species": "setosa", "age": [20, 21], "visits": None, "born": day, "alive": np.True_}
    found = read_conditions(given | {"petal length": (None, 2.0)}, CODEC)
    values = {name for name, one in found.items() if one.is_value}
    assert values == given.keys() - {"age"}
    assert (found["age"].holds(FRAME["age"]) == FRAME["age"].isin([20, 21])).all()
    assert found["born"].holds(FRAME["born"]).tolist() == [False, True, *[False] * 58]


def test_a_year_is_a_year_and_a_day_is_read_as_its_column_reads_it():
    days = pd.Timestamp("1988-05-01") + pd.to_timedelta(np.arange(1500), unit="D")
    for cells in (pd.Series(days), pd.Series(days).dt.strftime("%d/%m/%Y")):
        codec = TableCodec.fit(pd.DataFrame({"born": cells, "x": np.arange(1500) * 0.37}))
        for given, first, last in (
            ((1990, None), "1990-01-01", days[-1]),
            ((None, "1990"), days[0], "1990-12-31"),
            (("1989-02", "1989-02"), "1989-02-01", "1989-02-28"),
            (("1990", 1990), "1990-01-01", "1990-12-31"),
            ("1990", "1990-01-01", "1990-12-31"),
            ("1990-02", "1990-02-01", "1990-02-28"),
            *(((None, day), days[0], day) for day in ("1990-02-05", pd.Timestamp("1990-02-05"))),
            ((None, "1990-02-05T00:00"), days[0], "1990-02-05"),
        ):
            met = days[read_conditions({"born": given}, codec)["born"].holds(cells)]
            assert (met[0], met[-1]) == (pd.Timestamp(first), pd.Timestamp(last))
    months = pd.DataFrame(
        {"month": pd.Series(days).dt.strftime("%Y-%m"), "x": np.arange(1500) * 0.37}
    )
    assert read_conditions({"month": "1990-05"}, TableCodec.fit(months))["month"].is_value
    day = read_conditions({"born": "05/06/1990"}, codec)["born"]
    assert pd.Series(days)[day.holds(cells)].tolist() == [pd.Timestamp("1990-06-05")]
    for wrong in (5, "soon"):
        with refused(f"column 'born' holds dates written as %d/%m/%Y, not '{wrong}'"):
            read_conditions({"born": wrong}, codec)


@pytest.mark.parametrize("unit", "YQMD")
def test_a_period_is_a_value_of_its_column(unit):
    days = pd.Series(pd.Timestamp("2018-05-01") + pd.to_timedelta(np.arange(1500), unit="D"))
    periods = days.dt.to_period(unit)
    codec = TableCodec.fit(pd.DataFrame({"at": periods, "x": np.arange(1500) * 0.37}))
    first, last = periods[300], periods[700]
    for given, met in (
        (first, periods == first),
        ([first, last], periods.isin([first, last])),
        ((first, last), periods.between(first, last)),
        (str(first), periods == first),
        ((None, str(last)), periods <= last),
        ("2020Q2", (days.dt.year == 2020) & (days.dt.quarter == 2)),
    ):
        if unit != "Y" or given != "2020Q2":
            found = read_conditions({"at": given}, codec)["at"]
            assert found.holds(periods).tolist() == met.tolist()
            assert found.is_value == (str(given) == str(first) or (unit, given) == ("Q", "2020Q2"))


def test_a_time_span_needs_a_unit():
    spans = pd.DataFrame({"took": pd.to_timedelta(np.arange(90) % 50, unit="min")})
    codec = TableCodec.fit(spans)
    for given in (5, "5", 2.5):
        with refused(
            f"column 'took' holds time spans; give {given} a unit, such as '{given} days'"
        ):
            read_conditions({"took": (None, given)}, codec)
    met = read_conditions({"took": (None, "5 min")}, codec)["took"].holds(spans["took"])
    assert spans["took"][met].max() == pd.Timedelta("5min")


def test_times_without_a_zone_are_those_of_their_column_in_rows_and_in_conditions():
    zone = "America/New_York"
    times = pd.Series(pd.date_range("2021-03-01 08:00", periods=300, freq="97min", tz=zone))
    codec = TableCodec.fit(pd.DataFrame({"at": times, "x": np.arange(300) * 0.37}))
    naive = times.dt.tz_localize(None)
    for cells in (naive, naive.astype(object)):
        row = pd.DataFrame({"at": cells[:3]})
        drawn = codec.decode(codec.encode(row.assign(x=0.37)), row)
        assert drawn["at"].tolist() == times[:3].tolist()
    for ends in ((naive[5], naive[7]), (times[5], times[7]), [*times[5:8]]):
        met = read_conditions({"at": ends}, codec)["at"].holds(times)
        assert np.flatnonzero(met).tolist() == [5, 6, 7]
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


def test_numbers_are_as_exact_as_their_column():
    tenths = pd.Series(np.arange(1, 61) % 10 / 10)
    for dtype in (np.float32, "Float32", "float[pyarrow]", np.float16):
        frame = pd.DataFrame({"x": tenths.astype(dtype), "y": PLACE * 0.37})
        codec = TableCodec.fit(frame)
        for text, expected in (
            ("x=0.3", tenths == 0.3),
            ("x in 0.3, 0.7", tenths.isin([0.3, 0.7])),
            ("x<=0.3", tenths <= 0.3),
        ):
            given = conditions_from_texts([text])
            met = read_conditions(given, codec)["x"].holds(frame["x"])
            assert met.tolist() == list(expected)
    frame = pd.DataFrame({"big": np.arange(2**53, 2**53 + 3).repeat(20), "x": PLACE * 0.1})
    given = conditions_from_texts(["big=9007199254740993"])
    found = read_conditions(given, TableCodec.fit(frame))["big"]
    assert set(frame["big"][found.holds(frame["big"])] - 2**53) == {1}


@pytest.mark.parametrize("dtype", ["int8", "uint64"])
def test_whole_numbers_have_room_in_their_column(dtype):
    codec = TableCodec.fit(pd.DataFrame({"n": pd.Series(range(60, 120)).astype(dtype)}))
    too_large = 300 if dtype == "int8" else 2**70
    if dtype == "uint64":
        large = pd.Series(2**64 - 1 - np.arange(90, dtype="uint64") % 45)
        met = read_conditions(
            {"n": [2**64 - 1, str(2**64 - 4)]}, TableCodec.fit(large.to_frame("n"))
        )
        assert large[met["n"].holds(large)].nunique() == 2
    for wanted, words in (
        (too_large, "column 'n' has (300|1.18059e.21) in a condition, and "),
        ((too_large, None), "no value of column 'n' is within"),
    ):
        with refused(words):
            read_conditions({"n": wanted}, codec)


def test_conditions_that_cannot_be_met_are_refused():
    for given, message in (
        ({"species": []}, "column 'species' is to have one of no values"),
        ("species", "'species' is no condition"),
        ("age<3", "is no condition"),
        ("1<=age=3", "is no condition"),
        ("age==3", "holds numbers, not '=3'"),
        ("specis=setosa", "no column 'specis'; known: species, petal length"),
        ("species=rose", "no value 'rose'; known: \"iris, wild\", setosa"),
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
        ("3<=petal length<=2", r"no value of column 'petal length' is within \(3, 2\)"),
        ("born>=2031-01-01", r"'born' is within \(2031-01-01, None\); smallest and largest: 1999"),
    ):
        with refused(message):
            asked = conditions_from_texts([given]) if isinstance(given, str) else given
            read_conditions(asked, CODEC)
    clock = TableCodec.fit(pd.DataFrame({"at": [f"{hour:02}:30" for hour in PLACE % 24]}))
    with refused("column 'at' holds times of day written as %H:%M, not '24:00'"):
        read_conditions({"at": "24:00"}, clock)
    with refused("two conditions on column 'age'"):
        conditions_from_texts(["age>=30", "age<=40"])
    assert conditions_from_texts(["pay=>50K", "job=a=b"]) == {"pay": ">50K", "job": "a=b"}


def test_a_bound_may_stand_before_its_column_and_spaces_and_capitals_need_not_be_written():
    frame = pd.DataFrame(
        {
            "day": pd.date_range("2016-01-01", periods=40),
            "deal": ["WD ", "New"] * 20,
            "paid": ["TRUE", "FALSE"] * 20,
            "a=b": [1, 2, 3, 4] * 10,
            "a": ["b=1", "c"] * 20,
            " net pay ": [5, 6, 7, 8] * 10,
        }
    )
    codec = TableCodec.fit(frame)
    for text, met in (
        ("2016-02-05<=day", frame["day"] >= "2016-02-05"),
        ("2016-01-05>=day", frame["day"] <= "2016-01-05"),
        ("deal=WD", frame["deal"] == "WD "),
        ("deal=WD ", frame["deal"] == "WD "),
        ("paid=true", frame["paid"] == "TRUE"),
        ("a=b=2", frame["a=b"] == 2),
        ("2<=a=b<=3", frame["a=b"].between(2, 3)),
        ("3<=a=b", frame["a=b"] >= 3),
        ("a=b in 1, 4", frame["a=b"].isin([1, 4])),
        ("a=c", frame["a"] == "c"),
        ("net pay=7", frame[" net pay "] == 7),
        (" net pay  in 5, 8", frame[" net pay "].isin([5, 8])),
        ("6<=net pay", frame[" net pay "] >= 6),
    ):
        asked = read_conditions(conditions_from_texts([text], list(frame)), codec)
        ((name, condition),) = asked.items()
        assert condition.holds(frame[name]).tolist() == met.tolist()


def test_numbers_may_have_the_decimal_comma_of_their_file(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text("price;name\n" + "".join(f"{n // 4},{25 * (n % 4):02d};x\n" for n in range(60)))
    frame, form = read_table(path)
    codec = TableCodec.fit(frame).model_copy(update={"form": form})
    for texts, met in (
        (["price=3,25"], frame["price"] == 3.25),
        (["price>=3,5"], frame["price"] >= 3.5),
        (["3,50<=price<=4.25"], frame["price"].between(3.5, 4.25)),
        (['price in "3,25", 4'], frame["price"].isin([3.25, 4])),
    ):
        ((_, condition),) = read_conditions(conditions_from_texts(texts), codec).items()
        assert condition.holds(frame["price"]).tolist() == met.tolist()
    plain = TableCodec.fit(frame)
    with refused("'price' holds numbers, not '3,25'"):
        read_conditions({"price": "3,25"}, plain)


@pytest.mark.parametrize("declared", [[3, 1, 2], ["2021-03-01", "2021-01-01", "2021-02-01"]])
def test_the_declared_order_of_categories_decides_a_range_whatever_they_are(declared):
    known = pd.Series(declared) if declared[0] == 3 else pd.to_datetime(pd.Series(declared))
    dtype = pd.CategoricalDtype(known, ordered=True)
    frame = pd.DataFrame({"size": pd.Categorical.from_codes(PLACE % 3, dtype=dtype), "x": PLACE})
    codec = TableCodec.fit(frame)
    first, second, third = declared
    for given, met in (
        (f"size>={second}", [1, 2]),
        (f"size<={first}", [0]),
        (f"{second}<=size<={third}", [1, 2]),
    ):
        ((_, condition),) = read_conditions(conditions_from_texts([given]), codec).items()
        assert condition.holds(frame["size"]).tolist() == np.isin(PLACE % 3, met).tolist()
    unknown = ("size>=9", "size>=2.5") if first == 3 else ("size>=2020-12-31",)
    for given in (f"{second}<=size<={first}", *unknown):
        with refused(f"known: {first}"):
            read_conditions(conditions_from_texts([given]), codec)
    # In order by value, any end will do.
    rising = frame.astype({"size": pd.CategoricalDtype(known.sort_values(), ordered=True)})
    given = {"size": (2.5, None) if first == 3 else ("2021-02-15", None)}
    met = read_conditions(given, TableCodec.fit(rising))["size"].holds(rising["size"])
    assert met.tolist() == (rising["size"] == known[0]).tolist()


def test_a_time_that_a_change_of_clocks_leaves_out_or_repeats_is_read_by_a_rule():
    zone = "America/New_York"
    for day, hour, met in (
        ("2021-03-14", "02:30", ["03:00-0400"]),  # left out
        ("2021-11-07", "01:30", ["01:30-0400", "01:30-0500"]),  # there twice
    ):
        hours = pd.date_range(day, periods=96, freq="30min", tz=zone)
        frame = pd.DataFrame({"at": hours, "x": np.arange(96) * 0.37})
        at = read_conditions({"at": f"{day} {hour}"}, TableCodec.fit(frame))["at"]
        assert hours[at.holds(frame["at"])].strftime("%H:%M%z").tolist() == met
        later = read_conditions({"at": (f"{day} {hour}", None)}, TableCodec.fit(frame))["at"]
        assert hours[later.holds(frame["at"])][0] == hours[at.holds(frame["at"])][0]


def test_a_category_with_a_comma_stands_in_double_quotes_in_a_list_and_errors_say_so():
    frame = pd.DataFrame({"a": ["x, y", 'say "no"', "z"] * 20, "b": PLACE})
    codec = TableCodec.fit(frame)
    for text, met in (
        ('a in "x, y", z', ["x, y", "z"]),
        ('a in say "no", z', ['say "no"', "z"]),
        ('a in "say ""no""", "x, y"', ['say "no"', "x, y"]),
    ):
        ((_, condition),) = read_conditions(conditions_from_texts([text]), codec).items()
        assert condition.holds(frame["a"]).tolist() == frame["a"].isin(met).tolist()
    with refused("column 'a' has no value 'x'; known: say \"no\", \"x, y\", z"):
        read_conditions(conditions_from_texts(["a in x, y"]), codec)
    for wrong in ('a in "x, y', 'a in "x" y, z', "a in x\ny"):
        with refused("is no list .*put a value with a comma in double quotes"):
            conditions_from_texts([wrong])
