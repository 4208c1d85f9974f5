"""What diffusers asks of models and pipelines, of every family.

diffusers tests its own models and pipelines with `ModelTesterMixin` and `PipelineTesterMixin`,
which its wheel does not hold. These are their checks as far as a CPU can make them, written anew
from what is documented. Attention processors, several images a prompt and the like do not apply.
"""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import subprocess
import sys
from pathlib import Path

import accelerate
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.training_utils import EMAModel
from torch import Tensor

from helpers import assert_same_state, refused, seeded
from kan_diffusion import (
    FAMILIES,
    PointDiffusionPipeline,
    build_denoiser,
    get_process,
    make_scheduler,
)
from kan_diffusion.denoisers import Denoiser, get_family

ALL = [*FAMILIES, "readable-kan"]
LINEAR = ["mlp", "mlp-relu", "mlp-fourier-inputs", "residual-mlp", "modulated-mlp"]
# Others but for their basis, activation or inputs; tests/kan compiles layers of every basis.
ALIKE = [
    *("kan-rbf", "kan-chebyshev", "kan-fourier", "kan-rational", "kan-fourier-inputs"),
    "mlp-relu",
]
each_family = pytest.mark.parametrize("family", ALL)


def _denoiser(family: str, num_classes: int = 0, seed: int = 0) -> Denoiser:
    """A small denoiser of two coordinates with no parameter at a special value."""
    made = build_denoiser(
        family,
        2,
        num_train_timesteps=100,
        hidden=(4,) * get_family(family).depth,
        num_classes=num_classes,
        generator=seeded(seed),
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeded(seed)))
    return made.eval()


def _inputs(num: int = 6) -> tuple[Tensor, Tensor]:
    points = torch.randn(num, 2, generator=seeded(1))
    return points, torch.randint(0, 100, (num,), generator=seeded(2))


@torch.no_grad()
def _output(denoiser: Denoiser, dtype: torch.dtype = torch.float32) -> Tensor:
    points, steps = _inputs()
    return denoiser(points.to(denoiser.device, dtype), steps.to(denoiser.device)).sample


def _settings(denoiser: Denoiser) -> dict[str, object]:
    """The configuration as a file has it."""
    settings = json.loads(denoiser.to_json_string())
    return {key: value for key, value in settings.items() if not key.startswith("_")}


# Models: configuration and files


@each_family
def test_a_configuration_makes_the_same_model(family: str, tmp_path: Path) -> None:
    denoiser = _denoiser(family, num_classes=2)
    kind = type(denoiser)
    denoiser.save_config(tmp_path)
    settings, unused = kind.load_config(tmp_path, return_unused_kwargs=True)
    assert unused == {}
    assert json.loads(denoiser.to_json_string())["_class_name"] == kind.__name__
    for config in (denoiser.config, settings):
        again = kind.from_config(config)
        assert _settings(again) == _settings(denoiser)
        again.load_state_dict(denoiser.state_dict())
        assert torch.equal(_output(again), _output(denoiser))
    other = kind.from_config(denoiser.config, num_classes=5)
    assert (other.config.num_classes, denoiser.config.num_classes) == (5, 2)


@each_family
def test_a_saved_model_comes_back(family: str, tmp_path: Path) -> None:
    denoiser = _denoiser(family)
    expected = _output(denoiser)
    for options in ({}, {"variant": "fp16"}):
        folder = tmp_path / str(options.get("variant"))
        denoiser.save_pretrained(folder, **options)
        again = type(denoiser).from_pretrained(folder, **options)
        assert not again.training
        assert_same_state(again, denoiser)
        assert torch.equal(_output(again), expected)
        lean = type(denoiser).from_pretrained(folder, low_cpu_mem_usage=False, **options)
        assert torch.equal(_output(lean), expected)
    with refused("holds no weights"):
        type(denoiser).from_pretrained(tmp_path / "fp16")
    with refused(r"holds no weights \(diffusion_pytorch_model\.fp16"):
        type(denoiser).from_pretrained(tmp_path / "None", variant="fp16")


