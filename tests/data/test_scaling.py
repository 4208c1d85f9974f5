import numpy as np
import pandas as pd
import pytest
import torch

from helpers import randn, refused
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.errors import DataError
from kan_diffusion.tables.codec import TableCodec


def test_points_are_scaled_in_float64_whatever_their_size():
    # In float32 the mean 1e6 + 0.03 would round to a multiple of 0.0625.
    z = Standardizer((1e6 + 0.03,), (1.0,)).apply(torch.tensor([[1e6]]))
    assert (z.dtype, float(z)) == (torch.float32, pytest.approx(-0.03, abs=1e-6))
    for size in (1e-300, 1.0, 1e299):
        wide = Standardizer((3 * size, -size), (size, 2 * size))
        points = (randn(1000, 2) + 3) * size
        expected = (points.numpy() - wide.mean) / wide.scale
        np.testing.assert_array_equal(wide.apply(points), expected)
        torch.testing.assert_close(wide.invert(wide.apply(points)) / size, points / size)


DRAWS = randn(500, 40).numpy()
DRAWS[:, 20:] = 100 * np.exp(DRAWS[:, 20:])
PLACES = np.random.default_rng(0).uniform(size=500)  # time stamps since 1970 are at these


@pytest.mark.parametrize(
    ("values", "step"),
    [
        (np.round(1.7e9 + 3600 * PLACES, 3), None),
        (np.round(1.7e9 + 3600 * PLACES, 6), "1e-06"),
        (np.round(1.7e9 + 3e9 * PLACES, 0), "1"),
        ((1e12 + 3e10 * PLACES).astype("M8[ms]"), "0.001 s"),
        (DRAWS[:2], None),
        (DRAWS.astype(np.float32), None),
        (DRAWS[:5].astype(np.float16), None),
    ],
)
def test_a_column_whose_decimals_float32_loses_is_named_in_a_line(values, step, caplog):
    TableCodec.fit(pd.DataFrame(values).add_prefix("c"))
    lines = caplog.text.splitlines()
    assert len(lines) == (step is not None)
    assert step is None or f" steps of {step}, more than float32" in lines[0]


def test_unusable_moments_are_refused():
    for make, words in (
        (lambda: Standardizer((0.0, 1.0), (1.0, -2.0)), "coordinate 2 has mean 1 and scale -2;"),
        (lambda: Standardizer((float("nan"),), (1.0,)), "both must be finite"),
        (lambda: Standardizer((0.0, 1.0), (1.0,)), "one number for each coordinate"),
        (lambda: Standardizer((0.0, 0.0), (1.0, 1.0)).apply(torch.zeros(4, 3)), r"shape \(n, 2\)"),
    ):
        with refused(words, DataError):
            make()
