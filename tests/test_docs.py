"""The programs in the documentation do what they say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from kan_diffusion.denoisers import build_denoiser
from kan_diffusion.processes import get_process
from kan_diffusion.sampling import PointDiffusionPipeline, make_scheduler
from kan_diffusion.training import TrainingConfig, train

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with the families that docs/families.md defines."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "families.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for name, block in zip(("shallow_family", "sine_family"), blocks, strict=True):
        (tmp_path / f"{name}.py").write_text(block)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("family", ["shallow_family:SHALLOW", "sine_family:SINE"])
@pytest.mark.usefixtures("families")
def test_a_family_of_ones_own_trains_and_is_saved(family: str, tmp_path: Path) -> None:
    process = get_process("cosine")
    generator = torch.Generator().manual_seed(0)
    denoiser = build_denoiser(
        family, 2, num_train_timesteps=process.num_timesteps, params=300, generator=generator
    )
    assert abs(denoiser.num_trainable - 300) <= 6
    points = torch.randn(500, 2, generator=generator) * torch.tensor([1.0, 0.1])
    config = TrainingConfig(steps=300, batch_size=128, learning_rate=1e-2)
    losses = train(denoiser, process, points, config, seed=0, device="cpu").losses
    assert losses[-50:].mean() < 0.9 * losses[:50].mean()
    pipeline = PointDiffusionPipeline(denoiser, make_scheduler("ddim", process.scheduler()))
    pipeline.save_pretrained(tmp_path / "saved")
    again = PointDiffusionPipeline.from_pretrained(tmp_path / "saved")
    noised, steps = torch.randn(7, 2, generator=generator), torch.arange(7) * 100
    expected = denoiser(noised, steps).sample
    torch.testing.assert_close(again.denoiser(noised, steps).sample, expected)


def test_the_program_about_reading_scores_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / "reading-scores.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(block, {})
    assert int(capsys.readouterr().out) in range(2, 7)
