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
    z = Standardizer((1e6 + 0.03,), (1.0,)).apply(torch.tensor([[1e6]], dtype=torch.float32))
    assert z.dtype == torch.float32
    assert float(z) == pytest.approx(-0.03, abs=1e-6)
    points = randn(999, 4) * torch.tensor([1e-3, 5.0, 1e6, 7e9]) + torch.tensor([0, 3, -1e6, 2e10])
    mean, scale = points.mean(dim=0), points.std(dim=0, correction=0)
    standardizer = Standardizer(tuple(mean.tolist()), tuple(scale.tolist()))
    assert torch.equal(standardizer.apply(points), (points - mean) / scale)
    for size in (1e-300, 1e-200, 1e200, 1e299):
        wide = Standardizer((3 * size,), (size,))
        points = (randn(1000, 1) + 3) * size
        torch.testing.assert_close(wide.invert(wide.apply(points)) / size, points / size)


def _since_1970(span, decimals):
    return np.round(1.7e9 + np.random.default_rng(0).uniform(0, span, 500), decimals)


def test_time_stamps_of_an_hour_keep_three_decimals_in_float32(caplog):
    stamps = torch.from_numpy(_since_1970(3600, 3))[:, None]
    standardizer = Standardizer((float(stamps.mean()),), (float(stamps.std()),))
    returned = standardizer.invert(standardizer.apply(stamps).float())
    assert (returned - stamps).abs().max() < 5e-4
    TableCodec.fit(pd.DataFrame({"time": stamps[:, 0].numpy()}))
    assert not caplog.records


@pytest.mark.parametrize(
    ("values", "step"),
    [(_since_1970(3e7, 3), "0.001"), (_since_1970(3e9, 0), "1"), (_since_1970(3600, 6), "1e-06")],
)
def test_a_column_whose_decimals_float32_loses_is_named(values, step, caplog):
    plain = np.random.default_rng(1).normal(size=len(values))
    TableCodec.fit(pd.DataFrame({"plain": plain, "time": values}))
    (record,) = caplog.records
    line = record.getMessage()
    assert line.startswith(f"column 'time' has steps of {step}, ")
    assert "\n" not in line


def test_continuous_numbers_have_no_decimals_to_lose(caplog):
    generator = np.random.default_rng(0)
    for dtype, num, spread in ((np.float64, 2, 1.0), (np.float32, 300, 1e3), (np.float16, 5, 1.0)):
        draws = generator.normal(size=(num, 20)), np.exp(generator.normal(size=(num, 20)))
        TableCodec.fit(pd.DataFrame((spread * np.hstack(draws)).astype(dtype).astype(np.float64)))
    assert not caplog.records


def test_unusable_moments_are_refused():
    for make, words in (
        (lambda: Standardizer((0.0,), (0.0,)), "coordinate 1 has scale 0"),
        (lambda: Standardizer((0.0, 1.0), (1.0, -2.0)), "coordinate 2 has scale -2"),
        (lambda: Standardizer((float("nan"),), (1.0,)), "NaN or infinite"),
        (lambda: Standardizer((0.0, 1.0), (1.0,)), "one number for each coordinate"),
        (lambda: Standardizer((0.0, 0.0), (1.0, 1.0)).apply(torch.zeros(4, 3)), r"shape \(n, 2\)"),
    ):
        with refused(words, DataError):
            make()
