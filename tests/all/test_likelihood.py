import pytest

from exact_denoiser import errors_of_density
from kan_diffusion.processes import get_process


@pytest.mark.parametrize(("name", "num"), [("mixture-8d", 20), ("swiss-roll-16d", 4)])
def test_exact_denoiser_has_the_exact_density_of_many_coordinates(name, num):
    errors, _ = errors_of_density(name, get_process("cosine"), num)
    assert (errors < 5e-3).all()


@pytest.mark.parametrize("process", ["cosine", "flow"])
@pytest.mark.parametrize("name", ["gaussian-mixture", "swiss-roll"])
def test_fifty_steps_are_enough_and_more_are_better(name, process):
    """Of fourth order: an error falls to a sixteenth, once steps are small."""
    error, finer = (
        float(errors_of_density(name, get_process(process), 40, num_steps=steps)[0].max())
        for steps in (50, 100)
    )
    assert error < (0.02 if process == "flow" else 0.01)  # flow begins at less noise
    assert finer < error / 6
