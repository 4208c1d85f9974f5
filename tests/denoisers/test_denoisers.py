import math

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from family_contract import stirred
from helpers import refused, seeded
from kan_diffusion.denoisers import (
    GatedDenoiser,
    KANDenoiser,
    MLPDenoiser,
    build_denoiser,
)
from kan_diffusion.denoisers.stacks import Stack
from kan_diffusion.kan import refine
from make import points


def test_the_notebooks_networks_have_its_numbers_of_parameters():
    # Raw time, 250 steps, its grid and its initialisations.
    kan = {"num_train_timesteps": 250, "time_encoding": "raw", "bias": False, "edge_scale": True}
    assert KANDenoiser(2, hidden=(32, 32, 32), **kan).num_trainable == 22_080
    assert KANDenoiser(2, hidden=(32,), **kan).num_trainable == 1_600
    mlp = MLPDenoiser(2, (32, 32, 32), 250, time_encoding="raw", activation="relu", init="xavier")
    assert mlp.num_trainable == 2_306


@pytest.mark.parametrize("family", ["full-kan", "kan", "spline-mlp"])
def test_a_refined_denoiser_and_its_average_are_the_same_and_saved_as_they_are(family, tmp_path):
    made = stirred(family, hidden=(6, 4), settings={"grid_size": 4})
    average, x, steps = AveragedModel(made), points(50), torch.arange(50)
    before = made(x, steps).sample.detach()
    refine(made, 32, averages=iter([average]))
    scale = float(before.abs().max())
    for one in (made, average.module):
        torch.testing.assert_close(one(x, steps).sample, before, rtol=0, atol=1e-5 * scale)
        one.save_pretrained(tmp_path)
        loaded = type(one).from_pretrained(tmp_path)
        assert loaded.config.grid_size == 32
        assert torch.equal(loaded(x, steps).sample, one(x, steps).sample)


def test_a_denoiser_of_unusual_settings_and_moved_grids_is_read_as_it_was(tmp_path):
    settings = {"grid_size": 7, "order": 2, "grid_range": (-1.5, 2.5), "extrapolation": "clamp"}
    settings |= {"base_activation": None, "edge_scale": True, "bias": False, "init": "noise"}
    made = stirred("full-kan", 3, hidden=(8, 7), num_train_timesteps=250, settings=settings)
    layers = made.network.layers
    assert [layer.out_features for layer in layers] == [8, 7, 3]
    assert {(layer.grid_size, layer.basis.order) for layer in layers} == {(7, 2)}
    with torch.no_grad():  # a grid that has moved is part of what was learned
        layers[1].grid_step.mul_(1.25)
    made.save_pretrained(tmp_path)
    loaded = KANDenoiser.from_pretrained(tmp_path)
    x = 3 * points(6, 3)
    assert torch.equal(loaded(x, 5).sample, made(x, 5).sample)
    assert (loaded.num_trainable, loaded.config.num_train_timesteps) == (made.num_trainable, 250)


def test_mlp_initialisations_are_those_of_torch_and_of_the_notebook():
    made = MLPDenoiser(2, hidden=(400, 300), init="torch")
    made.reset_parameters(seeded(0))
    weight, bias = (parameter.detach() for parameter in made.network[2].parameters())
    theirs = float(torch.nn.Linear(400, 300).weight.detach().std())
    assert float(weight.std()) == pytest.approx(theirs, rel=0.02)
    assert max(float(values.abs().max()) for values in (weight, bias)) <= 1 / math.sqrt(400)
    xavier = MLPDenoiser(2, hidden=(400, 300), init="xavier").network[2]
    assert float(xavier.weight.detach().std()) == pytest.approx(math.sqrt(2 / 700), rel=0.02)
    assert torch.equal(xavier.bias, torch.full((300,), 0.01))
    linear = build_denoiser("mlp", 3, num_train_timesteps=250, hidden=())
    assert linear.num_trainable == 3 * (3 + 6) + 3


SETTINGS = [
    (lambda: KANDenoiser(0), "data_dim of at least 1"),
    (lambda: MLPDenoiser(2, num_classes=-1), "num_classes of at least 0"),
    (lambda: MLPDenoiser(2, num_train_timesteps=0), "one timestep"),
    (lambda: MLPDenoiser(2, num_time_frequencies=0), "one frequency"),
    (lambda: MLPDenoiser(2, time_encoding="fourrier"), "did you mean 'fourier'"),
    (lambda: MLPDenoiser(2, activation="rely"), "unknown activation 'rely'"),
    (lambda: MLPDenoiser(2, init="xaver"), "did you mean 'xavier'"),
    (lambda: KANDenoiser(2, init="torch"), "unknown init 'torch'"),
    (lambda: KANDenoiser(2, num_input_frequencies=-1), "num_input_frequencies .* not -1"),
    (lambda: MLPDenoiser(2, hidden=(), modulated=True), "at least one hidden layer"),
    (lambda: GatedDenoiser(2, hidden=()), "at least one hidden layer; give hidden one width"),
    (lambda: GatedDenoiser(2, num_functions=0), "num_functions and rank of at least 1, not 0 and"),
    (lambda: GatedDenoiser(2, rank=0), "not 4 and 0; give rank=None for no modulation"),
    (lambda: GatedDenoiser(2, num_input_frequencies=5, input_grid_size=6), "raise grid_size"),
    (lambda: KANDenoiser(2, scaled_inputs=True), "need modulation; set modulated"),
    (lambda: Stack([torch.nn.Linear(2, 2)], [], num_scaled_inputs=2), "need modulation"),
]


def test_unusable_settings_and_conditions_are_refused():
    for make, message in SETTINGS:
        with refused(message):
            make()
    without, told, x = stirred("mlp"), stirred("mlp", num_classes=2), points(6)
    for conditions, message in (
        ({"class_labels": torch.tensor([0, 2])}, r"label 2 is unknown .* 0 to 1"),
        ({"class_labels": torch.tensor([0, -2])}, r"label -2 is unknown .* 0 to 1"),
        ({"class_labels": torch.tensor([0.0, 1.0])}, "whole numbers"),
        ({"class_labels": torch.tensor([0])}, "class_labels must be one a sample, 2, not 1"),
        ({"encoder_hidden_states": torch.zeros(2, 1, 4)}, "takes class_labels, not encoder_hidden"),
    ):
        with refused(message):
            told.require_conditions(conditions, 2)
    told.require_conditions({"class_labels": torch.tensor([0, 1, -1])}, 3)
    for conditions, message in (
        ({"class_labels": torch.zeros(6, dtype=torch.long)}, "built without classes"),
        ({"encoder_hidden_states": torch.zeros(6, 1, 4)}, "takes no prompts"),
        ({"observed": torch.zeros(6, 2)}, "not built to be told"),
    ):
        with refused(message):
            without(x, 5, **conditions)
    with refused("must have the shape"):
        stirred("mlp", blocks=(1, 1))(x, 5, observed=torch.zeros(2, 2))
    with pytest.raises(RuntimeError, match="expand"):  # as many timesteps as there are points
        stirred("mlp", settings={"modulated": True})(x[:1], torch.arange(6))
