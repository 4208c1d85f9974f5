"""A study that takes seconds, and what is compared of its trials."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import FEW_PICTURES
from kan_diffusion.files import CHECKSUMS, write_checksums
from kan_diffusion.study.config import StudyConfig

EVALUATION = {
    "num_noised": 200,
    "num_samples": 100,
    "num_likelihood": 10,
    "num_real_pairs": 1,
    "num_drawn": 50,
}


def tiny_study(**changes: object) -> StudyConfig:
    """A study of a KAN and an MLP with 600 parameters on 500 points of a Gaussian mixture.

    Args:
        **changes: Other settings of the study.
    """
    return StudyConfig.model_validate(
        {
            "name": "tiny",
            "title": "Tiny",
            "seeds": 1,
            "data": [{"toy": "gaussian-mixture", "num_points": 500}],
            "training": {"steps": 40, "batch_size": 64, "checkpoint_every": 10},
            "models": [
                {"name": "KAN", "family": "kan", "params": 600},
                {"name": "MLP", "family": "mlp", "params": 600},
            ],
            "sampling": {"steps": 5},
            "evaluation": EVALUATION,
            **changes,
        }
    )


def tiny_picture_study(
    pictures: dict[str, object], model: dict[str, object], **changes: object
) -> StudyConfig:
    """A study of two transformers of pictures.

    Args:
        pictures: The data.
        model: Settings of both models, beside their family and widths.
        **changes: Other settings of the study.
    """
    return StudyConfig.model_validate(
        {
            "name": "tiny",
            "title": "Tiny",
            "seeds": 1,
            "data": [pictures],
            "process": "flow",
            "training": {"steps": 2, "batch_size": 8},
            "models": [{"family": name, "hidden": [8, 8], **model} for name in ("dit", "dit-kan")],
            "sampling": {"steps": 2},
            "evaluation": {**FEW_PICTURES, "moments": [1.0]},
            **changes,
        }
    )


def without_clock(row: dict[str, object]) -> dict[str, object]:
    """A row of results without what a clock decides."""
    return {key: value for key, value in row.items() if not key.endswith("_seconds")}


def trial_content(folder: Path) -> dict[str, object]:
    """All that a finished trial left but what a clock decides."""
    content = json.loads((folder / "trial.json").read_text().replace(str(folder), "RUN"))
    weights = folder / "denoiser" / "diffusion_pytorch_model.safetensors"
    return {
        **content,
        "row": without_clock(content["row"]),
        "weights": weights.read_bytes() if weights.exists() else None,
    }


def reseal(folder: Path) -> None:
    """Lists the digests of a run's files again, as somebody would who has changed them."""
    names = [line.split("  ")[1] for line in (folder / CHECKSUMS).read_text().splitlines()]
    write_checksums(folder, [folder / name for name in names if (folder / name).is_file()], {})


def written(folder: Path) -> dict[Path, int]:
    """The files of a folder, and when each was written in nanoseconds."""
    return {
        path.relative_to(folder): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }
