import subprocess
import sys

import pytest
import torch

from family_contract import FEW, STEPS, X, output, stirred
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
    return PointDiffusionPipeline(denoiser, get_process("cosine"), mean=[5.0, -1.0])


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
