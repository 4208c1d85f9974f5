"""Precision, recall and membership of synthetic rows, against their definitions."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from kan_diffusion.evaluation.closeness import membership, precision_and_recall


def draw(count, seed, dim=4):
    return np.random.default_rng(seed).normal(size=(count, dim))


def test_precision_and_recall_are_the_integrals_of_their_definition():
    real, synthetic = draw(60, 0, 2), 0.7 * draw(60, 1, 2) + 0.3

    def radii(rows, others):
        return np.linalg.norm(others - rows.mean(axis=0), axis=1)

    def precision(alpha):
        ball = np.quantile(radii(real, real), alpha, method="inverted_cdf")
        return (radii(real, synthetic) <= ball).mean()

    among = (cdist(real, real) + np.diag(np.full(60, np.inf))).min(axis=1)
    between = cdist(real, synthetic)

    def recall(beta):
        ball = np.quantile(radii(synthetic, synthetic), beta, method="inverted_cdf")
        inside = radii(synthetic, synthetic)[between.argmin(axis=1)] <= ball
        return ((between.min(axis=1) <= among) & inside).mean()

    expected = [
        1 - 2 * quad(lambda a, curve=curve: abs(curve(a) - a), 1e-9, 1, limit=800, epsabs=1e-3)[0]
        for curve in (precision, recall)
    ]
    # Levels stand in the middle of the steps of 1/60, which quantiles put at their end.
    assert precision_and_recall(real, synthetic) == pytest.approx(expected, abs=0.02)


def test_real_rows_have_precision_one_and_recall_one_half_and_others_less():
    precision, recall = precision_and_recall(draw(3_000, 0), draw(3_000, 1))
    assert precision == pytest.approx(1.0, abs=0.04)
    assert recall == pytest.approx(0.5, abs=0.04)
    real = np.concatenate((draw(500, 0), draw(500, 1) + 20))
    assert precision_and_recall(real, draw(1_000, 2) + 100)[0] < 0.05
    # Of a single mode half of the real rows are met, and two in three of those have one of the
    # 1,000 synthetic rows nearer than the nearest of 499 real ones: F(β) = β / 3.
    assert precision_and_recall(real, draw(1_000, 3))[1] == pytest.approx(1 / 3, abs=0.06)


def test_the_attack_is_the_area_under_its_roc_curve():
    train, heldout = draw(120, 0), draw(120, 1)
    synthetic = np.concatenate((train[:40] + 0.01, draw(100, 2)))
    found = membership(synthetic, train, heldout)
    distances = np.concatenate([cdist(rows, synthetic).min(axis=1) for rows in (train, heldout)])
    labels = np.repeat([1, 0], 120)
    assert found.value == pytest.approx(roc_auc_score(labels, -distances), abs=1e-12)
    assert found.value > 0.5 + found.margin
    assert membership(train, train, heldout).value == 1.0
    assert membership(draw(200, 3), train, train).value == 0.5
