from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from helpers import refused
from kan_diffusion.errors import DataError
from kan_diffusion.tables.kinds import fit_column
from kan_diffusion.tables.scales import Scale
from kan_diffusion.tables.scores import SCORES, Score, TableScores
from mixed_tables import people, quick_scores, shuffled

TRAIN, REAL = people(1_200, 1), people(700, 2)
WRONG = shuffled(TRAIN, 4).assign(income=lambda frame: 1.1 * frame["income"])
CATEGORIES = {"job", "smokes"}
NUMBERS = [frame.assign(since=frame["since"].astype("int64")) for frame in (REAL, WRONG)]


@pytest.fixture(scope="module")
def scores():
    return quick_scores(REAL, WRONG, train=TRAIN)


def overlap(one, other):
    """One minus the total variation distance of two samples of categories."""
    shares = [cells.value_counts(normalize=True) for cells in (one, other)]
    return 1 - shares[0].sub(shares[1], fill_value=0).abs().sum() / 2


def similarity(name, other):
    real, other = REAL[name].dropna(), other[name].dropna()
    return overlap(real, other) if name in CATEGORIES else 1 - ks_2samp(real, other).statistic


def test_columns_are_as_similar_as_their_definitions_say(scores):
    found = scores.columns.set_index("name")
    for name in REAL:
        similar = [similarity(name, other) for other in (WRONG, TRAIN)]
        gaps = [frame[name].isna().mean() for frame in (REAL, WRONG)]
        columns = ["shape", "perfect", "real_gaps", "synthetic_gaps"]
        assert found.loc[name, columns].tolist() == pytest.approx(similar + gaps, abs=1e-9), name
    both = scores.scores.loc["shapes", ["value", "perfect"]].tolist()
    assert both == pytest.approx([found["shape"].mean(), found["perfect"].mean()])
    apart = (found["real_gaps"] - found["synthetic_gaps"]).abs()[["job", "score"]]
    assert scores.scores["value"]["gaps"] == pytest.approx(1 - apart.mean())


def coded(frame, name):
    """Categories, or places in ten bins of equal width over the real values; a gap is one more."""
    if name in CATEGORIES:
        return frame[name].astype(str).where(frame[name].notna(), "gap")
    edges = np.linspace(NUMBERS[0][name].min(), NUMBERS[0][name].max(), 11)
    return pd.Series(np.digitize(frame[name], edges[1:-1])).where(frame[name].notna(), -1)


def test_pairs_are_as_similar_as_their_definitions_say(scores):
    pairs = {(pair.first, pair.second): pair for pair in scores.pairs.itertuples()}
    assert pairs.keys() == set(combinations(REAL, 2))
    for names, pair in pairs.items():
        if CATEGORIES.isdisjoint(names):
            known = [frame[[*names]].corr().iloc[0, 1] for frame in NUMBERS]
            expected = 1 - abs(known[0] - known[1]) / 2
        else:
            codes = [[coded(frame, name) for name in names] for frame in NUMBERS]
            expected = overlap(*(one.astype(str) + " " + other.astype(str) for one, other in codes))
            known = [np.nan, np.nan]
        assert pair.score == pytest.approx(expected, abs=1e-9), names
        assert [pair.real, pair.synthetic] == pytest.approx(known, abs=1e-6, nan_ok=True), names
    assert scores.scores["value"]["trends"] == pytest.approx(scores.pairs["score"].mean())


def test_half_of_the_real_rows_are_a_reference_and_columns_without_a_difference_are_left_out():
    real = REAL.assign(country="here")
    synthetic = people(300, 3).assign(country="here", score=np.nan)
    one, again = (quick_scores(real, synthetic) for _ in range(2))
    pd.testing.assert_frame_equal(one.scores, again.scores)
    assert "closest" not in one.scores.index
    assert (one.num_rows, one.left_out) == ((700, 300, 0), ("country",))
    assert one.scores["perfect"]["shapes"] > 0.85
    assert one.columns.iloc[0][["name", "shape"]].tolist() == ["score", 0.0]
    changed = synthetic.assign(country=np.where(np.arange(300) < 90, "there", "here"))
    shapes = quick_scores(real, changed).columns.set_index("name")["shape"]
    assert shapes["country"] == pytest.approx(0.7, abs=0.1)


