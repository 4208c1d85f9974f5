import subprocess
import sys

import accelerate
import pytest
import torch

from family_contract import FEW, STEPS, X, output, same_samples, stirred
from kan_diffusion import PointDiffusionPipeline, get_process


# Others differ from these by their basis, activation or inputs; tests/kan compiles every basis.
@pytest.mark.parametrize("family", [*FEW, "residual-kan", "residual-mlp"])
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


def _pipeline(family):
    denoiser = stirred(family, num_train_timesteps=1000)
    return PointDiffusionPipeline(denoiser, get_process("cosine").scheduler(), mean=[5.0, -1.0])


def test_weights_may_be_in_shards_and_variants_on_devices_or_elsewhere_and_cast(tmp_path):
    pipeline = _pipeline("kan")
    pipeline.save_pretrained(tmp_path, variant="fp16", max_shard_size=1000)
    assert len(list((tmp_path / "denoiser").glob("*.fp16-*.safetensors"))) > 1
    for places in ({}, {"device_map": "cpu"}, {"device_map": "balanced"}):
        read = PointDiffusionPipeline.from_pretrained(tmp_path, variant="fp16", **places)
        same_samples(read, pipeline)
    expected = output(pipeline.denoiser)
    offloaded = accelerate.cpu_offload(pipeline.denoiser, execution_device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(offloaded(X, STEPS).sample, expected)
    linear = stirred("mlp")
    expected = output(linear)
    linear.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    # Three bits of mantissa: 1 / 16 of each weight at most.
    assert 0 < float((output(linear) - expected).norm() / expected.norm()) < 0.3


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
