import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import refused
from kan_diffusion.errors import DataError
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.conditions import read_conditions
from kan_diffusion.tables.dates import format_of, read_dates, written_dates
from kan_diffusion.tables.files import read_table
from kan_diffusion.tables.kinds import fit_column

MOMENTS = pd.Series(pd.date_range("2019-12-28 01:02:03", periods=400, freq="37h41min7s"))


def _form(texts):
    cells = np.array(list(texts), dtype=object)
    return format_of(cells, np.zeros(len(cells), bool), "day")


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("%Y-%m-%d", "%Y-%m-%d"),
        ("%d.%m.%Y", "%d.%m.%Y"),
        ("%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M"),
        ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%SZ"),
        ("%Y-%m-%d %H:%M:%S+02:00", "%Y-%m-%d %H:%M:%S+02:00"),
        ("%Y/%m", "%Y/%m"),
        ("%d/%m/%y", "%d/%m/%y"),
        # Without leading zeros, as spreadsheets write them.
        ("%-m/%-d/%Y", "{m}/{d}/{Y}"),
        ("%-d.%-m.%Y %-H:%M", "{d}.{m}.{Y} {H}:%M"),
        # With names of months, and hours from 1 to 12.
        ("%d-%b-%y", "%d-%b-%y"),
        ("%-d %b %Y %H:%M", "{d} %b %Y %H:%M"),
        ("%b %d, %Y", "%b %d, %Y"),
        ("%B %d, %Y", "%B %d, %Y"),
        ("%-d %B %Y %H:%M", "{d} %B %Y %H:%M"),
        ("%-m/%-d/%Y %-I:%M %p", "{m}/{d}/{Y} {I}:%M %p"),
        ("%Y-%m-%d %I:%M:%S%p", "%Y-%m-%d %I:%M:%S%p"),
    ],
)
def test_dates_are_found_in_any_of_the_usual_formats_and_come_back(form, pattern):
    def text(moment):
        parts = {"m": moment.month, "d": moment.day, "Y": moment.year, "H": moment.hour}
        parts["I"] = (moment.hour - 1) % 12 + 1
        return moment.strftime(pattern).format(**parts)

    texts = MOMENTS.map(text).to_numpy(object)
    assert _form(texts) == form
    read = read_dates(texts, form)
    assert written_dates(read, form).tolist() == texts.tolist()
    unit = "M" if form == "%Y/%m" else "m" if "%M" in form else "D"
    expected = MOMENTS.to_numpy().astype(f"M8[{unit}]")
    np.testing.assert_array_equal(read.astype(f"M8[{unit}]"), expected)


@given(st.lists(st.datetimes(pd.Timestamp(1900, 1, 1), pd.Timestamp(2100, 1, 1)), min_size=1))
def test_fractions_of_seconds_come_back(moments):
    texts = np.array([moment.isoformat(" ", "milliseconds") for moment in moments], dtype=object)
    assert _form(texts) == "%Y-%m-%d %H:%M:%S.%3f"
    assert written_dates(read_dates(texts, _form(texts)), _form(texts)).tolist() == texts.tolist()


def test_a_cell_decides_whether_the_day_comes_first(caplog):
    assert _form(["5/3/2024", "6/13/2024"]) == "%-m/%-d/%Y"
    assert _form(["5/3/2024", "13/6/2024"]) == "%-d/%-m/%Y"
    assert not caplog.records
    assert _form(["5/3/2024", "6/4/2024"]) == "%-d/%-m/%Y"
    assert "give the column the kind 'date:%-m/%-d/%Y'" in caplog.text


@pytest.mark.parametrize(
    ("first", "last"), [(1940, 1994), (1960, 2035), (2005, 2024), (1970, 2020), (1994, 1994)]
)
def test_years_of_two_digits_lie_in_the_hundred_that_their_gap_ends(first, last, caplog):
    days = pd.Series(pd.date_range(f"{first}-01-05", f"{last}-12-20", periods=400).normalize())
    frame = pd.DataFrame({"born": days.dt.strftime("%m/%d/%y"), "x": np.arange(400) * 0.37})
    codec = TableCodec.fit(frame)
    assert f"'born' writes years in two digits, read as {first} to {last}; write" in caplog.text
    storage = codec.columns[0].storage
    np.testing.assert_array_equal(storage.read(frame["born"], "born")[0], days)
    pd.testing.assert_series_equal(codec.decode(codec.encode(frame))["born"], frame["born"])
    middle = days[200].strftime("%m/%d/%y")
    met = read_conditions({"born": (middle, None)}, codec)["born"].holds(frame["born"])
    assert met.tolist() == (days >= days[200]).tolist()
    assert type(codec).model_validate_json(codec.model_dump_json()) == codec


