from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchHeunDiscreteScheduler,
)
from torch import Tensor

from exact_denoiser import ExactDenoiser
from helpers import refused, seeded
from kan_diffusion.data import Density, GaussianMixture
from kan_diffusion.denoisers import UNLABELLED, build_denoiser
from kan_diffusion.evaluation.metrics import energy_distance
from kan_diffusion.processes import Process, get_process
from kan_diffusion.sampling import (
    SCHEDULERS,
    PointDiffusionPipeline,
    fitting_samplers,
    make_scheduler,
)

LEFT, RIGHT = (
    GaussianMixture([[x, 0.3 * x]], covariances=[[[0.1, 0.05], [0.05, 0.2]]]) for x in (-1.0, 1.0)
)
BOTH = GaussianMixture(
    torch.cat([LEFT.means, RIGHT.means]), torch.cat([LEFT.covariances, RIGHT.covariances])
)

each_scheduler = pytest.mark.parametrize("name", SCHEDULERS)


def _process_for(scheduler: str, kind: str = "v_prediction") -> Process:
    return get_process("flow") if "flow" in scheduler else Process(name="x", prediction_type=kind)


def _exact_pipeline(
    scheduler: str = "dpm-solver++", kind: str = "v_prediction", **options: object
) -> PointDiffusionPipeline:
    process = _process_for(scheduler, kind)
    denoiser = ExactDenoiser(process, LEFT, RIGHT, BOTH, dtype=torch.float32)
    return PointDiffusionPipeline(
        denoiser, make_scheduler(scheduler, process.scheduler()), **options
    )


def _pipeline(family: str = "mlp", num_classes: int = 0, **options: object):
    denoiser = build_denoiser(
        family,
        2,
        num_train_timesteps=1000,
        hidden=(8, 8),
        num_classes=num_classes,
        generator=seeded(0),
    )
    return PointDiffusionPipeline(denoiser, get_process("cosine").scheduler(), **options)


def _distance(samples: Tensor, density: Density) -> float:
    return energy_distance(samples, density.sample(len(samples), seeded(99)))


@pytest.fixture(scope="module")
def real() -> float:
    """Energy distance of two real samples of 1,500 points, the largest of three."""
    return max(
        energy_distance(BOTH.sample(1500, seeded(seed)), BOTH.sample(1500, seeded(seed + 1)))
        for seed in (10, 20, 30)
    )


# The exact denoiser: what is left is the sampler's own error.


@pytest.mark.parametrize(
    ("name", "kind", "steps", "factor"),
    [
        *((name, "v_prediction", 200 if name == "flow-euler" else 50, 2.5) for name in SCHEDULERS),
        *((name, "epsilon", 50, 2.5) for name in SCHEDULERS if "flow" not in name),
        ("ddpm", "v_prediction", 300, 2.5),
        *((name, "v_prediction", 20, 4) for name in SCHEDULERS if name != "flow-euler"),
    ],
)
def test_samples_of_the_exact_denoiser_are_as_good_as_data(
    name: str, kind: str, steps: int, factor: float, real: float
) -> None:
    samples = _exact_pipeline(name, kind)(1500, steps, generator=seeded(0)).samples
    assert samples.shape == (1500, 2)
    assert samples.dtype == torch.float64
    assert _distance(samples, BOTH) < factor * real


def test_the_exact_flow_from_noise_gives_the_moments_of_the_data() -> None:
    samples = _exact_pipeline("flow-heun")(20_000, 40, generator=seeded(3)).samples.double()
    error = (samples - samples.mean(0)).square().std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - BOTH.mean).abs() < 4 * BOTH.std / len(samples) ** 0.5).all()
    assert ((samples.var(0) - BOTH.std**2).abs() < 4 * error + 0.005).all()


