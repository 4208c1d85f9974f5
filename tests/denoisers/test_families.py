import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from family_contract import ALL, FEW, FamilyContract
from helpers import assert_same_state, refused, seeded
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.denoisers import Family, NetworkDenoiser, Range, get_family
from kan_diffusion.denoisers.families import BUDGET_TOLERANCE, _widths_for_budget
from kan_diffusion.kan.functions import LearnedFunctions
from kan_diffusion.processes import get_process
from kan_diffusion.training.config import TrainingConfig
from kan_diffusion.training.loop import train
from make import denoiser, points


@pytest.mark.parametrize("family", FEW)
class TestFamily(FamilyContract):
    pass


SIZES = [  # the last is the one that is trained
    (2, {"params": 22_000}),
    (13, {"params": 4_600}),
    (2, {"params": 4_433, "depth": 2}),
    (3, {"flops": 40_000}),
    (2, {"params": 2_300}),
]


@pytest.mark.parametrize("family", ALL)
def test_every_family_is_fitted_to_sizes_of_any_kind_and_sixty_steps_lower_its_loss(family):
    kind = get_family(family)
    for dim, size in SIZES:
        options = {"num_train_timesteps": 1000, **size}
        made = denoiser(family, dim, seed=1, **options)
        counts = {"params": made.num_trainable, "flops": made.flops}
        for countable in counts.keys() & size:
            assert abs(counts[countable] / size[countable] - 1) <= BUDGET_TOLERANCE
        assert len(made.config.hidden) == size.get("depth", kind.depth)
    again, other = (denoiser(family, seed=2, **options) for _ in range(2))
    assert not torch.allclose(other(points(40), 5).sample, made(points(40), 5).sample)
    state = torch.get_rng_state()
    again.reset_parameters(seeded(1))
    assert torch.equal(state, torch.get_rng_state())
    assert_same_state(again, made)
    # Two tight clusters, whose noise is plain to see: the floor is 0.11.
    density = GaussianMixture([[-1.0, -1.0], [1.0, 1.0]], variances=0.01)
    data = density.sample(2_000, generator=seeded(0)).float()
    rate = {"learning_rate": kind.learning_rate, "warmup_steps": 10, "ema_decay": None}
    config = TrainingConfig(steps=60, batch_size=256, **rate)
    losses = train(made, get_process("ddpm"), data, config, seed=0, device="cpu").losses
    assert losses[-10:].mean() < losses[:5].mean()
    assert losses[-10:].mean() < 0.5  # no noise predicted at all costs 1


@given(*(st.integers(*ends) for ends in ((1, 14), (3, 20), (1, 12), (1, 5), (20, 300_000))))
def test_widths_meet_a_budget_nearly_equal_or_keep_within_it_as_wide_as_can_be(
    per_edge, inputs, outputs, depth, budget
):
    def count(hidden):
        return sum(a * b * per_edge + b for a, b in pairwise([inputs, *hidden, outputs]))

    assume(count((1,) * depth) <= budget)
    widths = _widths_for_budget(count, depth, budget, at_most=True)
    assert count(widths) <= budget
    for layer in range(depth):
        wider = tuple(width + (index == layer) for index, width in enumerate(widths))
        assert count(wider) > budget
    if depth > 1 and budget >= 2_000 and count((4,) * depth) <= budget:
        widths = _widths_for_budget(count, depth, budget)
        assert len(widths) == depth
        assert abs(count(widths) - budget) <= BUDGET_TOLERANCE * budget
        assert max(widths) <= 4 * min(widths)


