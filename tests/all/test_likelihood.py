import pytest

from exact_denoiser import errors_of_density
from kan_diffusion.processes import get_process


@pytest.mark.parametrize(
    ("toy", "process", "num", "bound"),
    [
        ("mixture-8d", "cosine", 20, 5e-3),
        ("swiss-roll-16d", "cosine", 4, 5e-3),
        ("swiss-roll", "cosine", 40, 0.01),
        ("swiss-roll", "flow", 40, 0.02),  # which begins at less noise
    ],
)
def test_exact_denoiser_has_nearly_the_exact_density(toy, process, num, bound):
    assert float(errors_of_density(toy, get_process(process), num)[0].max()) < bound
