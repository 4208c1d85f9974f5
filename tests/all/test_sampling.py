import subprocess
import sys

from family_contract import stirred
from kan_diffusion import PointDiffusionPipeline, get_process

IMPORTS = [
    ("from diffusers import DiffusionPipeline", "import kan_diffusion"),
    (
        "import importlib.util, kan_diffusion; importlib.util.find_spec('diffusers')",
        "from diffusers import DiffusionPipeline",
    ),
    ("from kan_diffusion import KANLinear", "from diffusers import DiffusionPipeline"),
]


def test_diffusers_knows_the_pipeline_by_name_whichever_is_imported_first(tmp_path):
    denoiser = stirred("full-kan", num_train_timesteps=1000)
    PointDiffusionPipeline(denoiser, get_process("cosine")).save_pretrained(tmp_path)
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
        print(*pipeline(3, 3).samples.shape, flush=True)
        os._exit(0)
    os.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["3 2"] * len(IMPORTS), done.stderr
