import math

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchHeunDiscreteScheduler,
)

from exact_denoiser import ExactDenoiser
from helpers import refused, seeded
from kan_diffusion.data import GaussianMixture
from kan_diffusion.denoisers import UNLABELLED
from kan_diffusion.diffusion.sampling import (
    SCHEDULERS,
    PointDiffusionPipeline,
    fitting_samplers,
    make_scheduler,
)
from kan_diffusion.evaluation.metrics import energy_distance
from kan_diffusion.processes import Process, get_process
from make import denoiser

LEFT, RIGHT = (
    GaussianMixture([[x, 0.3 * x]], covariances=[[[0.1, 0.05], [0.05, 0.2]]]) for x in (-1.0, 1.0)
)
BOTH = GaussianMixture(
    torch.cat([LEFT.means, RIGHT.means]), torch.cat([LEFT.covariances, RIGHT.covariances])
)
NUM = 1500


def _exact_pipeline(scheduler="dpm-solver++", kind="v_prediction", **options):
    process = (
        get_process("flow") if "flow" in scheduler else Process(name="x", prediction_type=kind)
    )
    exact = ExactDenoiser(process, LEFT, RIGHT, BOTH, dtype=torch.float32)
    return PointDiffusionPipeline(
        exact, process, scheduler=make_scheduler(scheduler, process), **options
    )


def _pipeline(family="mlp", **options):
    made = denoiser(family, num_train_timesteps=1000)
    return PointDiffusionPipeline(made, get_process("cosine"), **options)


def _labelled(pipeline, labels, steps, generator, *, away=(), guidance=1.0, batch_size=64):
    """Points of labels, which pipelines of points do not take and those of pictures do."""
    conditions = {"class_labels": labels}
    absent = {"class_labels": away} if len(away) else {}
    return pipeline._draw_all(
        len(labels), steps, generator, conditions, absent, guidance, batch_size, None
    )


def _distance(samples, density=BOTH):
    return energy_distance(samples, density.sample(len(samples), seeded(99)))


@pytest.fixture(scope="module")
def real():
    """Energy distance of two real samples of `NUM` points, the largest of three."""
    return max(
        energy_distance(BOTH.sample(NUM, seeded(seed)), BOTH.sample(NUM, seeded(seed + 1)))
        for seed in (10, 20, 30)
    )