def test_a_time_of_day_that_is_none_makes_texts_of_all_and_is_named(caplog):
    times = [f"{hour:02}:15" for hour in range(24)]
    assert _form([*times, "24:00"]) is None
    assert "'day' is read as text: row 25 holds '24:00' and most are %H:%M; correct" in caplog.text


@pytest.mark.parametrize(
    "form",
    ["%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S+02:00", "%Y%m%d"],
)
def test_dates_of_a_file_come_back_as_they_were_written(form, tmp_path):
    file, drawn = tmp_path / "visits.csv", tmp_path / "drawn.csv"
    MOMENTS.dt.strftime(form).to_frame("visit").to_csv(file, index=False)
    codec = TableCodec.fit(read_table(file)[0])
    assert codec.columns[0].kind == "date"
    codec.decode(codec.encode(codec.read(file)[0])).to_csv(drawn, index=False)
    assert drawn.read_text() == file.read_text()
    texts = read_table(file)[0]["visit"]
    assert fit_column("visit", texts, codec.columns[0].spelled) == codec.columns[0]
    zone = form[17:].replace("Z", "+00:00")  # times without one are in that of the column
    for first in (f"2020-05-01T12:00:00{zone}", "2020-05-01 12:00"):
        met = read_conditions({"visit": (first, None)}, codec)["visit"].holds(texts)
        later = ("2020-05-01 12:00" if "%M" in form else "2020-05-02") <= MOMENTS
        assert met.tolist() == later.tolist()


def test_dates_whose_offsets_differ_stay_and_new_ones_are_in_utc(tmp_path):
    file = tmp_path / "visits.csv"
    hours = MOMENTS.dt.floor("h")
    summer = hours.dt.month.between(4, 9)
    texts = hours.dt.strftime("%Y-%m-%dT%H:%M:%S") + np.where(summer, "+02:00", "+01:00")
    texts.to_frame("visit").to_csv(file, index=False)
    frame = read_table(file)[0]
    codec = TableCodec.fit(frame)
    assert codec.columns[0].spelled == "date:%Y-%m-%dT%H:%M:%S%z"
    given = codec.decode(codec.encode(frame), frame)["visit"]
    assert given.tolist() == texts.tolist()
    drawn = codec.decode(codec.encode(frame))["visit"]
    assert drawn.str.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00").all()
    assert (pd.to_datetime(drawn) == pd.to_datetime(texts, utc=True)).all()
    met = read_conditions({"visit": ("2020-07-01T12:00+02:00", None)}, codec)["visit"]
    assert met.holds(frame["visit"]).sum() == (hours >= "2020-07-01 12:00").sum()


@pytest.mark.parametrize("dtype", ["int64", "int32", "Int64", "int64[pyarrow]"])
@pytest.mark.parametrize(
    ("form", "ends"), [("%Y%m%d", "20191223 to 20210918"), ("%Y%m", "202001, 202002, ")]
)
def test_whole_numbers_that_are_all_days_or_all_months_are_dates(form, ends, dtype):
    moments = MOMENTS[3:].reset_index(drop=True)  # of three a month would be a rare one
    days = moments.dt.strftime(form).astype("int64").astype(dtype)
    frame = pd.DataFrame({"day": days, "x": np.arange(397) * 0.37})
    if dtype == "Int64":
        frame.loc[7, "day"] = None
    codec = TableCodec.fit(frame)
    assert codec.columns[0].spelled == f"date:{form}"
    assert f"day: date, {ends}" in codec.summary("days")
    pd.testing.assert_series_equal(codec.decode(codec.encode(frame))["day"], frame["day"])
    drawn = codec.decode(torch.randn(500, codec.dim, generator=torch.manual_seed(0)))["day"]
    assert drawn.dtype == frame["day"].dtype
    assert (
        pd.to_datetime(drawn.dropna().astype(str), format=form)
        .between("2019-12-01", "2022-12-31")
        .all()
    )
    start = moments[3].to_period(form[-1].upper()).start_time
    for one in (frame["day"][3], str(frame["day"][3]), start):
        met = read_conditions({"day": one}, codec)["day"].holds(frame["day"])
        assert met.tolist() == (frame["day"] == frame["day"][3]).fillna(False).tolist()
    met = read_conditions({"day": (2020, "2020-06")}, codec)["day"].holds(frame["day"])
    expected = moments.between("2020-01-01", "2020-06-30 23:59:59") & frame["day"].notna()
    assert met.tolist() == expected.tolist()
    assert TableCodec.fit(frame, {"day": "number"}).columns[0].kind == "number"


