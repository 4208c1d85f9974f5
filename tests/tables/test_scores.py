import datetime
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from scipy.stats.contingency import association, crosstab

from helpers import refused
from kan_diffusion.errors import DataError
from kan_diffusion.tables.page import outline
from kan_diffusion.tables.scores import features_of, table_scores
from mixed_tables import people, shuffled

TRAIN, REAL = people(1_200, 1), people(700, 2)
WRONG = shuffled(TRAIN, 4).assign(income=lambda frame: 1.1 * frame["income"])
CATEGORIES = ("job", "smokes")


@pytest.fixture(scope="module")
def scores():
    return table_scores(REAL, WRONG, train=TRAIN, generator=0, effort="quick")


def overlap(one, other):
    """One minus the total variation distance of two samples of categories."""
    shares = [cells.value_counts(normalize=True) for cells in (one, other)]
    return 1 - shares[0].sub(shares[1], fill_value=0).abs().sum() / 2


def similarity(name, other):
    real, other = REAL[name].dropna(), other[name].dropna()
    if name in CATEGORIES:
        return overlap(real, other)
    return 1 - ks_2samp(real, other).statistic


def test_columns_are_as_similar_as_their_definitions_say(scores):
    for column in scores.columns.itertuples():
        name = column.name
        assert column.shape == pytest.approx(similarity(name, WRONG), abs=1e-9), name
        assert column.perfect == pytest.approx(similarity(name, TRAIN), abs=1e-9), name
        assert (column.real_gaps, column.synthetic_gaps) == (
            REAL[name].isna().mean(),
            WRONG[name].isna().mean(),
        )
    for what, frame in (("value", WRONG), ("perfect", TRAIN)):
        expected = np.mean([similarity(name, frame) for name in REAL])
        assert scores.scores[what]["shapes"] == pytest.approx(expected)
    gaps = [frame[["job", "score"]].isna() for frame in (REAL, WRONG)]
    differences = (gaps[0].mean() - gaps[1].mean()).abs()
    assert scores.scores["value"]["gaps"] == pytest.approx(1 - differences.mean())


def correlation(frame, names):
    both = frame[names].dropna().assign(**{
        name: lambda f, name=name: f[name].astype("int64") for name in names if name == "since"
    })  # fmt: skip
    return np.corrcoef(both.to_numpy(float).T)[0, 1]


def coded(frame, name):
    """Categories, or places in ten bins of equal width over the real values; a gap is one more."""
    if name in CATEGORIES:
        return frame[name].astype(str).where(frame[name].notna(), "gap")
    number = [f[name].astype("int64") if name == "since" else f[name] for f in (REAL, frame)]
    edges = np.linspace(number[0].min(), number[0].max(), 11)
    return pd.Series(np.digitize(number[1], edges[1:-1])).where(frame[name].notna(), -1)


def test_pairs_are_as_similar_as_their_definitions_say(scores):
    pairs = {(pair.first, pair.second): pair for pair in scores.pairs.itertuples()}
    assert pairs.keys() == set(combinations(REAL, 2))
    for names, pair in pairs.items():
        if {*names} & {*CATEGORIES}:
            codes = [[coded(frame, name) for name in names] for frame in (REAL, WRONG)]
            joint = [one.astype(str) + " " + other.astype(str) for one, other in codes]
            expected = overlap(*joint)
            known = [association(crosstab(*code)[1], method="cramer") for code in codes]
        else:
            known = [correlation(frame, list(names)) for frame in (REAL, WRONG)]
            expected = 1 - abs(known[0] - known[1]) / 2
        assert pair.score == pytest.approx(expected, abs=1e-9), names
        assert (pair.real, pair.synthetic) == pytest.approx(known, abs=1e-6), names
    assert scores.scores["value"]["trends"] == pytest.approx(scores.pairs["score"].mean())


def test_copies_are_as_good_as_real_rows_and_are_found_out():
    rows = TRAIN.sample(frac=1, random_state=0)
    copied = table_scores(REAL, rows, train=TRAIN, generator=0, effort="quick")
    value, perfect = copied.scores["value"], copied.scores["perfect"]
    for key in ("shapes", "trends", "gaps"):
        assert value[key] == pytest.approx(perfect[key], abs=1e-12)
    # 700 of 1,200 training rows are compared: the copies of the others are as near to both.
    assert value["closest"] == pytest.approx(700 / 1_200 + 0.5 * 500 / 1_200, abs=0.03)
    assert (value["copies"], perfect["copies"]) == (1, 0)


