"""A metric and a family of one's own: a study file names them by the module where they are."""

import math
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from html_page import Page
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.evaluation.metrics import SAMPLE_METRICS, Metric, metrics_named
from kan_diffusion.imports import import_own
from kan_diffusion.pictures.scores import PICTURE_MEASURES
from kan_diffusion.report.tables import summary_table, trial_table
from kan_diffusion.study.results.rows import Results, read_results
from kan_diffusion.study.results.verdicts import compare
from make import EVALUATION, study

DOCS = Path(__file__).parents[4] / "docs" / "comparisons.md"
SHALLOW = """
from kan_diffusion.denoisers import Family, NetworkDenoiser
SHALLOW = Family("shallow", NetworkDenoiser, 1, 1e-2, kind="mlp", title="Shallow")
NOT_ONE = 3
"""


def _study(**evaluation):
    return study(
        training={"steps": 5, "batch_size": 32},
        models=[{"family": "kan"}, {"family": "my_metrics:SHALLOW"}],
        budget={"match": "params", "amount": 900},
        evaluation={**EVALUATION, "moments": [], **evaluation},
    )


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes the module of the docs, with a family, into the working folder; returns its name."""
    (block,) = re.findall(r"```python\n([^`]*COVERAGE = .*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "my_metrics.py").write_text(block + SHALLOW)
    monkeypatch.chdir(tmp_path)
    # The docs' test, where it came before, has imported one of the same name.
    monkeypatch.delitem(sys.modules, "my_metrics", raising=False)
    import_own("my_metrics")
    return "my_metrics"


def test_a_metric_and_a_family_that_a_study_names_go_through_all_of_it(module, cli, monkeypatch):
    Path("own.yaml").write_text(_study(metrics=[f"{module}:COVERAGE"]).to_yaml())
    monkeypatch.delitem(sys.modules, module)  # whoever runs a study file imports what it names
    done = cli("compare", "own.yaml", "--match", "params", "--budget", "700", "--out", "run")
    assert done.code == 0, done.err
    assert "one seed in common decides nothing: undecided." in " ".join(done.out.split())
    # Whoever reads the folder knows it from the study's settings.
    read = read_results(Path("run"))
    assert read.rows["error"].isna().all()
    assert read.metrics["coverage"].title == "coverage of real points"
    assert "coverage" not in SAMPLE_METRICS
    own = read.rows.set_index("name").loc["Shallow"]
    assert own["kind"] == "mlp"
    assert abs(own["parameters"] - 700) <= 14
    # One hidden layer: what the family says.
    pipeline = PointDiffusionPipeline.from_pretrained(Path("run", "trials", own["trial"]))
    assert len(pipeline.denoiser.config.hidden) == 1
    # In the rows and the tables of text.
    assert read.rows[["coverage", "coverage_real"]].notna().all(axis=None)
    assert "coverage" in summary_table(read)
    label = read.metrics["coverage"].label
    assert {label, f"{label}, real"} <= set(trial_table(read))
    # In the statistics.
    (data,) = read.data_sets()
    (comparison,) = compare(read, data, "coverage")
    assert (comparison.model, comparison.baseline) == ("KAN", "Shallow")
    values = read.rows.set_index("name")["coverage"]
    assert comparison.interval.mean == pytest.approx(values["KAN"] - values["Shallow"])
    assert comparison.better == "higher"
    # In the report.
    page = Page(Path("run", "report.html").read_text())
    shown = page.row(f"Models, {data}", "Shallow")
    assert float(shown["Cov"]) == pytest.approx(values["Shallow"], rel=5e-3)
    assert "Cov, real" in page.tables["All trials"][0]
    # And on the terminal, also where less is asked than was judged.
    Path("less.yaml").write_text(_study(metrics=[]).to_yaml())
    again = cli("compare", "less.yaml", "--match", "params", "--budget", "700", "--out", "run")
    for shown in (done, again):
        assert "Cov" in shown.out


def test_trials_without_a_finite_number_of_a_metric_are_counted_in_words(module):
    values, place = [0.5, math.nan, math.inf, math.nan], f"{module}:COVERAGE"
    rows = pd.DataFrame({"data": "moons", "name": "MLP", "family": "mlp", "kind": "mlp"}, range(4))
    rows = rows.assign(seed=range(4), error=[None, None, None, "no memory"])
    counted = "Cov (coverage of real points) has no finite number in 2 of 3 trials"
    results = Results.of(rows.assign(coverage=values), [place])
    assert results.notes == (f"{counted}, and no mean counts these.",)
    assert Results.of(rows, [place]).notes == ()


def test_what_is_no_metric_is_refused(module):
    for place, message in (
        (f"{module}:NOT_ONE", "is no Metric; make one of that name with kan_diffusion"),
        (f"{module}:NONE", "is no Metric"),
        ("no_such_module:METRIC", "import no_such_module first"),
        (module, "not of the form"),
    ):
        with pytest.raises(KanDiffusionError, match=message):
            metrics_named([place])
        with pytest.raises(ValueError, match=message):
            _study(metrics=[place])


def test_keys_and_directions_are_checked(module, monkeypatch):
    def zero(x, y, generator):
        return 0.0

    with pytest.raises(KanDiffusionError, match="cannot name a column"):
        Metric("My metric", "M", "lower", zero)
    with pytest.raises(KanDiffusionError, match="better of metric 'm' 'up'.*lower"):
        Metric("m", "M", "up", zero)  # type: ignore[arg-type]
    keys = {"data": "moons", "name": "MLP", "family": "mlp", "kind": "mlp", "seed": 0}
    results = Results.of(pd.DataFrame([keys]))
    columns = {*results.rows, *trial_table(results), *summary_table(results), "stage"}
    for key in columns - SAMPLE_METRICS.keys() - PICTURE_MEASURES.keys():
        if key.isidentifier():
            with pytest.raises(KanDiffusionError, match=f"'{key}' cannot name a column"):
                Metric(key, "M", "lower", zero)
    monkeypatch.setitem(SAMPLE_METRICS, "coverage", Metric("coverage", "C", "higher", zero))
    with pytest.raises(KanDiffusionError, match="the key 'coverage' of another metric"):
        metrics_named([f"{module}:COVERAGE"])
