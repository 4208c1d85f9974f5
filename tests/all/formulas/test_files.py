"""Formulas of files: the score of the numbers themselves, or none."""

import numpy as np
import pandas as pd
import pytest
import torch

from kan_diffusion.data.sources import load_dataset
from kan_diffusion.formulas.averaged import reference_mean
from kan_diffusion.formulas.explain import ExplainOptions, explain_run
from kan_diffusion.study.config import EvaluationConfig
from kan_diffusion.study.named import single_trial
from kan_diffusion.study.trial import run_trial

DRAWS = {
    "two Gaussians": lambda random, num: random.choice([-2.0, 2.0], num) + random.normal(size=num),
    "von Mises": lambda random, num: random.vonmises(0.5, 1.0, num),
    "Laplace": lambda random, num: random.laplace(7.0, 2.0, num),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_file_gets_its_own_score_or_no_formula(name, tmp_path):
    values = DRAWS[name](np.random.default_rng(0), 20_000)
    pd.DataFrame({"mass": values}).to_csv(tmp_path / "points.csv", index=False)
    trial = single_trial(
        str(tmp_path / "points.csv"), family="readable-kan", params=150, steps=400,
        batch_size=2048, sparsify=1e-3,
    )  # fmt: skip
    trial = trial.model_copy(update={"evaluation": EvaluationConfig(effort="quick")})
    run_trial(trial, tmp_path / "run", device="cpu")
    options = ExplainOptions(num_samples=0, seconds=36_000)  # however slow the machine is
    explanation = explain_run(tmp_path / "run", tmp_path / "out", options)
    assert explanation.columns == ("mass",)
    formula, (outcome, *_) = explanation.stages.get("formula"), explanation.sentences
    assert (formula is None) == ("no short formula" in outcome)
    assert name != "two Gaussians" or formula is not None
    denoiser, process = (
        explanation.stages["with formulas"] if formula is None else formula,
        trial.process,
    )
    points = load_dataset(trial.data).train.double()
    steps = torch.tensor([100, 300, 500, 700, 900]).repeat_interleave(400)
    alpha, sigma = (level[steps] for level in process.levels())
    noise = torch.randn(len(steps), 1, generator=torch.Generator().manual_seed(0)).double()
    noised = alpha[:, None] * points[: len(steps)] + sigma[:, None] * noise
    mean = reference_mean(points, noised, alpha, sigma)
    expected = process.prediction_of_mean(mean, noised, alpha[:, None], sigma[:, None])
    with torch.no_grad():
        prediction = denoiser(noised.float(), steps).sample.double()
    # Of a normal distribution, which all would be as normal scores, the error is far larger.
    normal = process.prediction_of_mean(
        alpha[:, None] * noised, noised, alpha[:, None], sigma[:, None]
    )
    error = float((prediction - expected).square().mean())
    assert error < 0.2 * float((normal - expected).square().mean())