@pytest.mark.parametrize("form", ["%H:%M", "%-H:%M", "%H:%M:%S"])
def test_times_of_day_are_numbers_that_stay_within_a_day(form):
    minutes = np.random.default_rng(0).integers(0, 24 * 60, 200)
    moments = pd.Series(np.datetime64("2020-01-01") + minutes.astype("m8[m]"))
    texts = moments.dt.strftime(form.replace("-H", "H"))
    texts = texts.str.removeprefix("0") if "-" in form else texts
    codec = TableCodec.fit(texts.to_frame("at"))
    column = codec.columns[0]
    assert (column.kind, column.storage.written) == ("time", form)
    assert codec.decode(codec.encode(texts.to_frame("at")))["at"].tolist() == texts.tolist()
    drawn = codec.decode(torch.linspace(-9, 9, 400)[:, None])["at"]
    assert set(drawn.str.len()) <= set(texts.str.len())
    first, last = drawn.iloc[0], drawn.iloc[-1]
    assert drawn.tolist() == sorted(drawn, key=lambda at: (len(at), at))
    assert column.words() == f"{first} to {last}"
    met = read_conditions({"at": ("08:30:00"[: 5 + 3 * form.count("%S")], None)}, codec)
    hours = moments.dt.hour * 60 + moments.dt.minute
    assert met["at"].holds(texts).tolist() == (hours >= 8 * 60 + 30).tolist()
    with refused("cannot be of kind 'time': it holds dates", DataError):
        fit_column("visit", MOMENTS.dt.strftime("%Y-%m-%d"), "time")


def test_what_is_no_date_stays_text():
    for texts in (
        ["a", "b"], ["1.2.3", "2.0.1"], ["555-1234", "555-9876"], ["10-12-14"], ["2024"],
        ["31/02/2024", "x"], ["12:30", "25:10"], ["3:2", "1:0"], ["1/2", "3/4"],
    ):  # fmt: skip
        assert _form(texts) is None
    for odd in ("2024-02-30", "0000-00-00"):
        with refused(f"'day' mixes dates and text: row 4 holds '{odd}' and most are", DataError):
            _form(["2024-02-01", "2024-02-02", "2024-02-03", odd])


def test_a_column_that_begins_with_gaps_keeps_how_its_dates_are_written(tmp_path):
    texts = [f"2013-01-{day:02} 06:59" for day in range(1, 29)] * 3
    (tmp_path / "late.csv").write_text("\n".join(["id,at", *map("{},".format, range(120))] + [
        f"{number},{text}" for number, text in enumerate(texts)
    ]))  # fmt: skip
    frame, _ = read_table(tmp_path / "late.csv")
    assert frame["at"].dropna().tolist() == texts


def test_a_range_of_times_goes_over_midnight():
    minutes = pd.Series(np.random.default_rng(0).integers(0, 24 * 60, 400))
    few, day = minutes // 360 * 360, 360 + minutes * 7 // 12
    frame = pd.DataFrame({
        name: pd.to_datetime(cells, unit="m").dt.strftime("%H:%M")
        for name, cells in {"at": minutes, "shift": few, "day": day}.items()
    })  # fmt: skip
    codec = TableCodec.fit(frame)
    for name, low, high in (
        ("at", "22:00", "06:00"),
        ("at", "06:00", "22:00"),
        ("shift", "18:00", "06:00"),
        ("day", "19:00", "05:00"),
    ):
        met = read_conditions({name: (low, high)}, codec)[name].holds(frame[name])
        parts = frame[name] >= low, frame[name] <= high
        assert met.tolist() == (parts[0] | parts[1] if low > high else parts[0] & parts[1]).tolist()
    beyond = "within .22:00, 05:00.; smallest and largest: 05:50, 20:00"
    with refused(beyond, DataError):
        read_conditions({"day": ("22:00", "05:00")}, codec)
