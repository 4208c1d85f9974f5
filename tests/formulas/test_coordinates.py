"""A formula is of the coordinates that it names: those of a file are plainly standardised."""

import numpy as np
import pandas as pd
import pytest
import torch

from kan_diffusion.data.sources import data_from_name, load_dataset
from kan_diffusion.denoisers.formula import FormulaDenoiser
from kan_diffusion.formulas.writing import formula_program
from kan_diffusion.processes import get_process
from kan_diffusion.study.named import single_trial

DRAWS = {
    "Laplace": lambda random: random.laplace(7.0, 2.0, 2000),
    "von Mises": lambda random: random.vonmises(0.5, 4.0, 2000),
    "two Gaussians": lambda random: random.choice([-3.0, 5.0], 2000) + random.normal(size=2000),
    "whole numbers": lambda random: random.integers(0, 5, 2000) ** 2,
}


def file_of(folder, name):
    path, values = folder / "points.csv", DRAWS[name](np.random.default_rng(0))
    pd.DataFrame({"mass": values}).to_csv(path, index=False)
    return path, values


@pytest.mark.parametrize("name", DRAWS)
def test_a_readable_family_takes_numbers_plainly_standardised(name, tmp_path):
    path, values = file_of(tmp_path, name)
    data = single_trial(str(path), family="readable-kan", params=150).data
    dataset = load_dataset(data)
    rows = torch.cat([dataset.train.double(), dataset.heldout]).sort(dim=0).values[:, 0].numpy()
    expected = np.sort((values - values.mean()) / values.std())
    if name == "whole numbers":  # which are spread over their step
        assert np.abs(rows - expected).max() < 0.51 / values.std()
    else:
        np.testing.assert_allclose(rows, expected, atol=1e-4)
    # Other families get normal scores unless they are asked not to.
    usual = single_trial(str(path), family="kan").data
    assert usual.scaling == "normal"
    asked = data_from_name(str(path), scaling="standard")
    assert single_trial(asked, family="kan").data == asked == data
    kept = data_from_name(str(path), scaling="normal")
    assert single_trial(kept, family="readable-kan", params=150).data.scaling == "normal"


def program_of(dataset):
    """The program of the score -x of a data set's coordinates."""
    score, process = [f"x{i}" for i in range(dataset.dim)], get_process("cosine")
    formula = FormulaDenoiser(dataset.dim, score, process.model_dump(mode="json"), 0)
    names = {}
    exec(formula_program(formula, "of a file", dataset.maps), names)
    return names


@pytest.mark.parametrize("scaling", ["normal", "standard"])
def test_a_program_has_the_map_from_the_file_to_coordinates_and_its_derivative(scaling, tmp_path):
    random, path = np.random.default_rng(0), tmp_path / "points.csv"
    frame = pd.DataFrame({
        "Laplace": random.laplace(7.0, 2.0, 500),
        "growth": random.exponential(1e3, 500).round(1),
        "count": random.poisson(np.exp(random.normal(7.0, 1.0, 500))),
    })  # fmt: skip
    frame.to_csv(path, index=False)
    dataset = load_dataset(data_from_name(str(path), scaling=scaling))
    prefix = "normal score of " if scaling == "normal" else ""
    assert [each.name for each in dataset.maps] == [prefix + name for name in frame]
    z, slopes = program_of(dataset)["coordinates"](frame.to_numpy())
    np.testing.assert_allclose(z, dataset.codec.encode(frame).numpy(), atol=1e-5)
    _, _, log_scale = dataset.codec.continuous(frame)
    np.testing.assert_allclose(np.log(slopes).sum(axis=1), log_scale, atol=1e-6)


def test_coordinates_that_no_number_decides_say_what_they_are(tmp_path):
    path = tmp_path / "points.csv"
    jumps = np.where(np.arange(90) < 45, 40, np.arange(90) % 31)
    frame = pd.DataFrame({"hours": jumps, "job": ["a", "b", "c"] * 30, "age": np.arange(90) / 7})
    frame.loc[3, "age"] = None
    frame.to_csv(path, index=False)
    dataset = load_dataset(path)
    names = ["normal score of hours", "code of job", "code of age is missing"]
    assert [each.name for each in dataset.maps][:3] == names
    assert "coordinates" not in program_of(dataset)
