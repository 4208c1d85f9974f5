"""Scores of synthetic tables: real rows, copies and shuffled columns, and tables that are odd."""

import datetime
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from scipy.stats.contingency import association, crosstab

from command_line import few_trees
from helpers import refused
from kan_diffusion.errors import DataError
from kan_diffusion.evaluation.fields import fields_of, rows_of
from kan_diffusion.evaluation.marginals import Bars, Histogram, outline
from kan_diffusion.evaluation.tables import table_scores
from mixed_tables import people, shuffled

TRAIN, REAL = people(1_200, 1), people(700, 2)


@pytest.fixture
def hardly_learned():
    """Where nothing asks how well learners tell rows apart or predict columns."""
    with few_trees():
        yield


@pytest.fixture(scope="module")
def fresh():
    return table_scores(REAL, people(1_200, 3), train=TRAIN, generator=0)


@pytest.fixture(scope="module")
def copied():
    return table_scores(REAL, TRAIN.sample(frac=1, random_state=0), train=TRAIN, generator=0)


@pytest.fixture(scope="module")
def loose():
    return table_scores(REAL, shuffled(TRAIN, 4), train=TRAIN, generator=0)


def test_real_rows_score_as_a_perfect_model(fresh):
    assert [score.key for score in fresh.scores] == [
        *("shapes", "gaps", "trends", "gap_trends", "c2st", "usefulness"),
        *("precision", "recall", "closest", "attack", "copies"),
    ]
    for key in ("shapes", "trends", "gaps", "precision"):
        assert fresh[key].value > 0.93
    for key in ("shapes", "trends", "gaps", "gap_trends", "precision", "recall", "usefulness"):
        assert fresh[key].value == pytest.approx(fresh[key].perfect, abs=0.06), key
    for key in ("c2st", "closest", "attack"):
        score = fresh[key]
        assert abs(score.value - score.perfect) < 2.5 * score.margin, key  # 5 standard deviations
        one = score.margin / (2**0.5 if key == "c2st" else 1)  # of one accuracy
        assert abs(score.value - 0.5) < 2.5 * one, key
    # The real rows of both tests are told apart by luck, too: the variances add.
    assert fresh["c2st"].margin == pytest.approx(1.96 * np.sqrt(0.25 / 1_400 + 0.25 / 1_400))
    assert fresh["copies"].value == 0
    assert fresh.rows == (700, 1_200, 1_200)


def test_copies_are_as_good_as_real_rows_and_are_found_out(copied):
    for key in ("shapes", "trends", "gaps", "gap_trends"):
        assert copied[key].value == pytest.approx(copied[key].perfect, abs=1e-12)
    # 700 of 1,200 training rows are compared: the copies of the others are as near to both.
    assert copied["closest"].value == pytest.approx(700 / 1_200 + 0.5 * 500 / 1_200, abs=0.03)
    assert copied["attack"].value == 1.0
    assert copied["copies"].value == 1.0
    assert copied["copies"].perfect == 0.0


def test_independent_columns_keep_their_shapes_and_lose_everything_else(loose):
    for key in ("shapes", "gaps"):
        assert loose[key].value == pytest.approx(loose[key].perfect, abs=1e-12)
    for key, by in {"trends": 0.03, "gap_trends": 0.2, "usefulness": 0.2, "recall": 0.1}.items():
        assert loose[key].value < loose[key].perfect - by, key
    assert loose["c2st"].value > 0.8
    worst = loose.pairs[0]
    assert {worst.first, worst.second} == {"age", "score"}
    assert worst.real > 0.8
    assert abs(worst.synthetic) < 0.1


def test_shapes_and_pairs_are_what_scipy_makes_of_them(loose):
    synthetic = shuffled(TRAIN, 4)
    columns = {column.name: column for column in loose.columns}
    expected = 1 - ks_2samp(REAL["income"], synthetic["income"]).statistic
    assert columns["income"].shape == pytest.approx(expected, abs=1e-12)
    shares = [frame["job"].value_counts(normalize=True) for frame in (REAL, synthetic)]
    assert columns["job"].shape == pytest.approx(1 - shares[0].sub(shares[1]).abs().sum() / 2)
    assert columns["score"].gaps == (REAL["score"].isna().mean(), synthetic["score"].isna().mean())
    pairs = {(pair.first, pair.second): pair for pair in loose.pairs}
    both = REAL[["age", "score"]].dropna()
    assert pairs["age", "score"].real == pytest.approx(both.corr().iloc[0, 1])
    counts = crosstab(REAL["job"].fillna("gap"), REAL["smokes"])[1]
    assert pairs["job", "smokes"].real == pytest.approx(association(counts, method="cramer"))
    assert len(pairs) == 15


