import json
import sys

import numpy as np
import pandas as pd
import pytest

from kan_diffusion.errors import KanDiffusionError, RunFolderError
from tables.__main__ import main
from tables.bench import RESULTS, Result, read_results, run_benchmark, run_one
from tables.gaps import IMPUTERS, MECHANISMS, gap_scores, hide
from tables.generators import GENERATORS, SYNTHCITY, Smote
from tables.page import mean_ranks, results_markdown
from tables.plain import Plain, is_number
from tables.sources import TABLES, Split, make_customers


@pytest.fixture(scope="module")
def linear():
    def rows(num, seed):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=num)
        y = 2 * x + 0.1 * rng.normal(size=num)
        return pd.DataFrame({"x": x, "y": y, "sign": np.where(x > 0, "plus", "minus")})

    return Split(rows(800, 0), rows(400, 1), "sign", "classification")


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_split_without_a_row_left_and_comes_back_from_numbers(name):
    source = TABLES[name]
    frame = source.load()
    assert frame[source.target].notna().all()
    assert is_number(frame[source.target]) == (source.task == "regression")
    first, other = source.split(0), source.split(1)
    again, columns = pd.concat([first.train, first.test]), list(frame)
    pd.testing.assert_frame_equal(
        again.sort_values(columns, ignore_index=True), frame.sort_values(columns, ignore_index=True)
    )
    assert abs(len(first.train) - len(first.test)) <= 1
    assert not first.train.equals(other.train)
    plain = Plain.of(frame)
    written = plain.write(frame)
    assert not written.isna().any(axis=None)
    assert all(written[column].max() == count - 1 for column, count in plain.counts.items())
    pd.testing.assert_frame_equal(plain.read(written), frame)
    # Other numbers are rounded, and stay within the range and the known categories.
    noise = np.random.default_rng(0).normal(size=written.shape)
    made = plain.read(written + noise * 3 * written.std().to_numpy())
    pd.testing.assert_series_equal(made.dtypes, frame.dtypes)
    for column in frame:
        if column in plain.counts:
            assert set(made[column].dropna()) <= set(frame[column].dropna())
        else:
            assert made[column].dropna().between(frame[column].min(), frame[column].max()).all()
    if name == "customers":
        assert (made["income"].dropna() % 1 == 0).all()
        assert made["joined"].dt.normalize().eq(made["joined"]).all()


def test_the_made_table_is_the_same_every_time_and_its_gaps_follow_other_columns():
    frame = make_customers()
    pd.testing.assert_frame_equal(frame, make_customers())
    assert frame.shape == (10_000, 15)
    missing = frame["income"].isna()
    assert frame["age"][missing].mean() > frame["age"][~missing].mean() + 3
    assert frame["last seen"].isna().eq(frame["visits"] == 0).all()
    assert frame["income"].skew() > 1
    assert frame["city"].str.split("-").str[0].eq(frame["region"].astype(str)).all()


def test_smote_draws_points_between_two_near_rows_of_a_class_and_repeats_a_lone_one():
    rng = np.random.default_rng(0)
    centres = {"left": -10.0, "right": 10.0}
    x = np.concatenate([*(rng.normal(c, 1, 100) for c in centres.values()), [90.0]])
    train = pd.DataFrame({"x": x, "side": ["left"] * 100 + ["right"] * 100 + ["alone"]})
    smote = Smote()
    smote.fit(Split(train, train, "side", "classification"), 0.0, 0)
    made = smote.sample(1000, 1)
    pd.testing.assert_frame_equal(made, smote.sample(1000, 1))
    alone = made["side"] == "alone"
    assert set(made["x"][alone]) == {90.0}
    made = made[~alone]
    assert np.sign(made["x"]).eq(made["side"].map(centres) / 10).all()
    # One of the five nearest is within five gaps of the sorted values, so no point is farther from
    # the nearest row than half the widest gap, and hardly any is a copy.
    known = np.sort(x[:200])
    far = np.abs(made["x"].to_numpy()[:, None] - known).min(axis=1)
    inside = np.diff(known)[np.diff(known) < 5]
    assert far.max() <= inside.max() / 2
    assert np.mean(far > 0) > 0.95


