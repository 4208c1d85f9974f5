import numpy as np
import pytest
import torch

from kan_diffusion.denoisers.edges import CURVE
from kan_diffusion.formulas.combination import compose, score_of
from kan_diffusion.processes import get_process
from networks import T, batch, mixed_networks, network

STEPS = np.array([0, 3, 31, 64, 98, 99])
NETWORKS = mixed_networks()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_a_combination_is_the_score_of_the_prediction_at_every_level(prediction_type):
    process = get_process("cosine").model_copy(
        update={"prediction_type": prediction_type, "num_timesteps": T}
    )
    alpha, sigma = (level[torch.from_numpy(STEPS)] for level in process.levels())
    points, _ = batch()
    x = points.numpy()[None].repeat(len(STEPS), 0)
    for name, denoiser in NETWORKS.items():
        scores = score_of(compose(denoiser, STEPS), process, alpha.numpy(), sigma.numpy())
        values = np.stack([score.values(x) for score in scores], -1)
        for number, step in enumerate(STEPS):
            levels = alpha[number].reshape(1, 1), sigma[number].reshape(1, 1)
            with torch.no_grad():
                prediction = denoiser(points, int(step)).sample
            expected = -(process.predicted_noise(prediction, points, *levels) / levels[1]).numpy()
            atol = 1e-5 / float(levels[1])
            np.testing.assert_allclose(values[number], expected, rtol=1e-5, atol=atol, err_msg=name)
        if not any(edge.kind == CURVE for edge in denoiser.edges):
            assert all(score.is_complete for score in scores)


def test_what_time_alone_gives_is_no_atom():
    # Raw time goes through a curve and a function; the points through lines.
    line = ("linear", True)
    first_layer = [(0, 0, *line), (2, 0, CURVE, False), (1, 1, *line), (2, 1, "tanh", True)]
    denoiser = network([first_layer, [(0, 0, *line), (1, 0, *line), (1, 1, *line)]], [2])
    parts = compose(denoiser, STEPS)
    assert all(atom.coordinate is not None for part in parts for atom in part.atoms())
    assert sorted(atom.coordinate for atom in parts[0].terms if atom) == [0, 1]
    first, second = denoiser.kan_layers
    expected = first.constants[3, 0, 0].item() * second.constants[3, 0, 0].item()
    coefficient = next(v for atom, v in parts[0].terms.items() if atom and atom.coordinate == 0)
    np.testing.assert_allclose(coefficient, expected)
    assert np.ptp(parts[0].terms[None]) > 1e-3


@pytest.mark.parametrize(("name", "sign"), [("tanh", -1), ("gaussian", 1)])
def test_symmetric_functions_are_written_with_a_positive_inside(name, sign):
    denoiser = network([[(0, 0, name, False), (1, 1, "linear", True)]], [])
    with torch.no_grad():
        denoiser.kan_layers[0].constants[:3, 0, 0] = torch.tensor([-2.0, 0.5, 3.0])
    terms = compose(denoiser, STEPS)[0].terms
    ((atom, coefficient),) = (item for item in terms.items() if item[0] and item[0].function)
    constant, leading = atom.inner.terms.values()
    np.testing.assert_allclose(leading, 2.0)
    np.testing.assert_allclose(constant, -0.5)
    np.testing.assert_allclose(coefficient, 3.0 * sign)