def test_sdmetrics_agrees():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sdmetrics")
        from sdmetrics.column_pairs import ContingencySimilarity, CorrelationSimilarity
        from sdmetrics.single_column import (
            KSComplement,
            MissingValueSimilarity,
            TVComplement,
        )
    synthetic = shuffled(TRAIN, 4)
    synthetic["income"] *= 1.1
    scores = table_scores(REAL, synthetic, train=TRAIN, generator=0)
    for column in scores.columns:
        real, other = REAL[column.name], synthetic[column.name]
        discrete = column.kind in ("categorical", "boolean")
        metric = TVComplement if discrete else KSComplement
        assert column.shape == pytest.approx(metric.compute(real, other), abs=1e-5)
        gaps = 1 - abs(column.gaps[0] - column.gaps[1])
        assert gaps == pytest.approx(MissingValueSimilarity.compute(real, other))
    kinds = {column.name: column.kind for column in scores.columns}
    for pair in scores.pairs:
        names = [pair.first, pair.second]
        numbers = [name for name in names if kinds[name] not in ("categorical", "boolean")]
        tables = [frame[names].copy() for frame in (REAL, synthetic)]
        for table in tables:
            if "since" in names:
                table["since"] = table["since"].astype("int64") / 1e9
        if pair.measure == "correlation":
            expected = CorrelationSimilarity.compute(*tables)
        else:
            expected = ContingencySimilarity.compute(*tables, continuous_column_names=numbers)
        assert pair.score == pytest.approx(expected, abs=1e-9), names


def test_the_order_of_rows_does_not_tell_samples_apart():
    rows = pd.DataFrame({"a": np.arange(900.0), "b": np.arange(900) % 7})
    rows = rows.sample(frac=1, random_state=0)
    real, train = rows[:200].sort_values("a"), rows[200:].sort_values("a")
    score = table_scores(real, train, train=train, generator=0)["c2st"]
    for value in (score.value, score.perfect):
        assert abs(value - 0.5) < 2.5 * score.margin


@pytest.mark.usefixtures("hardly_learned")
def test_the_same_seed_gives_the_same_scores():
    one, other = (table_scores(REAL, TRAIN[:400], train=TRAIN[400:], generator=0) for _ in range(2))
    assert one.scores == other.scores


@pytest.mark.usefixtures("hardly_learned")
def test_without_training_rows_half_of_the_real_ones_are_the_yardstick():
    scores = table_scores(REAL, people(300, 3), generator=0)
    assert "closest" not in scores
    assert scores.distances is None
    assert scores.rows == (700, 300, 0)
    assert scores["shapes"].perfect > 0.85


def odd_tables():
    random = np.random.default_rng(0)
    normal = random.normal(size=(120, 2))
    words = np.array(["a", "b, c", "ü", "naïve", "日本"])
    letters = words[random.integers(5, size=(120, 3))]
    one_gap = pd.DataFrame({"x": normal[:, 0], "y": normal[:, 1]})
    one_gap.loc[::4, "y"] = np.nan
    beside_gaps = one_gap.assign(z=np.where(random.random(120) < 0.5, "only", None))
    stored = pd.DataFrame(
        {
            "whole": pd.array(random.integers(0, 900, 120), dtype="Int64"),
            "true": pd.array(random.random(120) < 0.5, dtype="boolean"),
            "grade": pd.Categorical(letters[:, 0], categories=list(words), ordered=True),
            "moment": pd.date_range("2020-01-01", periods=120, freq="7h", tz="Europe/Berlin"),
            "arrow": pd.Series(letters[:, 1]).astype("string[pyarrow]"),
            "span": pd.to_timedelta(random.integers(0, 10_000, 120), unit="min"),
            "small": normal[:, 0].astype(np.float32),
        }
    )
    stored.loc[3, ["whole", "true", "moment", "arrow"]] = None
    binary = pd.DataFrame(random.random((120, 30)) < 0.3, columns=[f"b{i}" for i in range(30)])
    return {
        "all categorical": pd.DataFrame(letters, columns=["a", "b, c", "名前"]),
        "one column": pd.DataFrame({"x": normal[:, 0]}),
        "one category": pd.DataFrame({"x": letters[:, 0]}),
        "gaps in one": one_gap,
        "one value beside gaps": beside_gaps,
        "other dtypes": stored,
        "binary": binary,
        "many categories": pd.DataFrame(
            {"x": [f"c{number}" for number in random.integers(0, 1_000, 120)], "y": normal[:, 0]}
        ),
        "few rows": one_gap.head(30),
        "duplicates": pd.concat([one_gap.head(20)] * 6, ignore_index=True),
        "skewed": pd.DataFrame({"x": np.exp(4 * normal[:, 0]), "y": normal[:, 1] * 1e200}),
    }


@pytest.mark.usefixtures("hardly_learned")
@pytest.mark.parametrize("name", odd_tables())
def test_odd_tables_are_judged(name):
    frame = odd_tables()[name]
    half = len(frame) // 2
    train, real = frame.iloc[:half], frame.iloc[half:]
    kinds = {"x": "categorical"} if name == "many categories" else {}
    scores = table_scores(real, train, train=train, kinds=kinds, generator=0)
    assert scores["copies"].value == 1.0
    assert {"shapes", "c2st", "precision", "recall", "closest", "attack"} <= {
        score.key for score in scores.scores
    }
    numbers = [(score.value, score.perfect) for score in scores.scores]
    assert np.isfinite(numbers).all()
    assert scores["shapes"].value == pytest.approx(scores["shapes"].perfect, abs=1e-12)
    assert len(scores.columns) == len(frame.columns)
    for column in scores.columns:
        picture = column.picture
        assert isinstance(picture, (Bars, Histogram))
        total = picture.real.sum() + (picture.beyond[0] if isinstance(picture, Histogram) else 0)
        assert total == pytest.approx(1.0), column.name