def test_hidden_cells_are_as_many_as_meant_and_known_or_depend_on_what_is_seen():
    frame = make_customers(2000)
    hidden = hide(frame, "mcar", 0)
    assert not (hidden & frame.isna().to_numpy()).any()
    known = frame.notna().to_numpy().sum()
    assert abs(hidden.sum() / known - 0.2) < 5 * np.sqrt(0.2 * 0.8 / known)
    assert hide(frame, "mar", 0).any(axis=0).sum() == 7

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=5000), "b": rng.normal(size=5000)})
    hidden = hide(frame, "mar", 0)
    (seen,) = np.nonzero(~hidden.any(axis=0))
    reason = frame.iloc[:, seen[0]]
    missing = hidden[:, 1 - seen[0]]
    # Under a chance of 0.6 r of ranks r, 0.3 are missing, with mean rank ∫ r · 2r dr = 2/3.
    assert missing.mean() == pytest.approx(0.3, abs=5 * np.sqrt(0.3 * 0.7 / 5000))
    assert reason.rank(pct=True)[missing].mean() == pytest.approx(2 / 3, abs=0.03)
    assert not np.array_equal(missing, hide(frame, "mar", 1).any(axis=1))


def test_truth_scores_perfectly_and_calibrated_draws_cover_nine_tenths(linear):
    exact = gap_scores(linear, lambda frame, draws: [linear.test], "mcar", 0)
    assert exact == {"error": 0.0, "accuracy": 1.0}
    with pytest.raises(ValueError, match="gaps are left in 'x'"):
        gap_scores(linear, lambda frame, draws: [frame], "mcar", 0)

    rng = np.random.default_rng(0)
    normal = [pd.DataFrame(rng.normal(size=(2000, 4)), columns=list("abcd")) for _ in range(2)]
    split = Split(*normal, "a", "regression")

    def guess(frame, draws):
        noise = rng.normal(size=(draws, *frame.shape))
        return [frame.fillna(pd.DataFrame(one, columns=frame.columns)) for one in noise]

    scores = gap_scores(split, guess, "mcar", 0, most_rows=2000)
    hidden = hide(split.test, "mcar", 0).sum()
    # 21 exchangeable numbers: the truth is outside the 1.05th to 19.95th of 20 in 2.1 of 21 cases.
    assert scores["coverage"] == pytest.approx(0.9, abs=5 * np.sqrt(0.9 * 0.1 / hidden))
    # The variance of a number and of the mean of 20.
    assert scores["error"] == pytest.approx(np.sqrt(1 + 1 / 20), abs=5 / np.sqrt(2 * hidden))


def test_regressions_find_what_means_do_not(linear):
    mean, iterative = (
        gap_scores(linear, IMPUTERS[name](linear, 1.0, 0), "mcar", 0)
        for name in ("mean", "iterative-posterior")
    )
    assert mean["error"] == pytest.approx(1.0, abs=0.15)
    assert mean["accuracy"] < 0.65
    assert iterative["error"] < 0.6
    assert iterative["accuracy"] > 0.8
    assert 0.8 <= iterative["coverage"] <= 1.0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    asked = {"tables": ["iris"], "methods": ["mlp", "smote", "rows", "mean"], "seeds": 1}
    results = run_benchmark(folder, seconds=1.0, **asked)
    return folder, asked, {one.method: one for one in results}


def test_every_method_has_the_scores_of_its_kind(finished):
    _, _, results = finished
    assert {one.error for one in results.values()} == {""}
    for name in ("mlp", "smote", "rows"):
        assert {"shapes", "trends", "c2st", "usefulness", "closest"} <= set(results[name].scores)
        assert set(results[name].perfect) == set(results[name].scores)
    assert {f"{name} error" for name in MECHANISMS} <= set(results["mean"].gaps)
    assert {f"{name} coverage" for name in MECHANISMS} <= set(results["mlp"].gaps)
    assert results["mean"].scores == {}
    assert results["rows"].scores["closest"] == pytest.approx(1.0, abs=0.05)
    assert results["rows"].scores["copies"] == 1.0
    assert "parameters" in results["mlp"].held