# The exact denoiser: what is left is the sampler's own error.


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_sampler_draws_the_data_from_the_exact_denoiser_and_keeps_no_state(name, real):
    cases = [("v_prediction", 50, 2.5), ("v_prediction", 20, 4)]
    if name == "flow-euler":
        cases = [("flow", 200, 2.5)]
    elif "flow" not in name:
        cases.append(("epsilon", 50, 2.5))
    for kind, steps, factor in cases:
        pipeline = _exact_pipeline(name, kind)
        samples = pipeline(NUM, steps, generator=seeded(0)).samples
        assert samples.shape == (NUM, 2)
        assert samples.dtype == torch.float64
        assert _distance(samples) < factor * real, (kind, steps)
    state = torch.get_rng_state()
    first = pipeline(20, 6, generator=seeded(0)).samples
    pipeline(7, 3, generator=seeded(1))
    assert torch.equal(pipeline(20, 6, generator=seeded(0)).samples, first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(pipeline(20, 6, generator=seeded(1)).samples, first)


def test_too_few_steps_and_the_wrong_start_do_show(real):
    # The yardstick above is worth something only if it is missed when it should be.
    assert _distance(_exact_pipeline("ddim")(NUM, 2, generator=seeded(0)).samples) > 5 * real
    process = get_process("notebook")
    pipeline = PointDiffusionPipeline(ExactDenoiser(process, BOTH), process)
    assert _distance(pipeline(NUM, 50, generator=seeded(0)).samples) > 5 * real


def test_guidance_of_one_is_conditional_of_zero_unconditional_and_between_the_mix_of_both():
    pipeline = _exact_pipeline("ddim")
    right, none = torch.ones(50, dtype=torch.long), torch.full((50,), UNLABELLED)

    def drawn(labels, steps=5, **options):
        return _labelled(pipeline, labels, steps, seeded(0), **options)

    conditional, unconditional = drawn(right), drawn(none)
    assert not torch.allclose(conditional, unconditional)
    assert torch.equal(drawn(right, away=none, guidance=1.0), conditional)
    assert torch.equal(drawn(right, away=none, guidance=0.0), unconditional)
    # One step of an ODE's solver is linear in the prediction.
    one, zero = drawn(right, 1), drawn(none, 1)
    mixed = drawn(right, 1, away=none, guidance=2.5)
    torch.testing.assert_close(mixed, zero + 2.5 * (one - zero), rtol=1e-4, atol=1e-4)


def test_samples_are_in_the_units_of_the_data():
    plain = _exact_pipeline()(NUM, 20, generator=seeded(0)).samples
    moved = _exact_pipeline(mean=[100.0, -3.0], scale=[5.0, 0.5], columns=["height", "weight"])
    samples = moved(NUM, 20, generator=seeded(0)).samples
    expected = plain * torch.tensor([5.0, 0.5]) + torch.tensor([100.0, -3.0])
    torch.testing.assert_close(samples, expected)
    assert moved.config.columns == ["height", "weight"]
    assert _exact_pipeline().config.columns == ["x0", "x1"]


def test_schedulers_keep_the_process_and_can_be_swapped():
    flow, notebook = get_process("flow"), get_process("notebook")
    for name in SCHEDULERS:
        process = flow if "flow" in name else notebook
        scheduler = make_scheduler(name, process)
        if process.is_flow:
            torch.testing.assert_close(scheduler.sigmas.flip(0).double(), process.levels()[1])
            continue
        signal = scheduler.alphas_cumprod.double().sqrt()
        torch.testing.assert_close(signal, process.levels()[0], rtol=1e-6, atol=1e-6)
        assert scheduler.config.prediction_type == "epsilon"
        if isinstance(scheduler, DDPMScheduler):
            assert not scheduler.config.clip_sample
            assert scheduler.config.variance_type == process.scheduler().config.variance_type


def test_any_scheduler_of_diffusers_can_be_put_in():
    pipeline = _exact_pipeline()
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, clip_sample=False, timestep_spacing="trailing"
    )
    swapped = pipeline(200, 10, generator=seeded(0)).samples
    expected = _exact_pipeline("ddim")(200, 10, generator=seeded(0)).samples
    torch.testing.assert_close(swapped, expected)


@pytest.mark.parametrize("name", ["dpm-solver++", "ddpm"])
def test_a_generator_for_each_point_gives_it_whatever_the_batch(name):
    pipeline, labels = _exact_pipeline(name), torch.tensor([0, 1] * 5)

    def drawn(**options):
        generators = [seeded(number) for number in range(10)]
        return _labelled(pipeline, labels, 10, generators, **options)

    whole = drawn()
    assert torch.equal(whole[:, 0] > 0, labels == 1)
    assert len(torch.unique(whole, dim=0)) == 10
    for batch_size in (1, 4, 10, 64):
        torch.testing.assert_close(drawn(batch_size=batch_size), whole)
    alone = _labelled(pipeline, labels[7:8], 10, [seeded(7)])
    torch.testing.assert_close(alone, whole[7:8])
    with refused("a list of 4, one a sample, not of 3"):
        pipeline(4, 3, generator=[seeded()] * 3)


def test_the_step_is_named_where_samples_stopped_being_numbers():
    pipeline, levels = _exact_pipeline("ddim"), []

    def spoil(_, step, timestep, state):
        levels.append(float(timestep))
        return {"sample": state["sample"] * (math.nan if step == 3 else 1)}

    with refused(r"infinite or NaN at timestep .*, step 4 of 5") as caught:
        pipeline(10, 5, generator=seeded(0), callback_on_step_end=spoil)
    assert f"at timestep {levels[3]:g}," in str(caught.value)