MLP = [
    ({"params": 10}, r"budget of 10 is too small for the family 'mlp' with 5 hidden layers"),
    ({"params": 10, "depth": 1}, r"with 1 hidden layer: its smallest has 13; raise the budget"),
    ({"params": 50, "depth": 1}, r"within 2% of a budget of 50: the nearest has 46; try .* 46"),
    ({"params": 500, "depth": 0}, "of hidden layers must be .* from 1 to 100, not 0"),
    ({"params": 500, "depth": 1.5}, "of hidden layers must be .* from 1 to 100, not 1.5"),
    ({"hidden": ()}, "of hidden layers must be .* from 1 to 100, not 0"),
    ({"hidden": None}, "give one size .* not none"),
    ({"params": 500, "hidden": (4,)}, "give one size .* not more than one"),
    ({"settings": {"grid": 5}}, "unknown setting of family 'mlp' 'grid', did you mean 'grid_size'"),
    ({"settings": {"hidden": (5,)}}, "unknown setting of family 'mlp' 'hidden'; known: activation"),
    ({"hidden": (5,), "settings": {"data_dim": 5}}, "data_dim follows from the shape; leave it"),
    ({"settings": {"grid_size": 5}}, "grid_size needs edges or learned_functions; set it, too"),
    ({"settings": {"activation": "rel"}}, "did you mean 'relu'"),
    ({"settings": {"num_classes": 2}}, "unknown setting of family 'mlp' 'num_classes'"),
]
TOO_LARGE = [
    ({"hidden": (10**7, 10**7)}, "1,000,000 units, and one of family 'kan' would have 10,000,000"),
    ({"hidden": (8,) * 101}, "of hidden layers must be .* from 1 to 100, not 101"),
    ({"params": 2300, "depth": 10**9}, "of hidden layers must be .*, not 1,000,000,000"),
    ({"params": 10**9}, "would have 1,000,.* parameters .* at most 100,000,000"),
    ({"flops": 10**15}, "at most 1,000,000 units, .* take a smaller size or more layers"),
    ({"settings": {"grid_size": 10**9}}, "from 1 to 10,000, not 1,000,000,000"),
]
UNKNOWN = {"activatoin": Range(2, 3)}


def test_a_part_of_a_family_is_turned_off_with_what_belongs_to_it():
    plain = denoiser("kan", hidden=(4, 4), settings={"learned_functions": False})
    assert not any(isinstance(part, LearnedFunctions) for part in plain.layers.modules())


def test_what_cannot_be_built_is_refused_in_one_line():
    for family, cases in (("mlp", MLP), ("kan", TOO_LARGE)):
        for options, message in cases:
            with refused(message), torch.device("meta"):
                denoiser(family, **options)
    for make, message in (
        # The second layer could be widened for ever.
        (
            lambda: _widths_for_budget(lambda hidden: 7 * hidden[0], 2, 1_000),
            "hidden layer 2; give",
        ),
        (lambda: get_family("mpl"), "unknown family 'mpl', did you mean 'mlp'"),
        (lambda: get_family("transformer"), r"known: .*full-kan, gated-mlp, kan, mlp, .*"),
        (lambda: Family("x", NetworkDenoiser, 3, 1e-2, space=UNKNOWN), "did you mean 'activation'"),
        (lambda: Range(2.0, 1.0), "a Range needs"),
        (lambda: Range(0.0, 1.0, log=True), "a Range needs"),
        (lambda: Range(1.0, float("inf")), "a Range needs"),
    ):
        with refused(message):
            make()


OWN = """
from kan_diffusion.denoisers import Family, NetworkDenoiser

TANH = Family("mine", NetworkDenoiser, depth=2, learning_rate=1e-2, settings={"activation": "relu"})
NOT_ONE = 3
"""


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    made = denoiser("mlp", params=900)
    (tmp_path / "file").touch()
    for name, options, message in (
        ("file", {}, "file' is a file; give a folder to write"),
        ("folder", {"safe_serialization": False}, "leave out safe_serialization and variant"),
        ("folder", {"variant": "fp16"}, "leave out safe_serialization and variant"),
    ):
        with refused(message):
            made.save_pretrained(tmp_path / name, **options)
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]


def test_a_family_is_named_by_its_module(tmp_path, monkeypatch):
    (tmp_path / "own_family.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    with refused("a file does not decide what code runs: import own_family first"):
        get_family("own_family:TANH")
    assert "own_family" not in sys.modules
    family = get_family("own_family:TANH", importing=True)
    assert (family.name, family.title, family.kind) == ("mine", "mine", "other")
    made = denoiser("own_family:TANH", params=900)
    assert abs(made.num_trainable - 900) <= 18
    assert (len(made.config.hidden), made.config.activation) == (2, "relu")
    for place, message in (
        ("no_such_package:TANH", "module 'no_such_package' cannot be imported .*; mend or install"),
        ("own_family:TAHN", "'own_family:TAHN' is no Family; make one of that name"),
        ("own_family:NOT_ONE", "'own_family:NOT_ONE' is no Family"),
        *(
            (place, f"'{place}' is not of the form 'package.module:NAME'")
            for place in ("own_family:", ":TANH", "own_package:own_family:TANH", "..own_package:T")
        ),
    ):
        with refused(message):
            get_family(place, importing=True)