def test_too_few_steps_and_the_wrong_start_do_show(real: float) -> None:
    # The yardstick above is worth something only if it is missed when it should be.
    assert _distance(_exact_pipeline("ddim")(1500, 2, generator=seeded(0)).samples, BOTH) > 5 * real
    process = get_process("notebook")
    pipeline = PointDiffusionPipeline(ExactDenoiser(process, BOTH), process.scheduler())
    assert _distance(pipeline(1500, 250, generator=seeded(0)).samples, BOTH) > 5 * real


def test_labels_draw_from_their_class_and_none_from_all(real: float) -> None:
    pipeline = _exact_pipeline()
    for label, density in ((0, LEFT), (1, RIGHT)):
        samples = pipeline(1500, 20, generator=seeded(3), class_labels=label).samples
        assert _distance(samples, density) < 3 * real
    labels = torch.arange(1500) % 2
    samples = pipeline(1500, 20, generator=seeded(4), class_labels=labels).samples
    assert _distance(samples[labels == 0], LEFT) < 5 * real
    assert _distance(samples[labels == 1], RIGHT) < 5 * real
    samples = pipeline(1500, 20, generator=seeded(5), class_labels=UNLABELLED).samples
    assert _distance(samples, BOTH) < 3 * real


def test_guidance_moves_samples_towards_the_class_and_away_from_the_other() -> None:
    pipeline = _exact_pipeline()
    means = []
    for scale in (0.0, 0.5, 1.0, 3.0):
        options = {"generator": seeded(6), "class_labels": 1, "guidance_scale": scale}
        means.append(float(pipeline(800, 20, **options).samples[:, 0].mean()))
    assert means == sorted(means)
    assert abs(means[0]) < 0.15
    assert means[2] == pytest.approx(1, abs=0.05)
    assert means[3] > 1.05


# Guidance, labels and units


def test_guidance_of_one_is_conditional_and_of_zero_unconditional() -> None:
    pipeline = _pipeline(num_classes=2)
    options = {"num_samples": 50, "num_inference_steps": 5}
    conditional = pipeline(generator=seeded(0), class_labels=1, **options).samples
    none = pipeline(generator=seeded(0), **options).samples
    assert not torch.allclose(conditional, none)
    one, zero, two = (
        pipeline(
            generator=seeded(0), class_labels=[1] * 50, guidance_scale=scale, **options
        ).samples
        for scale in (1.0, 0.0, 2.0)
    )
    assert torch.equal(one, conditional)
    assert torch.equal(zero, none)
    assert not torch.allclose(two, conditional)


def test_one_step_of_guidance_is_the_mix_of_two_predictions() -> None:
    pipeline = _pipeline(num_classes=2)
    x, t = torch.randn(6, 2, generator=seeded(0)), torch.tensor(500)
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    with torch.no_grad():
        mixed = pipeline._predict(
            x, t, {"class_labels": labels}, {"class_labels": torch.full((6,), -1)}, 2.5
        )
        conditional = pipeline.denoiser(x, t, labels).sample
        unconditional = pipeline.denoiser(x, t).sample
    torch.testing.assert_close(mixed, unconditional + 2.5 * (conditional - unconditional))


def test_samples_are_in_the_units_of_the_data() -> None:
    plain = _exact_pipeline()(1500, 20, generator=seeded(0)).samples
    moved = _exact_pipeline(mean=[100.0, -3.0], scale=[5.0, 0.5], columns=["height", "weight"])
    samples = moved(1500, 20, generator=seeded(0)).samples
    expected = plain * torch.tensor([5.0, 0.5]) + torch.tensor([100.0, -3.0])
    torch.testing.assert_close(samples, expected)
    assert moved.config.columns == ["height", "weight"]
    assert _exact_pipeline().config.columns == ["x0", "x1"]


# Mechanics


