import numpy as np
import pandas as pd
import pytest
import torch

from helpers import seeded
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.pictures.scenes import captions, draw_scenes, render, score_scenes
from kan_diffusion.pictures.scores import ClassJudge
from kan_diffusion.pictures.sources import DigitsData


@pytest.mark.parametrize(
    ("size", "noise", "at_least"), [(32, 0.0, 1.0), (16, 0.3, 0.94), (32, 0.3, 0.99)]
)
def test_the_judge_reads_noisy_scenes(size, noise, at_least):
    # docs/pictures.md has the shares of 2,000 scenes: these are three standard errors below.
    scenes = draw_scenes(100, np.random.default_rng(1), "all")
    samples = render(scenes, size)
    samples += noise * torch.randn(samples.shape, generator=seeded())
    scores = score_scenes(samples, captions(scenes))
    assert scores["all"] >= at_least


def test_digits_are_read_as_what_they_are_and_narrowed_ones_have_less_spread():
    dataset = load_dataset(DigitsData(holdout=0.3))
    judge = ClassJudge(dataset.train, dataset.labels["class"])
    pictures, labels = dataset.heldout, dataset.heldout_labels["class"]
    right, spread = judge.score(pictures, labels)
    assert right >= 0.97
    assert spread == pytest.approx(1.0, abs=0.05)
    codes = torch.tensor(labels.cat.codes.to_numpy()).long()
    others = pd.Series(pd.Categorical.from_codes((codes + 1) % 10, dtype=labels.dtype))
    assert judge.score(pictures, others)[0] < 0.02
    means = torch.stack([pictures[codes == label].mean(dim=0) for label in range(10)])
    narrow = means[codes] + 0.6 * (pictures - means[codes])
    assert judge.score(narrow, labels)[1] == pytest.approx(0.6 * spread, rel=1e-4)
    # Classes that were not asked for have no spread.
    few = [judge.score(pictures[codes == k], labels[(codes == k).numpy()]) for k in range(3)]
    expected = np.mean([each for _, each in few])
    some = codes < 3
    assert judge.score(pictures[some], labels[some.numpy()])[1] == pytest.approx(expected)
