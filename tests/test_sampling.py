"""Samplers, and what diffusers asks of pipelines; `family_contract` has what it asks of models."""

import copy
import math
import pickle

import pytest
import sympy
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from exact_denoiser import ExactDenoiser
from family_contract import stirred
from helpers import refused, seeded
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.denoisers import build_denoiser
from kan_diffusion.denoisers.formula import formula_denoiser
from kan_diffusion.diffusion.likelihood import log_likelihood
from kan_diffusion.diffusion.sampling import (
    SCHEDULERS,
    PointDiffusionPipeline,
    fitting_samplers,
    make_scheduler,
)
from kan_diffusion.evaluation.denoising import draw_noised_points, measure_denoising
from kan_diffusion.evaluation.metrics import energy_distance
from kan_diffusion.pictures.pipeline import PictureDiffusionPipeline
from kan_diffusion.processes import Process, get_process
from kan_diffusion.training.config import TrainingConfig
from kan_diffusion.training.loop import train

COVARIANCE = [[0.1, 0.05], [0.05, 0.2]]
DENSITY = GaussianMixture([[-1.0, -0.3], [1.0, 0.3]], covariances=[COVARIANCE, COVARIANCE])
NUM = 1500
WIDE = torch.ones(1, 2, dtype=torch.float64)
COSINE, FLOW = get_process("cosine"), get_process("flow")


def _exact(scheduler="dpm-solver++", kind="v_prediction", **options):
    """A pipeline of the exact denoiser: what is left is the sampler's own error."""
    process = FLOW if "flow" in scheduler else Process(name="x", prediction_type=kind)
    exact = ExactDenoiser(process, DENSITY, torch.float32)
    return PointDiffusionPipeline(
        exact, process, scheduler=make_scheduler(scheduler, process), **options
    )


def _pipeline(process=COSINE):
    units = {"mean": [5.0, -1.0], "scale": [2.0, 0.5], "columns": ["a", "b"]}
    return PointDiffusionPipeline(stirred("full-kan", num_train_timesteps=1000), process, **units)


def _samples(pipeline, num=4, steps=3, **options):
    return pipeline(num, steps, **{"generator": seeded(0), **options}).samples


def _distance(samples):
    return energy_distance(samples, DENSITY.sample(len(samples), seeded(99)))