@each_scheduler
def test_schedulers_keep_the_process_and_can_be_swapped(name: str) -> None:
    process = get_process("flow" if "flow" in name else "notebook")
    scheduler = make_scheduler(name, process.scheduler())
    if process.is_flow:
        torch.testing.assert_close(scheduler.sigmas.flip(0).double(), process.levels()[1])
        assert make_scheduler(None, scheduler).config.num_train_timesteps == 1000
        return
    torch.testing.assert_close(
        scheduler.alphas_cumprod.double().sqrt(), process.levels()[0], rtol=1e-6, atol=1e-6
    )
    assert scheduler.config.prediction_type == "epsilon"
    # There and back again: an unclipped ancestral scheduler of the same process.
    back = make_scheduler("ddpm", scheduler)
    assert isinstance(back, DDPMScheduler)
    assert not back.config.clip_sample
    assert back.config.variance_type == process.scheduler().config.variance_type
    torch.testing.assert_close(back.alphas_cumprod, process.scheduler().alphas_cumprod)


@each_scheduler
def test_a_pipeline_keeps_no_state_from_run_to_run_and_draws_from_its_generator(name: str) -> None:
    scheduler = make_scheduler(name, _process_for(name).scheduler())
    pipeline = PointDiffusionPipeline(_pipeline().denoiser, scheduler)
    state = torch.get_rng_state()
    first = pipeline(20, 6, generator=seeded(0)).samples
    pipeline(7, 3, generator=seeded(1))
    assert torch.equal(pipeline(20, 6, generator=seeded(0)).samples, first)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(pipeline(20, 6, generator=seeded(1)).samples, first)


def test_any_scheduler_of_diffusers_can_be_put_in() -> None:
    pipeline = _exact_pipeline()
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, clip_sample=False, timestep_spacing="trailing"
    )
    swapped = pipeline(200, 10, generator=seeded(0)).samples
    expected = _exact_pipeline("ddim")(200, 10, generator=seeded(0)).samples
    torch.testing.assert_close(swapped, expected)


@pytest.mark.parametrize("batch_size", [1, 7, 10, 64])
def test_batches_add_up_and_keep_their_labels(batch_size: int) -> None:
    labels = torch.tensor([0, 1] * 5)
    pipeline = _exact_pipeline()
    samples = pipeline(
        10, 10, generator=seeded(0), class_labels=labels, batch_size=batch_size
    ).samples
    assert samples.shape == (10, 2)
    assert torch.equal(samples[:, 0] > 0, labels == 1)
    assert len(torch.unique(samples, dim=0)) == 10


@pytest.mark.parametrize("name", ["dpm-solver++", "ddpm"])
@pytest.mark.parametrize("batch_size", [1, 4, 10])
def test_a_generator_for_each_point_gives_it_whatever_the_batch(name: str, batch_size: int) -> None:
    pipeline = _exact_pipeline(name)

    def drawn(**options: int) -> torch.Tensor:
        generators = [seeded(number) for number in range(10)]
        return pipeline(10, 10, generator=generators, **options).samples

    torch.testing.assert_close(drawn(batch_size=batch_size), drawn())
    alone = pipeline(1, 10, generator=[seeded(7)]).samples
    torch.testing.assert_close(drawn()[7:8], alone)


@pytest.mark.parametrize("step", [0, 3])
def test_the_step_is_named_where_samples_stopped_being_numbers(step: int) -> None:
    pipeline = _exact_pipeline("ddim")

    def spoil(_, index: int, timestep: torch.Tensor, state: dict[str, torch.Tensor]):
        levels.append(float(timestep))
        return {"sample": state["sample"] * (math.nan if index == step else 1)}

    levels: list[float] = []
    with refused(rf"infinite or NaN at timestep .*, step {step + 1} of 5") as caught:
        pipeline(10, 5, generator=seeded(0), callback_on_step_end=spoil)
    assert f"at timestep {levels[step]:g}," in str(caught.value)


def test_the_callback_sees_every_step_of_every_batch() -> None:
    seen: list[tuple[int, int, Tensor]] = []
    pipeline = _pipeline(mean=[5.0, 5.0])

    def callback(
        caller: PointDiffusionPipeline, step: int, timestep: Tensor, values: dict[str, Tensor]
    ) -> None:
        assert caller is pipeline
        seen.append((step, int(timestep), values["sample"]))

    samples = pipeline(
        10, 4, generator=seeded(0), batch_size=6, callback_on_step_end=callback
    ).samples
    assert [step for step, _, _ in seen] == [0, 1, 2, 3] * 2
    assert [timestep for _, timestep, _ in seen] == [999, 749, 499, 249] * 2
    assert [len(sample) for _, _, sample in seen] == [6] * 4 + [4] * 4
    last = torch.cat([seen[3][2], seen[7][2]])
    torch.testing.assert_close(last.double() + 5, samples)