def test_dates_are_judged_in_days_and_time_spans_in_seconds():
    days = pd.Series(pd.date_range("2020-03-02", periods=60, freq="11D"))
    spans = pd.Series(pd.to_timedelta([*range(59), None], "h"))
    kinds = "object", "timedelta64[s]", "duration[s][pyarrow]"
    real = pd.DataFrame({kind: spans.astype(kind) for kind in kinds})
    real = real.assign(day=days.dt.strftime("%d/%m/%Y"), month=days.dt.to_period("M"))
    moments = dict.fromkeys(kinds, spans + pd.Timestamp(0))
    moments |= {"day": days, "month": real["month"].dt.to_timestamp()}
    judged = quick_scores(real, real[::-1], train=real).cells
    for name, expected in moments.items():
        numbers = (expected - pd.Timestamp(0)).dt.total_seconds()
        numbers = numbers if name in kinds else numbers / 86_400
        np.testing.assert_array_equal(judged[name][1:], [numbers, numbers[::-1]])


def test_what_cannot_be_judged_is_refused():
    for changes, message in (
        ({"synthetic": TRAIN.drop(columns="job")}, "synthetic and the train rows do not both"),
        ({"real": REAL.drop(columns="job"), "train": None}, "the real rows do not both .* 'job'"),
        ({"synthetic": TRAIN.head(3)}, "3 synthetic rows are too few"),
        (
            {"synthetic": pd.concat([TRAIN, TRAIN["job"]], axis=1)},
            "two columns of the same name: 'job'",
        ),
        ({"targets": ["since"]}, "column 'since' cannot be a target"),
        ({"synthetic": TRAIN.assign(since="x")}, "synthetic rows, column 'since' .* holds text"),
    ):
        with refused(message, DataError):
            quick_scores(**{"real": REAL, "synthetic": TRAIN, "train": TRAIN, **changes})


@given(st.lists(st.integers(-(10**6), 10**6), min_size=2), st.sampled_from([1.0, 0.25, 7.0]))
def test_bins_rise_and_hold_equally_many_steps(numbers, step):
    values = step * np.array(numbers, dtype=np.float64)
    edges, log = Scale().bins(values)
    assert (np.diff(edges) > 0).all()
    low, high = np.quantile(values, [0.005, 0.995])
    assert edges[0] <= low * (1 + 1e-12 * np.sign(low))
    assert edges[-1] >= high * (1 - 1e-12 * np.sign(high))
    if not log and len(edges) > 2 and np.ptp(values) <= 20 * step:
        widths = np.diff(edges) / np.diff(np.unique(values)).min()
        np.testing.assert_allclose(widths, np.round(widths[0]), rtol=1e-9)


def test_columns_that_give_rows_away_are_named_and_others_are_not():
    random = np.random.default_rng(0)

    def table(count, **columns):
        heaped = 1000.0 * random.choice(np.arange(10, 500, 10), count)
        return pd.DataFrame(
            {"limit": heaped, **{f"x{k}": random.normal(size=count) for k in "abcdefgh"}}
        )

    real, train, synthetic = table(900), table(900), table(900)
    assert quick_scores(real, synthetic, train=train).telling == ()
    smeared = synthetic.assign(limit=synthetic["limit"] + random.normal(0, 400, 900))
    scores = quick_scores(real, smeared, train=train)
    assert scores.telling == ("limit",)
    assert scores.columns.iloc[0]["name"] == "limit"
    assert scores.columns.iloc[0]["c2st"] > 0.8
    columns = [fit_column(name, train[name]) for name in train]
    moved = {"real": real, "synthetic": real.assign(xa=real["xa"] + 2)}
    judged = TableScores(columns, moved, random, "quick")
    assert judged.c2st.value > 0.7
    assert judged.telling == ("xa",)


def test_nearly_unique_columns_whose_values_are_real_ones_are_named():
    random = np.random.default_rng(0)
    train = pd.DataFrame({"name": [f"Ann {k}" for k in range(300)], "x": random.normal(size=300)})
    train["code"] = random.choice(10**6, 300, replace=False)
    train["job"] = random.choice(list("abc"), 300)
    real = train.assign(x=random.normal(size=300))
    drawn = train.sample(200, random_state=0).assign(x=random.normal(size=200))
    assert quick_scores(real, drawn, train=train).copied == ("name", "code")
    fresh = drawn.assign(code=random.choice(10**6, 200), name=[f"Bob {k}" for k in range(200)])
    assert quick_scores(real, fresh, train=train).copied == ()
    assert quick_scores(real, drawn).copied == ()


def test_a_new_score_is_in_the_frame_with_its_meaning(monkeypatch):
    rows = Score("rows", "how many rows there are", lambda judged, _: (*judged.num_rows[:2], 0.5))
    monkeypatch.setitem(SCORES, "rows", rows)
    frame = quick_scores(REAL, people(300, 3)).scores
    assert frame.loc["rows"].tolist() == ["rows", "how many rows there are", 700, 300, 0.5]