def test_a_callback_sees_every_step_of_every_batch_and_may_change_it():
    seen, pipeline = [], _pipeline(mean=[5.0, 5.0])

    def look(caller, step, timestep, given):
        assert caller is pipeline
        seen.append((step, int(timestep), len(given["sample"])))
        return {"sample": 0 * given["sample"]}

    pipeline.scheduler = make_scheduler("ddpm", pipeline.process)
    samples = pipeline(10, 3, batch_size=6, callback_on_step_end=look).samples
    assert seen == [
        (step, timestep, num) for num in (6, 4) for step, timestep in enumerate((999, 666, 332))
    ]
    assert (samples == 5).all()


def test_a_saved_pipeline_keeps_its_process_and_takes_any_sampler_of_it(tmp_path):
    pipeline = _pipeline(mean=[1.0, -2.0], scale=[3.0, 0.25])
    pipeline.save_pretrained(tmp_path)
    loaded = PointDiffusionPipeline.from_pretrained(tmp_path)
    assert loaded.process == pipeline.process == get_process("cosine")
    assert isinstance(loaded.scheduler, DPMSolverMultistepScheduler)

    def drawn(each, sampler):
        each.scheduler = make_scheduler(sampler, each.process)
        return each(30, 8, generator=seeded(0)).samples

    expected = drawn(pipeline, "dpm-solver++")
    assert torch.equal(loaded(30, 8, generator=seeded(0)).samples, expected)
    other = drawn(loaded, "heun")
    assert other.isfinite().all()
    assert not torch.equal(other, expected)
    # A solver's own settings do not stick to the next one.
    assert torch.equal(drawn(loaded, "dpm-solver++"), expected)
    assert loaded(3, 2, return_dict=False)[0].shape == (3, 2)


def test_what_cannot_be_drawn_is_refused():
    pipeline = _pipeline()
    for options, message in (
        ({"num_samples": 0}, "at least 1 sample"),
        ({"num_samples": 5, "num_inference_steps": 0}, "1 step"),
        ({"num_samples": 5, "batch_size": 0}, "batches of 1"),
        ({"num_samples": 10**12}, "2,000,000,000,000 values; draw at most 200,000,000 at once"),
        ({"num_samples": 5, "num_inference_steps": 2000}, "take at most 1,000"),
    ):
        with refused(message):
            pipeline(**options)
    with refused("was not built for observed coordinates"):
        pipeline(5, observed=torch.zeros(5, 2))


def test_samplers_fit_their_process_and_others_are_refused():
    cosine, flow = (get_process(name) for name in ("cosine", "flow"))
    assert isinstance(make_scheduler(None, cosine), DPMSolverMultistepScheduler)
    assert isinstance(make_scheduler(None, flow), FlowMatchHeunDiscreteScheduler)
    assert [*fitting_samplers(cosine), *fitting_samplers(flow)] == list(SCHEDULERS)
    with refused("did you mean 'unipc'"):
        make_scheduler("uni-pc", cosine)
    with refused(r"'heun' .*: flow-heun, flow-euler$"):
        make_scheduler("heun", flow)
    with refused(r": dpm-solver\+\+, ddpm"):
        make_scheduler("flow-euler", cosine)


def test_denoisers_of_flow_matching_are_given_their_own_timesteps():
    seen = []
    pipeline = _exact_pipeline("flow-heun")
    pipeline.denoiser.register_forward_hook(lambda _, inputs, __: seen.append(inputs[1]))
    pipeline(3, 5)
    steps = torch.stack(seen).double()
    expected = torch.linspace(999, 0, 5, dtype=torch.float64)
    torch.testing.assert_close(steps.unique().flip(0), expected, rtol=1e-5, atol=1e-3)