def test_the_same_seed_gives_the_same_scores_and_half_of_the_real_rows_are_a_reference():
    one, other = (table_scores(REAL, people(300, 3), generator=0, effort="quick") for _ in range(2))
    pd.testing.assert_frame_equal(one.scores, other.scores)
    assert "closest" not in one.scores.index
    assert one.rows == (700, 300, 0)
    assert one.scores["perfect"]["shapes"] > 0.85


def test_columns_without_a_difference_or_a_synthetic_value():
    frame = people(300, 0).assign(country="here")
    scores = table_scores(frame, frame.assign(score=np.nan), generator=0, effort="quick")
    assert scores.left_out == ("country",)
    assert scores.columns.iloc[0][["name", "shape"]].tolist() == ["score", 0.0]
    changed = frame.assign(country=np.where(np.arange(300) < 90, "there", "here"))
    scores = table_scores(frame, changed, generator=0, effort="quick")
    assert scores.columns.set_index("name")["shape"]["country"] == pytest.approx(0.7, abs=0.1)


@pytest.mark.parametrize("form", ["%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y-%m", "period"])
def test_dates_are_read_as_their_column_writes_them(form):
    days = pd.Series(pd.date_range("2020-03-02", periods=60, freq="11D"))
    real = days.dt.to_period("M") if form == "period" else days.dt.strftime(form)
    frames = {"real": real.to_frame("day"), "synthetic": real[::-2].to_frame("day")}
    if form in ("%Y-%m", "period"):
        days = days.dt.to_period("M").dt.to_timestamp()
    features, rows, _ = features_of(frames, "real", {})
    assert features[0].kind == "date"
    for name, moments in (("real", days), ("synthetic", days[::-2])):
        seconds = (moments - pd.Timestamp(0)).dt.total_seconds()
        assert rows[name][:, 0].tolist() == seconds.tolist()


@pytest.mark.parametrize("dtype", [object, "timedelta64[s]", "duration[s][pyarrow]"])
def test_time_spans_are_judged_in_seconds(dtype):
    spans = [datetime.timedelta(hours=hours) for hours in range(3)]
    frame = pd.DataFrame({"took": pd.Series([*spans, None], dtype=dtype)})
    _, rows, _ = features_of({"real": frame}, "real", {"took": "number"})
    np.testing.assert_array_equal(rows["real"][:, 0], [0.0, 3600.0, 7200.0, np.nan])


def test_what_cannot_be_judged_is_refused():
    for changes, message in (
        (
            {"synthetic": TRAIN.drop(columns="job")},
            "synthetic and the train rows do not both have",
        ),
        (
            {"real": REAL.drop(columns="job"), "train": None},
            "and the real rows do not both have column 'job'",
        ),
        ({"synthetic": TRAIN.head(3)}, "3 synthetic rows are too few"),
        ({"synthetic": pd.concat([TRAIN, TRAIN["job"]], axis=1)}, "have two columns 'job'"),
        ({"targets": ["since"]}, "column 'since' cannot be a target"),
        ({"synthetic": TRAIN.assign(age="old")}, "synthetic rows, column 'age' .* holds text"),
        ({"synthetic": TRAIN.assign(since="x")}, "synthetic rows, column 'since' .* holds text"),
        ({"synthetic": TRAIN.assign(age=np.inf)}, "synthetic rows, column 'age' has inf in row 1"),
    ):
        given = {"real": REAL, "synthetic": TRAIN, "train": TRAIN, "generator": 0, **changes}
        with refused(message, DataError):
            table_scores(given.pop("real"), given.pop("synthetic"), **given, effort="quick")


@given(
    st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=60),
    st.sampled_from([1.0, 0.25, 7.0]),
)
def test_bins_rise_and_hold_equally_many_steps(numbers, step):
    values = step * np.array(numbers, dtype=np.float64)
    edges, log = outline(values, 30)
    assert (np.diff(edges) > 0).all()
    low, high = np.quantile(values, [0.005, 0.995])
    assert edges[0] <= low * (1 + 1e-12 * np.sign(low))
    assert edges[-1] >= high * (1 - 1e-12 * np.sign(high))
    if not log and len(edges) > 2 and np.ptp(values) <= 20 * step:
        widths = np.diff(edges) / np.diff(np.unique(values)).min()
        np.testing.assert_allclose(widths, np.round(widths[0]), rtol=1e-9)