@pytest.mark.parametrize(
    ("family", "variant"), [*((family, None) for family in ALL), ("kan", "fp16")]
)
def test_a_model_in_shards_comes_back(family: str, variant: str | None, tmp_path: Path) -> None:
    denoiser = _denoiser(family)
    size = sum(tensor.nbytes for tensor in denoiser.state_dict().values())
    denoiser.save_pretrained(tmp_path, variant=variant, max_shard_size=size // 2)
    infix = f".{variant}" if variant else ""
    (index,) = tmp_path.glob("*.index*.json")
    places = json.loads(index.read_text())["weight_map"]
    shards = {path.name for path in tmp_path.glob("*.safetensors")}
    assert set(places.values()) == shards
    assert len(shards) > 1
    assert all(name.startswith(f"diffusion_pytorch_model{infix}-0000") for name in shards)
    again = type(denoiser).from_pretrained(tmp_path, variant=variant)
    assert_same_state(again, denoiser)
    (tmp_path / min(shards)).unlink()
    with refused("train it again"):
        type(denoiser).from_pretrained(tmp_path, variant=variant)


@each_family
def test_a_model_is_read_and_cast_in_a_dtype(family: str, tmp_path: Path) -> None:
    denoiser = _denoiser(family)
    denoiser.save_pretrained(tmp_path)
    expected = _output(denoiser)
    # Of three and eleven layers' roundings, each of 8 or 11 bits; bfloat16 is coarse for grids.
    for dtype, bound in ((torch.float16, 0.02), (torch.bfloat16, 0.2), (torch.float64, 1e-4)):
        read = type(denoiser).from_pretrained(tmp_path, dtype=dtype)
        cast = copy.deepcopy(denoiser).to(dtype)
        for made in (read, cast):
            assert made.dtype == dtype
            assert {tensor.dtype for tensor in made.state_dict().values()} == {dtype}
        assert torch.equal(_output(read, dtype), _output(cast, dtype))
        assert _output(read, dtype).dtype == dtype
        far = float((_output(read, dtype) - expected).norm() / expected.norm())
        assert far < bound, dtype


# Models: calls


@each_family
def test_a_model_is_called_as_models_are(family: str) -> None:
    denoiser = _denoiser(family)
    names = list(inspect.signature(denoiser.forward).parameters)
    assert names == [
        "sample",
        "timestep",
        "class_labels",
        "encoder_hidden_states",
        "return_dict",
        "observed",
    ]
    points, steps = _inputs()
    as_object = denoiser(points, steps)
    (as_tuple,) = denoiser(points, steps, return_dict=False)
    assert torch.equal(as_object.sample, as_tuple)
    assert torch.equal(as_object[0], as_tuple)
    assert torch.equal(as_object["sample"], as_tuple)
    assert torch.equal(denoiser(points, steps).sample, as_tuple)  # nothing is drawn
    assert torch.equal(denoiser.train()(points, steps).sample, as_tuple)
    assert as_tuple.shape == points.shape
    rows = [denoiser(points[i : i + 1], steps[i]).sample for i in range(len(points))]
    torch.testing.assert_close(torch.cat(rows), as_tuple)


@each_family
def test_a_model_has_the_attributes_of_models(family: str) -> None:
    denoiser = _denoiser(family)
    assert (denoiser.device, denoiser.dtype) == (torch.device("cpu"), torch.float32)
    assert denoiser.num_parameters() == sum(p.numel() for p in denoiser.parameters())
    assert denoiser.num_parameters(only_trainable=True) == denoiser.num_trainable
    assert hasattr(denoiser, "data_dim")
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = denoiser.no_such_thing
    assert dict(inspect.getmembers(denoiser)).keys() >= {"network", "config", "flops"}
    twin = pickle.loads(pickle.dumps(denoiser))
    assert torch.equal(_output(twin), _output(denoiser))


@each_family
def test_gradient_checkpointing_is_refused_and_can_be_off(family: str) -> None:
    denoiser = _denoiser(family)
    assert not denoiser.is_gradient_checkpointing
    with pytest.raises(ValueError, match="does not support gradient checkpointing"):
        denoiser.enable_gradient_checkpointing()
    denoiser.disable_gradient_checkpointing()
    assert not denoiser.is_gradient_checkpointing


@pytest.mark.filterwarnings("ignore:It is deprecated to pass a pretrained model:FutureWarning")
@each_family
def test_a_model_trains_beside_a_moving_average(family: str, tmp_path: Path) -> None:
    denoiser = _denoiser(family, num_classes=2).train()
    average = EMAModel(
        denoiser.parameters(),
        decay=0.5,
        model_cls=type(denoiser),
        model_config=denoiser.config,
    )
    optimizer = torch.optim.Adam(denoiser.parameters(), 1e-2)
    points, steps = _inputs(64)
    losses = []
    for _ in range(12):
        loss = (denoiser(points, steps, steps % 2).sample - points).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in denoiser.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        optimizer.step()
        average.step(denoiser.parameters())
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    average.save_pretrained(tmp_path)
    again = EMAModel.from_pretrained(tmp_path, type(denoiser))
    assert again.decay == 0.5
    averaged = type(denoiser).from_pretrained(tmp_path)
    for ours, theirs in zip(average.shadow_params, averaged.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    now = [p.detach().clone() for p in denoiser.parameters()]
    average.store(denoiser.parameters())
    average.copy_to(denoiser.parameters())
    assert torch.equal(_output(denoiser), _output(averaged))
    average.restore(denoiser.parameters())
    assert all(map(torch.equal, now, denoiser.parameters()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("family", [name for name in ALL if name not in ALIKE])
def test_a_compiled_model_does_what_it_did_and_is_compiled_once(family: str) -> None:
    torch.compiler.reset()
    denoiser = _denoiser(family)
    compiled = torch.compile(denoiser, fullgraph=True, backend="aot_eager", dynamic=True)
    points, steps = _inputs()
    torch.testing.assert_close(compiled(points, steps).sample, denoiser(points, steps).sample)
    with torch.compiler.set_stance("fail_on_recompile"):
        for num in (6, 11):
            points, steps = _inputs(num)
            found = compiled(points, steps.flip(0)).sample
            torch.testing.assert_close(found, denoiser(points, steps.flip(0)).sample)
    torch.compiler.reset()


# Models: where weights are


DEVICE_MAPS = ["auto", "balanced", "balanced_low_0", "sequential", "cpu", {"": "cpu"}]


@pytest.mark.parametrize(
    ("family", "device_map"),
    [*((family, "auto") for family in ALL), *(("kan", given) for given in DEVICE_MAPS[1:])],
    ids=str,
)
def test_a_device_map_puts_a_model_on_its_devices(
    family: str, device_map: str | dict[str, str], tmp_path: Path
) -> None:
    denoiser = _denoiser(family)
    denoiser.save_pretrained(tmp_path)
    read = type(denoiser).from_pretrained(tmp_path, device_map=device_map)
    assert read.hf_device_map
    torch.testing.assert_close(_output(read).cpu(), _output(denoiser))


def test_a_device_map_that_is_none_is_refused(tmp_path: Path) -> None:
    denoiser = _denoiser("kan")
    denoiser.save_pretrained(tmp_path)
    for wrong in ("bad", -1):
        with pytest.raises(ValueError, match="device"):
            type(denoiser).from_pretrained(tmp_path, device_map=wrong)


@each_family
def test_a_model_whose_weights_are_elsewhere_does_what_it_did(family: str, tmp_path: Path) -> None:
    denoiser = _denoiser(family)
    expected = _output(denoiser)
    denoiser.save_pretrained(tmp_path / "saved")
    in_memory = accelerate.cpu_offload(copy.deepcopy(denoiser), execution_device="cpu")
    points, steps = _inputs()

    def assert_same(found: torch.Tensor) -> None:
        if family == "kan":  # whose functions are called apart, which rounds otherwise
            torch.testing.assert_close(found, expected)
        else:
            assert torch.equal(found, expected)

    with torch.no_grad():
        assert {p.device.type for p in in_memory.parameters()} == {"meta"}
        assert_same(in_memory(points, steps).sample)
        on_disk = accelerate.disk_offload(
            copy.deepcopy(denoiser), str(tmp_path / "disk"), execution_device="cpu"
        )
        assert {p.device.type for p in on_disk.parameters()} == {"meta"}
        assert_same(on_disk(points, steps).sample)
        read = type(denoiser).from_pretrained(
            tmp_path / "saved", device_map={"": "disk"}, offload_folder=tmp_path / "offloaded"
        )
        assert_same(read(points, steps).sample)


@each_family
def test_layerwise_casting_casts_all_weights_or_is_refused(family: str) -> None:
    denoiser = _denoiser(family)
    expected = _output(denoiser)
    if family not in LINEAR:
        with refused(r"casts nn\.Linear alone, and 'network.* is a \w+; cast all of it, with"):
            denoiser.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
        assert torch.equal(_output(denoiser), expected)
        return
    denoiser.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    stored = {name: p.dtype for name, p in denoiser.named_parameters()}
    assert set(stored.values()) == {torch.float8_e4m3fn}
    assert denoiser.dtype == torch.float32
    found = _output(denoiser)
    assert {p.dtype for p in denoiser.parameters()} == {torch.float8_e4m3fn}
    # Three bits of mantissa: 1 / 16 of each weight at most.
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.3


# Pipelines


def _pipeline(family: str = "full-kan", process: str = "cosine", **options: object):
    denoiser = _denoiser(family, **options)
    scheduler = make_scheduler(None, get_process(process).scheduler())
    return PointDiffusionPipeline(
        denoiser, scheduler, mean=[5.0, -1.0], scale=[2.0, 0.5], columns=["a", "b"]
    )


def _samples(pipeline: PointDiffusionPipeline, num: int = 4, **options: object) -> Tensor:
    return pipeline(num, 3, generator=seeded(0), **options).samples


def _same_pipeline(one: PointDiffusionPipeline, other: PointDiffusionPipeline) -> None:
    for key in ("mean", "scale", "columns", "flow"):
        assert one.config[key] == other.config[key]
    # Weights from a file lie at other addresses, which may change the order of a sum.
    torch.testing.assert_close(_samples(one), _samples(other), rtol=1e-5, atol=1e-6)


IMPORTS = [
    ("import kan_diffusion", "from diffusers import DiffusionPipeline"),
    ("from diffusers import DiffusionPipeline", "import kan_diffusion"),
    (
        "import importlib.util, kan_diffusion; importlib.util.find_spec('diffusers')",
        "from diffusers import DiffusionPipeline",
    ),
    ("from kan_diffusion import KANLinear", "from diffusers import DiffusionPipeline"),
]


@pytest.mark.slow
def test_diffusers_knows_the_pipeline_by_name(tmp_path: Path) -> None:
    _pipeline().save_pretrained(tmp_path)
    # What takes long to import, and neither of the two is, is there before the forks.
    program = f"""
import os, sys
import pandas, peft, scipy.stats, sklearn, torch._dynamo, transformers
for first, second in {IMPORTS!r}:
    if os.fork() == 0:
        assert not {{"diffusers", "kan_diffusion"}} & set(sys.modules)
        exec(first)
        assert "import D" in first or "diffusers" not in sys.modules
        exec(second)
        import diffusers, kan_diffusion
        pipeline = DiffusionPipeline.from_pretrained({str(tmp_path)!r})
        known = diffusers.PointDiffusionPipeline
        assert type(pipeline) is kan_diffusion.PointDiffusionPipeline is known
        assert not hasattr(diffusers, "PointDiffusionPipelines")
        print(*pipeline.config.mean, *pipeline(3, 3).samples.shape, flush=True)
        os._exit(0)
    os.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["5.0 -1.0 3 2"] * len(IMPORTS), done.stderr


@each_family
def test_a_saved_pipeline_comes_back(family: str, tmp_path: Path) -> None:
    pipeline = _pipeline(family, num_classes=3)
    pipeline.save_pretrained(tmp_path)
    _same_pipeline(PointDiffusionPipeline.from_pretrained(tmp_path), pipeline)
    _same_pipeline(DiffusionPipeline.from_pretrained(tmp_path), pipeline)
    _same_pipeline(PointDiffusionPipeline.from_pretrained(tmp_path, device_map="cpu"), pipeline)
    _same_pipeline(
        PointDiffusionPipeline.from_pretrained(tmp_path, device_map="balanced"), pipeline
    )


def test_a_pipeline_is_saved_in_variants_and_shards(tmp_path: Path) -> None:
    pipeline = _pipeline("kan")
    pipeline.save_pretrained(tmp_path, variant="fp16", max_shard_size=1000)
    assert len(list((tmp_path / "denoiser").glob("*.fp16-*.safetensors"))) > 1
    _same_pipeline(PointDiffusionPipeline.from_pretrained(tmp_path, variant="fp16"), pipeline)
    for wrong in ({}, {"variant": "fp32"}):
        with refused("holds no weights"):
            PointDiffusionPipeline.from_pretrained(tmp_path, **wrong)


def test_a_pipeline_is_read_in_a_dtype_and_with_parts_of_ones_own(tmp_path: Path) -> None:
    pipeline = _pipeline()
    pipeline.save_pretrained(tmp_path)
    read = PointDiffusionPipeline.from_pretrained(tmp_path, dtype=torch.float64)
    assert read.denoiser.dtype == read.dtype == torch.float64
    assert _samples(read).dtype == torch.float64
    by_part = {"denoiser": torch.bfloat16, "default": torch.float32}
    read = PointDiffusionPipeline.from_pretrained(tmp_path, dtype=by_part)
    assert read.denoiser.dtype == torch.bfloat16
    assert _samples(read).isfinite().all()
    scheduler = make_scheduler("ddim", pipeline.scheduler)
    other = _denoiser("mlp")
    own = PointDiffusionPipeline.from_pretrained(tmp_path, scheduler=scheduler, denoiser=other)
    assert own.denoiser is other
    assert isinstance(own.scheduler, DDIMScheduler)
    nothing = PointDiffusionPipeline.from_pretrained(tmp_path, scheduler=None, denoiser=None)
    _same_pipeline(nothing, pipeline)  # no part is optional


def test_a_pipeline_moves_between_dtypes_and_devices() -> None:
    pipeline = _pipeline()
    expected = _samples(pipeline)
    assert pipeline.to(torch.float64) is pipeline
    assert {p.dtype for p in pipeline.denoiser.parameters()} == {torch.float64}
    assert pipeline.dtype == torch.float64
    # The noise is drawn in the dtype of the denoiser.
    assert _samples(pipeline).shape == expected.shape
    pipeline.to("cpu", torch.float32)
    assert pipeline.device == torch.device("cpu")
    torch.testing.assert_close(_samples(pipeline), expected)
    twin = copy.deepcopy(pipeline)
    _same_pipeline(pickle.loads(pickle.dumps(pipeline)), twin)


def test_a_pipeline_tells_its_parts() -> None:
    pipeline = _pipeline()
    assert set(pipeline.components) == {"denoiser", "scheduler"}
    parameters = inspect.signature(pipeline.__call__).parameters
    required = {name for name, p in parameters.items() if p.default is inspect.Parameter.empty}
    assert required == {"num_samples"}
    for name in ("num_inference_steps", "generator", "return_dict", "callback_on_step_end"):
        assert name in parameters
    assert pipeline._optional_components == []
    again = PointDiffusionPipeline(
        **pipeline.components, mean=[5.0, -1.0], scale=[2.0, 0.5], columns=["a", "b"]
    )
    _same_pipeline(again, pipeline)


@pytest.mark.parametrize("process", ["cosine", "flow"])
def test_a_pipeline_made_from_another_is_the_same(process: str) -> None:
    pipeline = _pipeline(process=process)
    twin = PointDiffusionPipeline.from_pipe(pipeline)
    assert twin is not pipeline
    assert twin.denoiser is pipeline.denoiser
    _same_pipeline(twin, pipeline)
    moved = PointDiffusionPipeline.from_pipe(pipeline, mean=[0.0, 0.0])
    torch.testing.assert_close(
        _samples(moved) + torch.tensor([5.0, -1.0], dtype=torch.float64), _samples(pipeline)
    )


@pytest.mark.parametrize(("process", "other"), [("cosine", "flow"), ("flow", "cosine")])
def test_a_scheduler_of_the_other_kind_is_refused(process: str, other: str, tmp_path: Path) -> None:
    pipeline = _pipeline(process=process)
    theirs = get_process(other).scheduler()
    pipeline.save_pretrained(tmp_path)
    read = PointDiffusionPipeline.from_pretrained(tmp_path)
    for made in (pipeline, read, PointDiffusionPipeline.from_pipe(pipeline)):
        made.scheduler = theirs
    for made in (
        pipeline,
        read,
        PointDiffusionPipeline.from_pretrained(tmp_path, scheduler=theirs),
        PointDiffusionPipeline.from_pipe(_pipeline(process=process), scheduler=theirs),
    ):
        with refused(r"was trained for (diffusion|flow matching) and .* make_scheduler"):
            _samples(made)


@each_family
def test_outputs_do_not_depend_on_how_they_are_asked_for(family: str) -> None:
    pipeline = _pipeline(family)
    expected = _samples(pipeline)
    assert torch.equal(_samples(pipeline), expected)
    (as_tuple,) = pipeline(4, 3, generator=seeded(0), return_dict=False)
    assert torch.equal(as_tuple, expected)
    assert not torch.equal(pipeline(4, 3, generator=seeded(1)).samples, expected)
    assert not torch.equal(pipeline(4, 3).samples, pipeline(4, 3).samples)

    def generators() -> list[torch.Generator]:
        return [seeded(number) for number in range(4)]

    listed = pipeline(4, 3, generator=generators()).samples
    for batch_size in (1, 3, 4):
        batched = pipeline(4, 3, generator=generators(), batch_size=batch_size).samples
        torch.testing.assert_close(batched, listed, rtol=1e-4, atol=1e-5)
    for number, row in enumerate(listed):
        alone = pipeline(1, 3, generator=[seeded(number)]).samples
        torch.testing.assert_close(alone[0], row, rtol=1e-4, atol=1e-5)
    with refused("a list of 4, one a sample, not of 3"):
        pipeline(4, 3, generator=generators()[:3])


def test_a_callback_sees_what_it_asks_for_and_may_change_it() -> None:
    pipeline = _pipeline()
    assert pipeline._callback_tensor_inputs == ("sample",)
    seen: list[set[str]] = []

    def look(caller: object, step: int, timestep: Tensor, given: dict[str, Tensor]) -> None:
        seen.append(set(given))
        assert caller is pipeline

    for asked in (["sample"], []):
        samples = _samples(
            pipeline, callback_on_step_end=look, callback_on_step_end_tensor_inputs=asked
        )
        assert torch.equal(samples, _samples(pipeline))
    assert seen == 3 * [{"sample"}] + 3 * [set()]

    def zero_at_the_end(
        _: object, step: int, timestep: Tensor, given: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return {"sample": torch.zeros_like(given["sample"])} if step == 2 else given

    samples = _samples(pipeline, callback_on_step_end=zero_at_the_end)
    assert samples.tolist() == [[5.0, -1.0]] * 4
    with refused("can be 'sample', not 'latents'"):
        _samples(pipeline, callback_on_step_end_tensor_inputs=["latents"])


def test_guidance_changes_what_is_drawn() -> None:
    pipeline = _pipeline(num_classes=2)
    plain = _samples(pipeline, class_labels=1)
    assert torch.equal(_samples(pipeline, class_labels=1, guidance_scale=1.0), plain)
    assert not torch.allclose(_samples(pipeline, class_labels=1, guidance_scale=3.0), plain)


def test_sampling_leaves_a_model_in_its_mode_and_shows_a_bar_when_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipeline = _pipeline()
    for mode in (True, False):
        pipeline.denoiser.train(mode)
        _samples(pipeline)
        assert pipeline.denoiser.training == mode
        assert capsys.readouterr().err == ""
    pipeline.denoiser.train()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _samples(pipeline, callback_on_step_end=fail)
    assert pipeline.denoiser.training
    capsys.readouterr()
    pipeline.set_progress_bar_config(disable=False)
    _samples(pipeline)
    assert "3/3" in capsys.readouterr().err
    pipeline.set_progress_bar_config(disable=True)
    _samples(pipeline)
    assert capsys.readouterr().err == ""


def test_offloading_without_an_accelerator_is_refused_and_harmless() -> None:
    pipeline = _pipeline()
    expected = _samples(pipeline)
    if not torch.cuda.is_available():
        for offload in (pipeline.enable_model_cpu_offload, pipeline.enable_sequential_cpu_offload):
            with pytest.raises(RuntimeError, match="accelerator"):
                offload()
    pipeline.remove_all_hooks()
    pipeline.maybe_free_model_hooks()
    pipeline.reset_device_map()
    assert torch.equal(_samples(pipeline), expected)
