import numpy as np
import pytest
from scipy.spatial.distance import cdist

from kan_diffusion.evaluation.privacy import closest_record, copies, nearest


def draw(count, seed, dim=4):
    return np.random.default_rng(seed).normal(size=(count, dim))


@pytest.mark.parametrize("dim", [1, 40])
def test_the_nearest_row_is_the_nearest_of_all(dim):
    rows, others = draw(50, 0, dim), draw(70, 1, dim)
    others[3] = rows[7]
    places, distances = nearest(rows, others)
    expected = cdist(rows, others)
    assert (places == expected.argmin(axis=1)).all()
    np.testing.assert_allclose(distances, expected.min(axis=1), rtol=1e-9)
    assert distances[7] == 0.0


def test_the_margin_is_what_other_halves_of_the_same_rows_make():
    random = np.random.default_rng(0)
    pool, generated = draw(200, 0), 0.3 * draw(400, 1)
    values, margins = [], []
    for _ in range(300):
        order = random.permutation(200)
        share = closest_record(generated, pool[order[:100]], pool[order[100:]])
        values.append(share.value)
        margins.append(share.margin)
    assert np.ptp(margins) < 1e-9
    # The standard deviation of 300 draws is known to 1 / sqrt(600), here with four of them.
    assert np.std(values) == pytest.approx(margins[0] / 1.96, rel=4 / np.sqrt(600))
    assert np.mean(values) == pytest.approx(0.5, abs=4 * np.std(values) / np.sqrt(300))


def test_copies_show():
    rng = np.random.default_rng(0)
    train, heldout, fresh = (rng.normal(size=(n, 6)) for n in (400, 100, 300))
    honest = copies(fresh, train, heldout, rng)
    copied = copies(train[:300], train, heldout, rng)
    near = copies(train[:300] + 0.05 * fresh, train, heldout, rng)
    assert abs(honest.closest.value - 0.5) < honest.closest.margin
    assert honest.nearest == pytest.approx(honest.nearest_real, rel=0.1)
    assert closest_record(fresh, train, train).value == 0.5  # ties count half
    assert copied.nearest == 0.0
    assert near.nearest < 0.2 * near.nearest_real
    for scores in (copied, near):
        # A quarter of the training rows are among those compared with: their copies are nearer.
        assert scores.closest.value > 0.5 + scores.closest.margin