def test_what_is_finished_is_not_run_again_and_what_failed_is(finished, tmp_path):
    folder, asked, results = finished
    told = []
    settings = {"seconds": 1.0, "on_progress": lambda *what: told.append(what[1]), **asked}
    again = run_benchmark(folder, **settings)
    assert told == []
    assert {one.method: one for one in again} == results

    lines = [json.loads(line) for line in (folder / RESULTS).read_text().splitlines()]
    lost = [{**one, "error": "lost"} if one["method"] == "rows" else one for one in lines]
    (tmp_path / RESULTS).write_text("".join(json.dumps(one) + "\n" for one in lost))
    run_benchmark(tmp_path, **settings)
    assert told == ["iris, rows, seed 0"]
    assert [one.error for one in read_results(tmp_path)] == [""] * len(lines)

    with pytest.raises(RunFolderError, match="1 seconds a fit"):
        run_benchmark(folder, **settings | {"seconds": 2.0})
    (tmp_path / RESULTS).write_text('{"table": "iris"}\n')
    with pytest.raises(RunFolderError, match="results of the benchmark"):
        read_results(tmp_path)


def test_a_method_that_fails_is_a_result_with_its_reason(monkeypatch):
    class Broken(Smote):
        def fit(self, split, seconds, seed):
            raise ArithmeticError("it\nbroke")

    monkeypatch.setitem(GENERATORS, "smote", Broken)
    result = run_one("iris", "smote", 0, 1.0)
    assert (result.error, result.scores) == ("ArithmeticError: it broke", {})
    monkeypatch.setenv(SYNTHCITY, sys.executable)  # which has no synthcity
    assert "import synthcity.plugins" in run_one("iris", "tabddpm", 0, 1.0).error


def test_what_cannot_be_run_is_said_before_anything_is(monkeypatch):
    monkeypatch.delenv(SYNTHCITY, raising=False)
    for option, message in (
        (["--tables", "iris,titanic"], "no table 'titanic'; known are iris, wine"),
        (["--methods", "gan"], "no method 'gan'"),
        (["--methods", "tabddpm"], "needs SYNTHCITY_PYTHON"),
    ):
        monkeypatch.setattr("sys.argv", ["tables", *option])
        with pytest.raises(KanDiffusionError, match=message):
            main()


def _made(table, method, shapes, error=None):
    scores = {"shapes": shapes, "trends": shapes, "c2st": 1.5 - shapes, "usefulness": shapes}
    gaps = {} if error is None else {"mcar error": error}
    return Result(table, method, 0, 1.0, 1.0, 1.0, "", scores, dict.fromkeys(scores, 1.0), gaps)


RESULTS_MADE = [
    _made("iris", "kan", 0.9, 0.5),
    _made("iris", "mlp", 0.8, 0.5),
    _made("iris", "smote", 0.7),
    Result("iris", "mean", 0, 1.0, gaps={"mcar error": 1.0}),
    _made("iris", "rows", 1.0),
    _made("wine", "kan", 0.6, 0.7),
    _made("wine", "mlp", 0.8, 0.9),
    Result("wine", "smote", 0, 1.0, error="a | b"),
    Result("wine", "mean", 0, 1.0, gaps={"mcar error": 0.8}),
    _made("diabetes", "smote", 0.9),
]


def test_ranks_are_means_over_tables_that_all_were_run_on():
    ranks = mean_ranks(RESULTS_MADE)
    # kan 1st and 2nd, mlp 2nd and 1st, smote 3rd and failed; diabetes lacks the other two.
    assert ranks["fidelity"].dropna().to_dict() == {"kan": 1.5, "mlp": 1.5, "smote": 3.0}
    assert ranks["usefulness"].dropna().to_dict() == {"kan": 1.5, "mlp": 1.5, "smote": 3.0}
    # A tie for the first place, then the third; 1st, 3rd and 2nd.
    assert ranks["imputation"].dropna().to_dict() == {"kan": 1.25, "mlp": 2.25, "mean": 2.5}
    assert ranks.loc["kan", "all"] == pytest.approx((1.5 + 1.5 + 1.25) / 3)
    assert np.isnan(ranks.loc["mean", "all"])
    assert list(ranks.index)[:3] == ["kan", "mlp", "smote"]


def test_the_page_marks_the_best_and_says_what_failed():
    text = results_markdown(RESULTS_MADE, {"cores": "2"}, {"fit": 12.5})
    shapes = text.split("## Column shapes")[1].split("##")[0]
    assert "| iris | **0.900** | 0.800 | 0.700 | 1.000 | 1.000 |" in shapes
    assert "| wine | 0.600 | **0.800** | – | – | 1.000 |" in shapes
    assert "a \\| b" in text
    assert "Means over seeds, 1 of each method; " in text
    assert "12.5 s" in text
    assert "nan" not in text
