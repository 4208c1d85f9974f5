"""Where weights are and how they are stored, compilation, and a new process.

All but the last two are of every family, since each has layers of its own.
"""

import copy
import json
import subprocess
import sys

import accelerate
import pytest
import torch

from family_contract import ALL, STEPS, X, output, same_samples, stirred
from helpers import assert_same_state, refused
from kan_diffusion import PointDiffusionPipeline, get_process

LINEAR = ["mlp", "mlp-relu", "mlp-fourier-inputs", "residual-mlp", "modulated-mlp"]
each_family = pytest.mark.parametrize("family", ALL)
# Others differ from these by their basis, activation or inputs; tests/kan compiles every basis.
OF_THEIR_OWN = [name for name in ALL if not name.startswith("kan-") and name != "mlp-relu"]


@pytest.mark.parametrize("family", OF_THEIR_OWN)
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_model_does_what_it_did_and_is_compiled_once(family):
    torch.compiler.reset()
    denoiser = stirred(family)
    compiled = torch.compile(denoiser, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(compiled(X, STEPS).sample, output(denoiser))
    more, steps = torch.cat([X, X.flip(0)]), torch.cat([STEPS, STEPS])
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(compiled(more, steps).sample, denoiser(more, steps).sample)
    for other in (STEPS + 0.5, torch.tensor(3)):  # compiled for these, too
        torch.testing.assert_close(compiled(X, other).sample, denoiser(X, other).sample)
    torch.compiler.reset()


@each_family
def test_a_model_is_saved_in_variants_and_shards(family, tmp_path):
    denoiser = stirred(family)
    kind, size = type(denoiser), sum(tensor.nbytes for tensor in denoiser.state_dict().values())
    for variant, infix in ((None, ""), ("fp16", ".fp16")):
        folder = tmp_path / infix
        denoiser.save_pretrained(folder, variant=variant, max_shard_size=size // 2)
        (index,) = folder.glob("*.index*.json")
        shards = {path.name for path in folder.glob("*.safetensors")}
        assert set(json.loads(index.read_text())["weight_map"].values()) == shards
        assert len(shards) > 1
        assert all(name.startswith(f"diffusion_pytorch_model{infix}-0000") for name in shards)
        for lean in (True, False):
            again = kind.from_pretrained(folder, variant=variant, low_cpu_mem_usage=lean)
            assert_same_state(again, denoiser)
            assert torch.equal(output(again), output(denoiser))
    with refused("holds no weights"):
        kind.from_pretrained(tmp_path / ".fp16")
    (folder / min(shards)).unlink()
    with refused("train it again"):
        kind.from_pretrained(folder, variant="fp16")


@each_family
def test_a_model_whose_weights_are_elsewhere_does_what_it_did(family, tmp_path):
    denoiser = stirred(family)
    expected, saved = output(denoiser), tmp_path / "saved"
    denoiser.save_pretrained(saved)
    read = type(denoiser).from_pretrained(saved, device_map="auto")
    assert read.hf_device_map
    torch.testing.assert_close(output(read).cpu(), expected)
    options = {"execution_device": "cpu"}
    offloaded = [
        accelerate.cpu_offload(copy.deepcopy(denoiser), **options),
        accelerate.disk_offload(copy.deepcopy(denoiser), str(tmp_path / "disk"), **options),
    ]
    for made in offloaded:
        assert {p.device.type for p in made.parameters()} == {"meta"}
    places = {"device_map": {"": "disk"}, "offload_folder": tmp_path / "offloaded"}
    for made in (*offloaded, type(denoiser).from_pretrained(saved, **places)):
        with torch.no_grad():
            found = made(X, STEPS).sample
        if family == "kan":  # whose functions are called apart, which rounds otherwise
            torch.testing.assert_close(found, expected)
        else:
            assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "device_map", ["balanced", "balanced_low_0", "sequential", "cpu", {"": "cpu"}, "bad", -1]
)
def test_a_device_map_puts_a_model_on_its_devices_or_is_refused(device_map, tmp_path):
    denoiser = stirred("kan")
    denoiser.save_pretrained(tmp_path)
    if device_map in ("bad", -1):
        with pytest.raises(ValueError, match="device"):
            type(denoiser).from_pretrained(tmp_path, device_map=device_map)
        return
    read = type(denoiser).from_pretrained(tmp_path, device_map=device_map)
    assert read.hf_device_map
    torch.testing.assert_close(output(read).cpu(), output(denoiser))


@each_family
def test_layerwise_casting_casts_all_weights_or_is_refused(family):
    denoiser = stirred(family)
    expected = output(denoiser)
    if family not in LINEAR:
        with refused(r"casts nn\.Linear alone, and 'network.* is a \w+; cast all of it, with"):
            denoiser.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
        assert torch.equal(output(denoiser), expected)
        return
    denoiser.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    assert {p.dtype for p in denoiser.parameters()} == {torch.float8_e4m3fn}
    assert denoiser.dtype == torch.float32
    found = output(denoiser)
    assert {p.dtype for p in denoiser.parameters()} == {torch.float8_e4m3fn}
    # Three bits of mantissa: 1 / 16 of each weight at most.
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.3


def _pipeline(family):
    denoiser = stirred(family, num_train_timesteps=1000)
    return PointDiffusionPipeline(denoiser, get_process("cosine").scheduler(), mean=[5.0, -1.0])


def test_a_pipeline_is_saved_in_variants_and_shards_and_read_onto_devices(tmp_path):
    pipeline = _pipeline("kan")
    pipeline.save_pretrained(tmp_path, variant="fp16", max_shard_size=1000)
    assert len(list((tmp_path / "denoiser").glob("*.fp16-*.safetensors"))) > 1
    for places in ({}, {"device_map": "cpu"}, {"device_map": "balanced"}):
        read = PointDiffusionPipeline.from_pretrained(tmp_path, variant="fp16", **places)
        same_samples(read, pipeline)
    for wrong in ({}, {"variant": "fp32"}):
        with refused("holds no weights"):
            PointDiffusionPipeline.from_pretrained(tmp_path, **wrong)
    if not torch.cuda.is_available():
        for offload in (pipeline.enable_model_cpu_offload, pipeline.enable_sequential_cpu_offload):
            with pytest.raises(RuntimeError, match="accelerator"):
                offload()
    for undo in (pipeline.remove_all_hooks, pipeline.maybe_free_model_hooks):
        undo()
        same_samples(pipeline, read)


IMPORTS = [
    ("import kan_diffusion", "from diffusers import DiffusionPipeline"),
    ("from diffusers import DiffusionPipeline", "import kan_diffusion"),
    (
        "import importlib.util, kan_diffusion; importlib.util.find_spec('diffusers')",
        "from diffusers import DiffusionPipeline",
    ),
    ("from kan_diffusion import KANLinear", "from diffusers import DiffusionPipeline"),
]


def test_diffusers_knows_the_pipeline_by_name(tmp_path):
    _pipeline("full-kan").save_pretrained(tmp_path)
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
