"""Stages of an explanation that cannot be judged as a whole."""

from __future__ import annotations

import sympy

from kan_diffusion.data.datasets import load_dataset
from kan_diffusion.sampling import PointDiffusionPipeline, make_scheduler
from kan_diffusion.study.config import EvaluationConfig
from kan_diffusion.study.measure import yardstick
from kan_diffusion.study.named import single_trial
from kan_diffusion.symbolic.context import make_context
from kan_diffusion.symbolic.formula import formula_denoiser
from kan_diffusion.symbolic.stages import judge_stage


def test_a_stage_that_cannot_be_sampled_is_judged_by_its_loss() -> None:
    evaluation = EvaluationConfig(num_noised=200, num_samples=50, num_real_pairs=1, num_drawn=5)
    config = single_trial("two-modes", family="readable-kan", params=150).model_copy(
        update={"evaluation": evaluation}
    )
    dataset = load_dataset(config.data, 0, 0)
    context = make_context(dataset, config.process, 0)
    x = sympy.Symbol("x0", real=True)
    shared = yardstick(dataset, config.process, evaluation, 0)
    judged = {}
    for name, score in (("short", -x), ("explosive", x**5)):
        denoiser = formula_denoiser([score], {}, config.process)
        pipeline = PointDiffusionPipeline(
            denoiser,
            make_scheduler("dpm-solver++", config.process.scheduler()),
            [0.0],
            [1.0],
            ["x"],
        )
        judged[name] = judge_stage(name, denoiser, context, config, shared, pipeline)
    standing, row, levels, samples = judged["short"]
    assert (standing.trouble, len(samples)) == ("", 50)
    assert standing.metrics["energy"] > 0
    standing, row, levels, samples = judged["explosive"]
    assert "not finite" in standing.trouble
    assert standing.metrics == {}
    # What does not need samples is there, in as much detail.
    assert row["excess"] > judged["short"][1]["excess"] > 0
    assert len(levels) == len(judged["short"][2]) > 0
    assert standing.loss > judged["short"][0].loss