@pytest.fixture(scope="module")
def real():
    """Energy distance of two real samples of `NUM` points, the largest of three.

    It is worth something only if it is missed when it should be: with too few steps or the wrong
    start.
    """
    pairs = (([*DENSITY.sample(2 * NUM, seeded(seed)).split(NUM)]) for seed in (10, 20, 30))
    largest = max(energy_distance(*pair) for pair in pairs)
    assert _distance(_samples(_exact("ddim"), NUM, 2)) > 5 * largest
    process = get_process("notebook")
    pipeline = PointDiffusionPipeline(ExactDenoiser(process, DENSITY), process)
    assert _distance(_samples(pipeline, NUM, 50)) > 5 * largest
    return largest


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_sampler_draws_the_data_from_the_exact_denoiser_and_keeps_no_state(name, real):
    cases = [("v_prediction", 50, 2.5), ("v_prediction", 20, 4)]
    if name == "flow-euler":
        cases = [("flow", 200, 2.5)]
    elif "flow" not in name:
        cases.append(("epsilon", 50, 2.5))
    for kind, steps, factor in cases:
        pipeline = _exact(name, kind)
        samples = _samples(pipeline, NUM, steps)
        assert samples.shape == (NUM, 2)
        assert samples.dtype == torch.float64
        assert _distance(samples) < factor * real, (kind, steps)
    state = torch.get_rng_state()
    first = _samples(pipeline, 20, 6)
    _samples(pipeline, 7, 3, generator=seeded(1))
    assert torch.equal(_samples(pipeline, 20, 6), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(_samples(pipeline, 20, 6, generator=seeded(1)), first)


@pytest.mark.parametrize(("name", "least"), [("dpm-solver++", 0.9), ("unipc", 0.9), ("ddpm", 0.5)])
def test_samplers_neither_stop_at_noise_nor_shrink_narrow_modes(name, least):
    width, process = 0.03, COSINE
    modes = GaussianMixture([[-1.0], [1.0]], covariances=[[[width**2]]] * 2)
    exact = ExactDenoiser(process, modes, torch.float32)
    pipeline = PointDiffusionPipeline(exact, process, scheduler=make_scheduler(name, process))
    samples = _samples(pipeline, 4000, 20)
    drawn = float((samples - samples.sign()).square().mean().sqrt())
    assert least * width < drawn < 1.15 * width


@pytest.mark.parametrize("name", ["dpm-solver++", "ddpm", "ddim", "heun", "unipc"])
def test_samplers_start_from_pure_noise_where_the_process_does_not_reach_it(name):
    process = get_process("notebook")
    exact = ExactDenoiser(process, GaussianMixture([[0.0]], covariances=[[[1.0]]]))
    pipeline = PointDiffusionPipeline(exact, process, scheduler=make_scheduler(name, process))
    assert float(_samples(pipeline, 4000, 100).std()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_single_step_from_noise_ends_at_the_mean(name):
    samples = _samples(_exact(name), 50, 1)
    torch.testing.assert_close(samples, torch.zeros_like(samples), rtol=0, atol=0.01)


def test_every_step_of_flow_matching_goes_as_far():
    times = []
    keep = lambda pipeline, step, time, given: times.append(float(time))  # noqa: E731
    _samples(_exact("flow-euler"), 4, 4, callback_on_step_end=keep)
    assert times == [1000, 750, 500, 250]


def test_samplers_are_swapped_as_diffusers_does_or_refused(real):
    karras = {"use_karras_sigmas": True}
    kinds = [DDIMScheduler, DDPMScheduler, HeunDiscreteScheduler, EulerDiscreteScheduler]
    cases = [(kind, {}) for kind in (*kinds, PNDMScheduler)]
    multistep = DPMSolverMultistepScheduler, UniPCMultistepScheduler
    cases += [(kind, karras) for kind in (*multistep, HeunDiscreteScheduler)]
    for kind, options in cases:
        # Of an earlier swap, settings of its sampler alone do not stay.
        pipeline = _exact("heun", "epsilon" if kind is PNDMScheduler else "v_prediction")
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **options)
        factor = 10 if kind is PNDMScheduler else 4
        assert _distance(_samples(pipeline, NUM, 50)) < factor * real, (kind, options)
    # Nothing of it was chosen.
    expected = _samples(_exact("ddim"), 20, 10)
    pipeline.scheduler = DDIMScheduler()
    assert torch.equal(_samples(pipeline, 20, 10), expected)
    # What was chosen stays, also where it is not what the process takes.
    pipeline.scheduler = DDIMScheduler(clip_sample=True)
    assert float(_samples(pipeline, NUM, 10).abs().max()) <= 1
    for other in (
        DDPMScheduler(beta_schedule="linear"),
        DDIMScheduler(prediction_type="epsilon"),
        DDIMScheduler(num_train_timesteps=500),
        *(
            kind.from_config(COSINE.scheduler().config)
            for kind in (DDIMInverseScheduler, EDMEulerScheduler)
        ),
    ):
        pipeline.scheduler = other
        with refused(f"{type(other).__name__} with these settings is no sampler of its process"):
            pipeline(4)


def test_guidance_of_one_is_conditional_of_zero_unconditional_and_between_the_mix_of_both():
    settings = {"width": 16, "words": "cat dog", "prompt_length": 3}
    shape = {"hidden": (8,), "settings": settings}
    denoiser = build_denoiser("dit", (1, 4, 4), num_train_timesteps=1000, **shape)
    for seed, parameter in enumerate(denoiser.parameters()):
        parameter.detach().normal_(0, 0.2, generator=seeded(seed))
    pipeline = PictureDiffusionPipeline(denoiser, COSINE)
    pipeline.scheduler = make_scheduler("ddim", COSINE)

    def drawn(prompt, **options):
        states = []  # pictures are cut off at black and white
        options["callback_on_step_end"] = lambda *call: states.append(call[3]["sample"])
        pipeline(prompt, 1, generator=seeded(1), **options)
        return states[-1]

    none, one = drawn(None), drawn("dog", guidance_scale=1.0)
    assert not torch.allclose(one, none)
    torch.testing.assert_close(drawn("dog", guidance_scale=0.0), none)
    # One step of an ODE's solver is linear in the prediction.
    mixed = drawn("dog", guidance_scale=2.5)
    torch.testing.assert_close(mixed, none + 2.5 * (one - none), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["dpm-solver++", "ddpm"])
def test_a_generator_for_each_point_gives_it_whatever_the_batch(name):
    def drawn(numbers=range(10), **options):
        return _samples(
            _exact(name), len(numbers), 10, generator=[*map(seeded, numbers)], **options
        )

    whole = drawn()
    assert len(torch.unique(whole, dim=0)) == 10
    for batch_size in (1, 4, 10):
        torch.testing.assert_close(drawn(batch_size=batch_size), whole)
    torch.testing.assert_close(drawn([7]), whole[7:8])


def test_a_callback_sees_every_step_of_every_batch_and_may_change_it():
    seen, pipeline = [], _pipeline()

    def look(caller, step, timestep, given):
        assert caller is pipeline
        seen.append((step, int(timestep), len(given["sample"])))
        return {"sample": 0 * given["sample"]}

    pipeline.scheduler = make_scheduler("ddpm", pipeline.process)
    samples = _samples(pipeline, 10, batch_size=6, callback_on_step_end=look)
    assert seen == [
        (step, timestep, num) for num in (6, 4) for step, timestep in enumerate((999, 666, 332))
    ]
    assert (samples == torch.tensor([5.0, -1.0])).all()

    def spoil(_, step, timestep, given):
        return {"sample": given["sample"] * (math.nan if step == 1 else 1)}

    with refused("infinite or NaN at timestep 666, step 2 of 3"):
        _samples(_exact("ddpm"), callback_on_step_end=spoil)


def test_copies_and_files_are_the_same_pipeline_in_any_dtype_and_with_parts_of_ones_own(tmp_path):
    pipeline = _pipeline()
    pipeline.save_pretrained(tmp_path)
    expected = _samples(pipeline)
    for same in (
        PointDiffusionPipeline.from_pretrained(tmp_path),
        DiffusionPipeline.from_pretrained(tmp_path),
        PointDiffusionPipeline.from_pipe(pipeline),
        copy.deepcopy(pipeline),
        pickle.loads(pickle.dumps(pipeline)),
    ):
        assert type(same) is PointDiffusionPipeline
        assert same.process == COSINE
        assert isinstance(same.scheduler, DPMSolverMultistepScheduler)
        assert (same.standardizer, same.columns) == (pipeline.standardizer, pipeline.columns)
        # Weights from a file lie at other addresses, which may change the order of a sum.
        torch.testing.assert_close(_samples(same), expected, rtol=1e-5, atol=1e-6)
    plain = PointDiffusionPipeline(pipeline.denoiser, COSINE)
    assert plain.config.columns == ["x0", "x1"]
    units = torch.tensor([[2.0, 0.5], [5.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(_samples(plain) * units[0] + units[1], expected)
    moved = PointDiffusionPipeline.from_pipe(pipeline, mean=[0.0, 0.0])
    torch.testing.assert_close(_samples(moved) + units[1], expected)
    own_network = stirred("mlp", num_train_timesteps=1000)
    parts = {"scheduler": "ddim", "denoiser": own_network}
    own = PointDiffusionPipeline.from_pretrained(tmp_path, **parts)
    assert own.denoiser is parts["denoiser"]
    assert isinstance(own.scheduler, DDIMScheduler)
    read = PointDiffusionPipeline.from_pretrained(tmp_path, torch_dtype=torch.float64)
    for parts, message in (
        ({"safety_checker": None}, "has no argument 'safety_checker'; it has columns, denoiser,"),
        ({"torch_dtype": torch.int8}, "dtype must be a floating-point one .*, not torch.int8"),
        ({"torch_dtype": "float16"}, "or 'auto', not float16"),
        ({"denoiser": stirred("mlp")}, "for 100 timesteps.*; give no denoiser or train it again"),
    ):
        with refused(message):
            PointDiffusionPipeline.from_pretrained(tmp_path, **parts)
    saved = PointDiffusionPipeline.from_pretrained(tmp_path, torch_dtype="auto")
    assert saved.dtype == torch.float32
    assert pipeline.to(torch.float64) is pipeline
    for wide in (read, pipeline):
        assert wide.denoiser.dtype == wide.dtype == torch.float64
    # The noise is drawn in the dtype of the denoiser.
    torch.testing.assert_close(_samples(read), _samples(pipeline))
    pipeline.to("cpu", torch.float32)
    assert pipeline.device == torch.device("cpu")
    torch.testing.assert_close(_samples(pipeline), expected)


def test_sampling_leaves_a_model_in_its_mode_and_shows_a_bar_when_told(capsys):
    pipeline = _pipeline()
    for mode in (False, True):
        pipeline.denoiser.train(mode)
        _samples(pipeline)
        assert pipeline.denoiser.training == mode
    assert capsys.readouterr().err == ""

    def fail(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _samples(pipeline, callback_on_step_end=fail)
    assert pipeline.denoiser.training
    pipeline.set_progress_bar_config(disable=False)
    _samples(pipeline)
    assert "3/3" in capsys.readouterr().err


def test_samplers_fit_their_process_and_what_cannot_be_drawn_is_refused():
    assert isinstance(make_scheduler(None, FLOW), FlowMatchHeunDiscreteScheduler)
    assert [*fitting_samplers(COSINE), *fitting_samplers(FLOW)] == list(SCHEDULERS)
    pipeline = _pipeline()
    swapped = [
        PointDiffusionPipeline.from_pipe(_pipeline(own), scheduler=other.scheduler())
        for own, other in ((COSINE, FLOW), (FLOW, COSINE))
    ]
    for call, message in (
        (lambda: make_scheduler("uni-pc", COSINE), "did you mean 'unipc'"),
        (lambda: make_scheduler("heun", FLOW), r"'heun' .*: flow-heun, flow-euler$"),
        (lambda: make_scheduler("flow-euler", COSINE), r": dpm-solver\+\+, ddpm"),
        (lambda: swapped[0](4), "was trained for diffusion and FlowMatchEuler.* make_scheduler"),
        (lambda: swapped[1](4), "was trained for flow matching and DDPM.* make_scheduler"),
        (lambda: pipeline(0), "num_samples must be a whole number, at least 1, not 0"),
        (lambda: pipeline(2.5), "num_samples must be a whole number, at least 1, not 2.5"),
        (lambda: pipeline(5, 0), "num_inference_steps must be .* from 1 to 1,000, not 0"),
        (lambda: pipeline(5, batch_size=0), "batch_size must be a whole number, at least 1, not 0"),
        (lambda: pipeline(10**12), "2,000,000,000,000 values; draw at most 200,000,000 at once"),
        (lambda: pipeline(5, 2000), "num_inference_steps must be .* from 1 to 1,000, not 2,000"),
        (lambda: pipeline(4, generator=[seeded()] * 3), "a list of 4, one a sample, not of 3"),
        (lambda: pipeline(4, generator=3), r"such as torch.Generator\(\).manual_seed\(0\), not 3"),
        (lambda: pipeline(1, observed=[[math.inf, 0]]), "observed holds infinite values"),
        (lambda: pipeline(1, observed=1e39 * WIDE), "observed holds infinite values"),
        (lambda: PointDiffusionPipeline(pipeline.denoiser, COSINE, columns=[1, 2]), "as text"),
        (lambda: PointDiffusionPipeline(pipeline.denoiser, COSINE, scheduler="x"), "unknown sch"),
        (lambda: pipeline(5, observed=torch.zeros(5, 2)), "not built for observed coordinates"),
    ):
        with refused(message):
            call()


def test_a_denoiser_of_another_process_is_trained_judged_and_drawn_from_nowhere():
    short = Process(name="short", num_timesteps=250)
    score = [-sympy.Symbol(name, real=True) for name in ("x0", "x1")]
    normal = formula_denoiser(score, {}, get_process("ddpm"))
    network = stirred("mlp", num_train_timesteps=1000)
    moons, points = load_dataset("moons"), torch.zeros(4, 2)
    for denoiser, process, message in (
        (network, short, "built for 1,000 timesteps, and process 'short' has 250; build it with"),
        (normal, COSINE, "one of process 'ddpm', whose predictions are not those of 'cosine'"),
    ):
        draw = draw_noised_points(moons, process, 4, seeded())
        for call in (
            lambda: PointDiffusionPipeline(denoiser, process),  # noqa: B023
            lambda: train(denoiser, process, points, TrainingConfig(), seed=0),  # noqa: B023
            lambda: log_likelihood(denoiser, process, points),  # noqa: B023
            lambda: measure_denoising(denoiser, draw, process),  # noqa: B023
        ):
            with refused(message):
                call()
    network.register_to_config(num_train_timesteps=None)  # one of one's own may say nothing
    assert PointDiffusionPipeline(network, short).process == short
    renamed = get_process("ddpm").model_copy(update={"name": "mine", "loss": "huber"})
    assert PointDiffusionPipeline(normal, renamed).process == renamed


def test_schedulers_keep_the_process():
    for name in SCHEDULERS:
        process = FLOW if "flow" in name else get_process("notebook")
        scheduler = make_scheduler(name, process)
        if process.is_flow:
            torch.testing.assert_close(scheduler.sigmas.flip(0).double(), process.levels()[1])
            continue
        signal = scheduler.alphas_cumprod.double().sqrt()
        torch.testing.assert_close(signal, process.levels()[0], rtol=1e-6, atol=1e-6)
        assert scheduler.config.prediction_type == "epsilon"
        assert not scheduler.config.get("clip_sample")
        own = process.scheduler().config.variance_type
        assert scheduler.config.get("variance_type") in (None, own)