@pytest.mark.parametrize("family", ["kan", "mlp"])
def test_a_saved_pipeline_draws_the_same_samples(family: str, tmp_path: Path) -> None:
    pipeline = _pipeline(family, num_classes=2, mean=[1.0, -2.0], scale=[3.0, 0.25])
    pipeline.scheduler = make_scheduler("dpm-solver++", pipeline.scheduler)
    pipeline.save_pretrained(tmp_path)
    loaded = PointDiffusionPipeline.from_pretrained(tmp_path)
    options = {"class_labels": 1, "guidance_scale": 2.0, "num_inference_steps": 8}
    expected = pipeline(30, generator=seeded(0), **options).samples
    assert torch.equal(loaded(30, generator=seeded(0), **options).samples, expected)
    assert isinstance(loaded.scheduler, DPMSolverMultistepScheduler)
    loaded.scheduler = make_scheduler("heun", loaded.scheduler)
    other = loaded(30, generator=seeded(0), **options).samples
    assert other.isfinite().all()
    assert not torch.equal(other, expected)
    # A solver's own settings do not stick to the next one.
    loaded.scheduler = make_scheduler("dpm-solver++", loaded.scheduler)
    assert torch.equal(loaded(30, generator=seeded(0), **options).samples, expected)
    assert loaded(3, 2, return_dict=False)[0].shape == (3, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "at least 1 sample"),
        ({"num_samples": 5, "num_inference_steps": 0}, "1 step"),
        ({"num_samples": 5, "batch_size": 0}, "batches of 1"),
        ({"num_samples": 10**12}, "2,000,000,000,000 values; draw at most 200,000,000 at once"),
        ({"num_samples": 5, "num_inference_steps": 2000}, "take at most 1,000"),
        ({"num_samples": 5, "class_labels": [0, 1]}, "one for each of the 5 samples, not 2"),
        ({"num_samples": 2, "class_labels": [0, 2]}, "label 2 is unknown"),
        ({"num_samples": 2, "class_labels": -2}, "label -2 is unknown"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options: dict[str, object], message: str) -> None:
    with refused(message):
        _pipeline(num_classes=2)(**options)


def test_labels_without_classes_are_refused() -> None:
    with refused("built without classes"):
        _pipeline()(5, class_labels=0)


def test_samplers_fit_their_process_and_others_are_refused() -> None:
    cosine, flow = (get_process(name).scheduler() for name in ("cosine", "flow"))
    assert isinstance(make_scheduler(None, cosine), DPMSolverMultistepScheduler)
    assert isinstance(make_scheduler(None, flow), FlowMatchHeunDiscreteScheduler)
    assert [*fitting_samplers(cosine), *fitting_samplers(flow)] == list(SCHEDULERS)
    with refused("did you mean 'unipc'"):
        make_scheduler("uni-pc", cosine)
    with refused(r"'heun' .*: flow-heun, flow-euler$"):
        make_scheduler("heun", flow)
    with refused(r": dpm-solver\+\+, ddpm"):
        make_scheduler("flow-euler", cosine)


def test_denoisers_of_flow_matching_are_given_their_own_timesteps() -> None:
    seen: list[Tensor] = []
    pipeline = _exact_pipeline("flow-heun")
    pipeline.denoiser.register_forward_hook(lambda _, inputs, __: seen.append(inputs[1]))
    pipeline(3, 5)
    steps = torch.stack(seen).double()
    expected = torch.linspace(999, 0, 5, dtype=torch.float64)
    torch.testing.assert_close(steps.unique().flip(0), expected, rtol=1e-5, atol=1e-3)
