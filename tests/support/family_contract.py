"""What every family of denoisers of points does, and what diffusers asks of its models."""

import copy
import inspect
import pickle

import pytest
import torch
from diffusers.training_utils import EMAModel

from helpers import assert_same_state, refused, seeded
from kan_diffusion import PointDiffusionPipeline, get_process
from kan_diffusion.denoisers import FAMILIES, Choice, get_family
from kan_diffusion.denoisers.sizing import BUDGET_TOLERANCE
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
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeded(seed)))
    return made.eval()


@torch.no_grad()
def output(made, dtype=torch.float32):
    """What a denoiser gives for `X` at `STEPS`."""
    return made(X.to(made.device, dtype), STEPS.to(made.device)).sample


def same_samples(one, other, **options):
    """Asserts that two pipelines draw the same points."""
    drawn = [each(4, 3, generator=seeded(0), **options).samples for each in (one, other)]
    # Weights from a file lie at other addresses, which may change the order of a sum.
    torch.testing.assert_close(*drawn, rtol=1e-5, atol=1e-6)


class FamilyContract:
    def test_it_is_fitted_to_a_size_of_any_kind(self, family):
        depth = get_family(family).depth
        for dim, countable, amount, options in (
            (13, "num_trainable", 4_600, {"params": 4_600}),
            (2, "num_trainable", 4_433, {"params": 4_433, "depth": 2}),
            (3, "flops", 40_000, {"flops": 40_000}),
        ):
            made = denoiser(family, dim, hidden=None, **options)
            assert abs(getattr(made, countable) - amount) <= BUDGET_TOLERANCE * amount
            assert len(made.config.hidden) == options.get("depth", depth)
            assert made(points(4, dim), 3).sample.isfinite().all()

    def test_every_count_grows_with_every_width_and_the_features_of_points(self, family):
        def counts(hidden, frequencies):
            settings = {"num_input_frequencies": frequencies}
            made = denoiser(family, 3, hidden=hidden, blocks=(2, 1), settings=settings)
            return made.num_trainable, made.flops

        widths = (9, 8, 9)[: get_family(family).depth]
        before = counts(widths, 0)
        wider = [
            tuple(width + (index == layer) for index, width in enumerate(widths))
            for layer in range(len(widths))
        ]
        for more in (*(counts(each, 0) for each in wider), counts(widths, 2)):
            assert all(map(int.__gt__, more, before))

    def test_its_space_holds_its_start_and_is_built_to_its_corners(self, family):
        kind = get_family(family)
        start = {"learning_rate": kind.learning_rate, "depth": kind.depth, **kind.settings}
        corners = [{}, {}]
        for name, choices in kind.space.items():
            if isinstance(choices, Choice):
                assert start[name] in choices.values
                for value in choices.values:
                    denoiser(family, hidden=(4, 4), settings={name: value})
            else:
                assert choices.low <= start[name] <= choices.high
                for corner, end in zip(corners, (choices.low, choices.high), strict=True):
                    corner[name] = end
        for corner in corners:
            depth = corner.pop("depth", None)
            settings = {name: value for name, value in corner.items() if name != "learning_rate"}
            made = denoiser(family, params=2_300, depth=depth, settings=settings)
            assert abs(made.num_trainable - 2_300) <= BUDGET_TOLERANCE * 2_300

    def test_it_is_called_as_models_of_diffusers_are(self, family):
        made = stirred(family)
        names = "sample timestep class_labels encoder_hidden_states return_dict observed"
        assert list(inspect.signature(made.forward).parameters) == names.split()
        (expected,) = made(X, STEPS, return_dict=False)
        found = made(X, STEPS)
        for same in (found.sample, found[0], found["sample"], made.train()(X, STEPS).sample):
            assert torch.equal(same, expected)  # and nothing is drawn
        # Rows are independent, and one timestep stands for one each.
        rows = [made(X[i : i + 1], int(step)).sample for i, step in enumerate(STEPS)]
        torch.testing.assert_close(torch.cat(rows), expected)
        each = made(X, torch.full((6,), 41)).sample
        for same in (41, 41.0, torch.tensor(41), torch.tensor([41]), torch.tensor(41.0)):
            torch.testing.assert_close(made(X, same).sample, each)
        smooth = stirred(family, num_train_timesteps=1000).double()
        below, half, above = (smooth(X.double(), step).sample for step in (40, 40.5, 41))
        torch.testing.assert_close(half, (below + above) / 2, atol=1e-3, rtol=1e-2)
        assert not torch.equal(half, below)
        for timestep in (STEPS, STEPS + 0.5):
            one = torch.func.vmap(lambda x, t: made(x.unsqueeze(0), t, return_dict=False)[0][0])
            torch.testing.assert_close(one(X, timestep), made(X, timestep).sample)
        for shape in ((6, 3), (2,), (2, 6, 2)):
            with refused(r"shape \(B, 2\)"):
                made(torch.zeros(shape), 5)

    def test_it_takes_no_labels_and_no_prompts(self, family):
        made = stirred(family)
        for name, given in (
            ("class_labels", torch.zeros(6, dtype=torch.long)),
            ("encoder_hidden_states", torch.zeros(6, 1, 4)),
        ):
            with refused("takes no labels and no prompts; leave class_labels and"):
                made(X, STEPS, **{name: given})

    def test_observed_coordinates_take_the_place_of_noised_ones(self, family):
        made = stirred(family, 4, blocks=(1, 2, 1))

        def predicted(sample, observed=None):
            return made(sample, 30, observed=observed).sample.detach()

        sample = points(3, 4, seed=2)
        alone = predicted(sample)
        torch.testing.assert_close(predicted(sample, torch.full((3, 4), NAN)), alone)
        observed = torch.tensor([[0.3, NAN, NAN, NAN], [NAN, 0.5, 0.1, NAN], [NAN, NAN, NAN, NAN]])
        prediction = predicted(sample, observed)
        torch.testing.assert_close(prediction[2], alone[2])
        # What stood in an observed place does not matter; what is observed does, and that it is.
        other = sample.where(observed.isnan(), 7)
        torch.testing.assert_close(predicted(other, observed), prediction)
        inserted = sample.where(observed.isnan(), observed)
        for other in (alone, predicted(sample, observed + 0.2), predicted(inserted)):
            assert not torch.isclose(other[:2], prediction[:2]).any()

    def test_copies_and_files_are_the_same_model(self, family, tmp_path):
        made = stirred(family, blocks=(1, 1))
        kind, expected = type(made), made(X, STEPS, observed=OBSERVED).sample
        made.save_pretrained(tmp_path)
        files = ["config.json", "diffusion_pytorch_model.safetensors"]
        assert sorted(path.name for path in tmp_path.iterdir()) == files
        read = kind.from_pretrained(tmp_path)
        assert not read.training
        from_config = kind.from_config(kind.load_config(tmp_path))
        from_config.load_state_dict(made.state_dict())
        for again in (from_config, read, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
            assert_same_state(again, made)
            assert torch.equal(again(X, STEPS, observed=OBSERVED).sample, expected)
            assert again.flops == made.flops

    def test_it_is_read_and_cast_in_a_dtype(self, family, tmp_path):
        made = stirred(family)
        made.save_pretrained(tmp_path)
        expected = output(made)
        # Of the roundings of a few layers, each of 8 or 11 bits; bfloat16 is coarse for grids.
        for dtype, bound in ((torch.float16, 0.02), (torch.bfloat16, 0.2), (torch.float64, 1e-4)):
            read = type(made).from_pretrained(tmp_path, dtype=dtype)
            cast = copy.deepcopy(made).to(dtype)
            for each in (read, cast):
                assert {tensor.dtype for tensor in each.state_dict().values()} == {dtype}
            found = output(read, dtype)
            assert found.dtype == dtype
            assert torch.equal(found, output(cast, dtype))
            assert float((found - expected).norm() / expected.norm()) < bound, dtype

    @pytest.mark.filterwarnings("ignore:It is deprecated to pass a pretrained model:FutureWarning")
    def test_it_trains_beside_a_moving_average(self, family, tmp_path):
        made = stirred(family, blocks=(1, 1)).train()
        settings = {"model_cls": type(made), "model_config": made.config}
        average = EMAModel(made.parameters(), decay=0.5, **settings)
        optimizer = torch.optim.Adam(made.parameters(), 1e-2)
        sample, steps = points(64), torch.arange(64)
        observed = sample.where(torch.tensor([True, False]), NAN)
        losses = []
        for _ in range(12):
            loss = (made(sample, steps, observed=observed).sample - sample).square().mean()
            optimizer.zero_grad()
            loss.backward()
            for name, parameter in made.named_parameters():
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
            optimizer.step()
            average.step(made.parameters())
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]
        average.save_pretrained(tmp_path)
        average.copy_to(made.parameters())
        assert_same_state(made, type(made).from_pretrained(tmp_path))

    def test_its_pipeline_comes_back(self, family, tmp_path):
        process = get_process("cosine")
        made = stirred(family, blocks=(1, 1), num_train_timesteps=1000)
        pipeline = PointDiffusionPipeline(made, process, mean=[5.0, -1.0], scale=[2.0, 0.5])
        pipeline.save_pretrained(tmp_path)
        loaded = PointDiffusionPipeline.from_pretrained(tmp_path)
        same_samples(loaded, pipeline, observed=OBSERVED[:4])
        same_samples(pickle.loads(pickle.dumps(pipeline)), pipeline)
