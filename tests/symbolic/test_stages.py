"""Stages of an explanation that cannot be judged as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sympy

from kan_diffusion.data.datasets import load_dataset
from kan_diffusion.denoisers.formula import formula_denoiser
from kan_diffusion.report.gather import runs_contents
from kan_diffusion.sampling import PointDiffusionPipeline, make_scheduler
from kan_diffusion.study.config import EvaluationConfig
from kan_diffusion.study.folder import SAMPLES, load_points, load_trial
from kan_diffusion.study.measure import yardstick
from kan_diffusion.study.named import single_trial
from kan_diffusion.study.results.rows import read_runs
from kan_diffusion.symbolic.context import make_context
from kan_diffusion.symbolic.stages import judge_stage, remove_stages, save_stage

SMALL = EvaluationConfig(num_noised=200, num_samples=50, num_real_pairs=1, num_drawn=5)
X = sympy.Symbol("x0", real=True)


@pytest.fixture(scope="module")
def judge() -> Callable[[str, sympy.Expr], tuple]:
    """Judges a formula on two modes; gives what `save_stage` takes, and how it stands."""
    config = single_trial("two-modes", family="readable-kan", params=150)
    config = config.model_copy(update={"evaluation": SMALL})
    dataset = load_dataset(config.data, 0, 0)
    context = make_context(dataset, config.process, 0)
    shared = yardstick(dataset, config.process, SMALL, 0)

    def judged(name: str, score: sympy.Expr) -> tuple:
        denoiser = formula_denoiser([score], {}, config.process)
        pipeline = PointDiffusionPipeline(
            denoiser,
            make_scheduler("dpm-solver++", config.process.scheduler()),
            dataset.standardizer.mean,
            dataset.standardizer.scale,
            ["x"],
        )
        standing, row, levels, samples = judge_stage(
            name, denoiser, context, config, shared, pipeline
        )
        return standing, (name, denoiser, config, row, levels, samples, pipeline)

    return judged


def test_a_stage_that_cannot_be_sampled_is_judged_by_its_loss(judge, tmp_path: Path) -> None:
    good, saved = judge("formula", -X)
    assert good.trouble == ""
    assert good.metrics["energy"] > 0
    save_stage(*saved, tmp_path)
    assert len(load_points(tmp_path / "formula" / SAMPLES)) == 50
    remove_stages(tmp_path)
    assert not list(tmp_path.iterdir())
    bad, saved = judge("formula", X**5)
    assert "not finite" in bad.trouble
    assert bad.metrics == {}
    # What does not need samples is there, in as much detail.
    row, levels = saved[3:5]
    assert row["excess"] > good.excess > 0
    assert (bad.loss, bad.floor) == (row["heldout_loss"], row["floor"])
    assert len(levels) == SMALL.num_levels
    save_stage(*saved, tmp_path)
    contents = runs_contents(read_runs([tmp_path / "formula"]), "")
    assert contents.samples == {}
    assert contents.results.rows["excess"].tolist() == [row["excess"]]


def test_a_likelihood_that_is_no_number_is_left_out(judge, tmp_path: Path) -> None:
    # It can be sampled, but the flow from data to noise leaves every bound.
    standing, saved = judge("formula", -X - X**3 / 5)
    assert (standing.trouble, saved[3]["nll"]) == ("", None)
    assert standing.metrics["energy"] > 0
    save_stage(*saved, tmp_path)
    trial = load_trial(tmp_path / "formula")
    assert trial is not None
    assert trial.row["nll"] is None
    assert trial.row["energy"] == standing.metrics["energy"]


def test_what_is_no_stage_is_not_removed(judge, tmp_path: Path) -> None:
    _, saved = judge("formula", -X)
    save_stage(*saved, tmp_path)
    (tmp_path / "formula").rename(tmp_path / "simplified")
    (tmp_path / "with-formulas").mkdir()
    remove_stages(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["simplified", "with-formulas"]
