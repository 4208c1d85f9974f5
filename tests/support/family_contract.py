"""What every family of denoisers of points does, and what diffusers asks of its models."""

import copy
import pickle

import torch

from helpers import assert_same_state, seeded
from kan_diffusion.denoisers import FAMILIES, get_family
from kan_diffusion.denoisers.families import BUDGET_TOLERANCE
from make import denoiser, points

ALL = [*FAMILIES, "readable-kan"]
FEW = ["kan", "gated-mlp", "full-kan", "modulated-kan", "mlp", "spline-mlp"]
OTHERS = [f for f in ALL if f not in FEW]

X, STEPS = points(6, seed=1), torch.tensor([0, 41, 99, 7, 41, 50])
NAN = torch.nan
OBSERVED = torch.tensor([[0.3, NAN], [NAN, NAN], [NAN, -1.0], [0.1, 0.2], [NAN, NAN], [2.0, NAN]])


def stirred(family, dim=2, *, seed=0, **options):
    """A denoiser none of whose parameters is at a special value, as after training."""
    made = denoiser(family, dim, seed=seed, **options)
    for parameter in made.parameters():
        parameter.detach().add_(0.1 * torch.randn(parameter.shape, generator=seeded(seed)))
    return made.eval()


class FamilyContract:
    def test_its_space_holds_its_start_and_is_built_to_its_corners(self, family):
        kind = get_family(family)
        start = {"learning_rate": kind.learning_rate, "depth": kind.depth, **kind.settings}
        low, high = {}, {}
        for name, choices in kind.space.items():
            if isinstance(choices, tuple):
                assert start[name] in choices
                for value in choices:
                    denoiser(family, hidden=(4, 4), settings={name: value})
            else:
                assert choices.low <= start[name] <= choices.high
                low[name], high[name] = choices.low, choices.high
        for corner in (low, high):
            corner.pop("learning_rate", None)
            depth = corner.pop("depth", None)
            made = denoiser(family, params=2_300, depth=depth, settings=corner)
            assert abs(made.num_trainable - 2_300) <= BUDGET_TOLERANCE * 2_300

    def test_it_is_called_as_models_of_diffusers_are(self, family):
        made = stirred(family)
        (expected,) = made(X, STEPS, return_dict=False)
        found = made(X, STEPS)
        for same in (found.sample, found[0], found["sample"], made.train()(X, STEPS).sample):
            assert torch.equal(same, expected)  # and nothing is drawn
        for step in (41, 41.5):  # for all points as for each
            each = made(X, torch.full((6,), step)).sample
            number = float(step)
            for same in (step, number, *map(torch.tensor, (step, number, [step]))):
                torch.testing.assert_close(made(X, same).sample, each)
        rows = torch.func.vmap(lambda x, t: made(x.unsqueeze(0), t, return_dict=False)[0][0])
        for timestep in (STEPS, STEPS + 0.5):
            torch.testing.assert_close(rows(X, timestep), made(X, timestep).sample)

    def test_copies_and_files_are_the_same_model_in_any_dtype(self, family, tmp_path):
        made = stirred(family, observable=True)
        for name, buffer in made.named_buffers():
            if name.endswith("grid_origin"):
                buffer.add_(0.1)  # a grid that has moved is part of what was learned
        kind, expected = type(made), made(X, STEPS, observed=OBSERVED).sample
        made.save_pretrained(tmp_path)
        read = kind.from_pretrained(tmp_path)
        assert not read.training
        from_config = kind.from_config(kind.load_config(tmp_path))
        from_config.load_state_dict(made.state_dict())
        for again in (from_config, read, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
            assert_same_state(again, made)
            assert torch.equal(again(X, STEPS, observed=OBSERVED).sample, expected)
            assert again.flops == made.flops
        expected = made(X, STEPS).sample.detach()
        # Of the roundings of a few layers, each of 8 or 11 bits; bfloat16 is coarse for grids.
        for dtype, bound in ((torch.float16, 0.02), (torch.bfloat16, 0.2), (torch.float64, 1e-4)):
            read, cast = kind.from_pretrained(tmp_path, dtype=dtype), copy.deepcopy(made).to(dtype)
            assert {tensor.dtype for tensor in read.state_dict().values()} == {dtype}
            found = read(X.to(dtype), STEPS).sample.detach()
            assert found.dtype == dtype
            assert torch.equal(found, cast(X.to(dtype), STEPS).sample)
            assert float((found - expected).norm() / expected.norm()) < bound, dtype