@pytest.mark.parametrize("form", ["%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y-%m", "period"])
def test_dates_are_read_as_their_column_writes_them(form):
    days = pd.Series(pd.date_range("2020-03-02", periods=60, freq="11D"))
    real = days.dt.to_period("M") if form == "period" else days.dt.strftime(form)
    frames = {"real": real.to_frame("day"), "synthetic": real[::-2].to_frame("day")}
    if form in ("%Y-%m", "period"):
        days = days.dt.to_period("M").dt.to_timestamp()
    fields, _ = fields_of(frames, "real", {})
    assert fields[0].kind == "datetime"
    for frame, moments in zip(frames.values(), (days, days[::-2]), strict=True):
        seconds = (moments - pd.Timestamp(0)).dt.total_seconds()
        assert rows_of(fields, frame, "real")[:, 0].tolist() == seconds.tolist()


def test_many_rare_categories_do_not_tell_real_rows_from_real_rows():
    names = np.random.default_rng(0).integers(0, 1_000, size=(3, 2_000))
    real, other, train = (pd.DataFrame({"name": [f"n{n}" for n in side]}) for side in names)
    kinds = {"name": "categorical"}
    score = table_scores(real, other, train=train, kinds=kinds, generator=0)["c2st"]
    assert abs(score.value - 0.5) < 2.5 * score.margin / 2**0.5  # 5 standard deviations


@pytest.mark.usefixtures("hardly_learned")
def test_what_is_the_same_in_all_rows_is_left_out_and_a_new_value_is_not():
    frame = people(300, 0).assign(country="here")
    scores = table_scores(frame, frame, generator=0)
    assert scores.left_out == ("country",)
    changed = frame.assign(country=np.where(np.arange(300) < 90, "there", "here"))
    column = next(
        column
        for column in table_scores(frame, changed, generator=0).columns
        if column.name == "country"
    )
    assert column.shape == pytest.approx(0.7, abs=0.1)


@pytest.mark.usefixtures("hardly_learned")
def test_a_column_without_a_synthetic_value_is_as_bad_as_can_be():
    frame = people(300, 0)
    scores = table_scores(frame, frame.assign(score=np.nan), train=frame, generator=0)
    assert scores.columns[0].name == "score"
    assert scores.columns[0].shape == 0.0


@pytest.mark.parametrize("dtype", [object, "timedelta64[s]", "duration[s][pyarrow]"])
def test_time_spans_are_judged_in_seconds(dtype):
    spans = [datetime.timedelta(hours=hours) for hours in range(3)]
    frame = pd.DataFrame({"took": pd.Series([*spans, None], dtype=dtype)})
    fields, _ = fields_of({"real": frame}, "real", {"took": "continuous"})
    rows = rows_of(fields, frame, "real")
    np.testing.assert_array_equal(rows[:, 0], [0.0, 3600.0, 7200.0, np.nan])


def test_learners_predict_the_columns_they_are_asked_to(fresh):
    assert {one.target for one in fresh.usefulness} == {"score", "age", "income"}
    assert {one.learner for one in fresh.usefulness} == {"linear", "forest", "boosted trees"}
    scores = table_scores(REAL, TRAIN, targets=["job"], generator=0)
    assert {(one.target, one.measure) for one in scores.usefulness} == {("job", "AUC")}
    assert all(one.real > 0.6 for one in scores.usefulness)


@pytest.mark.usefixtures("hardly_learned")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"synthetic": TRAIN.drop(columns="job")}, "synthetic rows have no column 'job'"),
        ({"real": REAL.drop(columns="job"), "train": None}, "real rows have no column 'job'"),
        ({"synthetic": TRAIN.drop(columns="job"), "train": None}, "synthetic rows have no column"),
        ({"synthetic": TRAIN.head(3)}, "3 synthetic rows are too few"),
        ({"real": REAL.assign(**dict.fromkeys(REAL, np.nan))}, "no real row has a value"),
        (
            {"synthetic": pd.concat([TRAIN, TRAIN["job"]], axis=1)},
            "synthetic rows have two columns 'job'",
        ),
        ({"targets": ["since"]}, "column 'since' cannot be a target"),
        ({"synthetic": TRAIN.assign(age="old")}, "column 'age' of the synthetic rows .* numbers"),
        ({"synthetic": TRAIN.assign(since="x")}, "column 'since' of the synthetic rows .* dates"),
        (
            {"synthetic": TRAIN.assign(age=np.inf)},
            "'age' of the synthetic rows is infinite in row 1",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused(changes, message):
    given = {"real": REAL, "synthetic": TRAIN, "train": TRAIN, "generator": 0, **changes}
    with refused(message, DataError):
        table_scores(given.pop("real"), given.pop("synthetic"), **given)


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
