"""Distances between synthetic and real rows, against their definitions and by simulation."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from kan_diffusion.evaluation.closeness import (
    closest_record,
    copies,
    membership,
    nearest,
    precision_and_recall,
)


def draw(count, seed, dim=4):
    return np.random.default_rng(seed).normal(size=(count, dim))


@pytest.mark.parametrize("dim", [1, 3, 40])
def test_the_nearest_row_is_the_nearest_of_all(dim):
    rows, others = draw(50, 0, dim), draw(70, 1, dim)
    others[3] = rows[7]
    places, distances = nearest(rows, others)
    expected = cdist(rows, others)
    assert (places == expected.argmin(axis=1)).all()
    np.testing.assert_allclose(distances, expected.min(axis=1), rtol=1e-9)
    assert distances[7] == 0.0
    alone = cdist(rows, rows) + np.diag(np.full(50, np.inf))
    places, distances = nearest(rows, rows, itself=True)
    assert (places == alone.argmin(axis=1)).all()
    np.testing.assert_allclose(distances, alone.min(axis=1), rtol=1e-9)


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


def test_real_rows_have_precision_one_and_recall_one_half():
    precision, recall = precision_and_recall(draw(3_000, 0), draw(3_000, 1))
    assert precision == pytest.approx(1.0, abs=0.04)
    assert recall == pytest.approx(0.5, abs=0.04)


def test_rows_beside_the_real_ones_have_no_precision_and_a_single_mode_no_recall():
    real = np.concatenate((draw(500, 0), draw(500, 1) + 20))
    elsewhere = draw(1_000, 2) + 100
    single = draw(1_000, 3)
    assert precision_and_recall(real, elsewhere)[0] < 0.05
    # Half of the real rows are met, and two in three of those have one of the 1,000 synthetic rows
    # nearer than the nearest of 499 real ones: F(β) = β / 3.
    assert precision_and_recall(real, single)[1] == pytest.approx(1 / 3, abs=0.06)


def test_the_margin_is_what_other_halves_of_the_same_rows_make():
    random = np.random.default_rng(0)
    pool, synthetic = draw(200, 0), 0.3 * draw(400, 1)
    values, margins = [], []
    for _ in range(300):
        order = random.permutation(200)
        share, _ = closest_record(synthetic, pool[order[:100]], pool[order[100:]])
        values.append(share.value)
        margins.append(share.margin)
    assert np.ptp(margins) < 1e-9
    # The standard deviation of 300 draws is known to 1 / sqrt(600), here with four of them.
    assert np.std(values) == pytest.approx(margins[0] / 1.96, rel=4 / np.sqrt(600))
    assert np.mean(values) == pytest.approx(0.5, abs=4 * np.std(values) / np.sqrt(300))


def test_copies_are_nearer_to_training_rows_and_ties_count_half():
    train, heldout = draw(100, 0), draw(100, 1)
    copied, distances = closest_record(train, train, heldout)
    assert copied.value == 1.0
    assert (distances[:, 0] == 0).all()
    tied, _ = closest_record(draw(50, 2), train, train)
    assert tied.value == 0.5


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


def test_copies_show() -> None:
    rng = np.random.default_rng(0)
    train, heldout, fresh = (rng.normal(size=(n, 6)) for n in (400, 100, 300))
    honest = copies(fresh, train, heldout, rng)
    copied = copies(train[:300], train, heldout, rng)
    near = copies(train[:300] + 0.05 * fresh, train, heldout, rng)
    assert honest.identical == copied.identical_real == 0.0
    assert abs(honest.closest.value - 0.5) < honest.closest.margin
    assert honest.nearest == pytest.approx(honest.nearest_real, rel=0.1)
    assert copied.identical == 1.0
    assert copied.nearest == 0.0
    assert near.identical == 0.0
    assert near.nearest < 0.2 * near.nearest_real
    for scores in (copied, near):
        # A quarter of the training rows are among those compared with: their copies are nearer.
        assert scores.closest.value > 0.5 + scores.closest.margin
