"""A metric of one's own: one entry, and it is in rows, tables, statistics and the report."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from html_page import Page, write_quickly
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.evaluation.metrics import SAMPLE_METRICS, Metric, metrics_named
from kan_diffusion.report.gather import report_contents
from kan_diffusion.report.tables import summary_table, trial_table
from kan_diffusion.study.config import StudyConfig
from kan_diffusion.study.executors import open_executor
from kan_diffusion.imports import import_own
from kan_diffusion.study.results import Results, compare, read_results
from kan_diffusion.study.run import StudyResults, load_study, run_study
from kan_diffusion.study.trial import run_trial

DOCS = Path(__file__).parents[3] / "docs" / "comparisons.md"


def study(**evaluation: object) -> StudyConfig:
    sizes = {"num_noised": 100, "num_samples": 60, "num_real_pairs": 1, "num_drawn": 20}
    return StudyConfig.model_validate(
        {
            "name": "own",
            "title": "Own",
            "seeds": 1,
            "data": [{"toy": "two-modes", "num_points": 100}],
            "training": {"steps": 5, "batch_size": 32},
            "models": [
                {"name": "MLP", "family": "mlp"},
                {"name": "ReLU", "family": "mlp-relu"},
            ],
            "budgets": [{"match": "params", "amount": 300}],
            "sampling": {"steps": 3},
            "evaluation": {**sizes, "moments": [], **evaluation},
        }
    )


def require_everywhere(results: StudyResults, key: str, label: str) -> None:
    """Checks that a metric of a finished study is wherever a built-in one is."""
    read = Results.of(results.rows, results.config.evaluation.metrics)
    # In the rows and the tables of text.
    assert read.rows[[key, f"{key}_real"]].notna().all(axis=None)
    assert key in summary_table(read)
    assert {key, f"{key}_real"} <= set(trial_table(read))
    # In the statistics.
    (setting,) = read.settings()
    (comparison,) = compare(read, setting, key)
    values = read.rows.set_index("name")[key]
    expected = values[comparison.model] - values[comparison.baseline]
    assert comparison.interval.mean == pytest.approx(expected)
    assert comparison.better == read.metrics[key].better
    # In the report.
    contents = report_contents(results, "again")
    page = Page(write_quickly(contents, results.folder).read_text())
    shown = page.values(f"Models, {setting.label}", "ReLU")
    assert shown[label] == pytest.approx(values["ReLU"])
    assert f"{label}, real" in page.tables["All trials"][0]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Writes the module of the docs, and returns its name."""
    (block,) = re.findall(r"```python\n([^`]*COVERAGE = .*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "my_metrics.py").write_text(f"{block}\nNOT_ONE = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    import_own("my_metrics")
    return "my_metrics"


def test_a_metric_that_a_study_names_is_measured_by_its_workers(
    module: str, tmp_path: Path
) -> None:
    config = study(metrics=[f"{module}:COVERAGE"])
    with open_executor("local", workers=1, device="cpu") as executor:
        results = run_study(config, tmp_path / "run", executor=executor)
    assert not results.failures
    require_everywhere(results, "coverage", "Cov")
    # Whoever reads the folder knows it from the study's settings.
    read = read_results(tmp_path / "run")
    assert read.metrics["coverage"].title == "coverage of real points"
    assert "coverage" not in SAMPLE_METRICS
    # Built-in metrics keep their values.
    plain = run_trial(study().trials()[0], tmp_path / "plain", device="cpu")
    row = results.trials[0].row
    assert {key: row[key] for key in SAMPLE_METRICS} == {
        key: plain.row[key] for key in SAMPLE_METRICS
    }


def test_a_metric_can_be_added_while_a_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shift(x: Tensor, y: Tensor, generator: np.random.Generator) -> float:
        return float(torch.linalg.vector_norm(x.mean(dim=0) - y.mean(dim=0)))

    monkeypatch.setitem(SAMPLE_METRICS, "shift", Metric("shift", "Δ", "lower", shift))
    config = study()
    for trial in config.trials():
        run_trial(trial, tmp_path / "trials" / trial.id, device="cpu")
    (tmp_path / "study.yaml").write_text(config.to_yaml())
    require_everywhere(load_study(tmp_path), "shift", "Δ")


def test_what_is_no_metric_is_refused(module: str) -> None:
    for place, message in (
        (f"{module}:NOT_ONE", "of type int, not a Metric; make it one with kan_diffusion"),
        (f"{module}:NONE", "has no 'NONE'"),
        ("no_such_module:METRIC", "import no_such_module first"),
        (module, "not of the form"),
    ):
        with pytest.raises(KanDiffusionError, match=message):
            metrics_named([place])
        with pytest.raises(ValueError, match=message):
            study(metrics=[place])


def test_keys_and_directions_are_checked(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def zero(x: Tensor, y: Tensor, generator: np.random.Generator) -> float:
        return 0.0

    with pytest.raises(KanDiffusionError, match="cannot name a column"):
        Metric("My metric", "M", "lower", zero)
    with pytest.raises(KanDiffusionError, match="give 'lower' or 'higher'"):
        Metric("m", "M", "up", zero)  # type: ignore[arg-type]
    monkeypatch.setitem(SAMPLE_METRICS, "coverage", Metric("coverage", "C", "higher", zero))
    with pytest.raises(KanDiffusionError, match="the key 'coverage' of another metric"):
        metrics_named([f"{module}:COVERAGE"])
