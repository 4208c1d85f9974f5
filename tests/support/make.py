"""Small things that tests are made of: points, processes, denoisers, studies; and what is compared
of trials."""

import json

import torch

from helpers import seeded
from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.denoisers.families import build_denoiser
from kan_diffusion.files import digest, sealed_json
from kan_diffusion.processes import Process, get_process
from kan_diffusion.study.config import StudyConfig
from kan_diffusion.study.tasks import task_of
from kan_diffusion.tables.task import TableTask

FEW_STEPS = 100
"""Timesteps of a small process."""


def points(num=100, dim=2, seed=0, dtype=torch.float32):
    """Standard normal points with shape (num, dim)."""
    return torch.randn(num, dim, generator=seeded(seed), dtype=dtype)


def dataset(density, num=500):
    """Points of a density that is known, in their own units."""
    return Dataset(
        name="points",
        columns=tuple("xyz"[: density.dim]),
        standardizer=Standardizer.identity(density.dim),
        train=density.sample(num, seeded()).float(),
        density=density,
    )


def process(prediction_type="v_prediction", **settings):
    """The cosine process with few timesteps."""
    given = {"prediction_type": prediction_type, "num_timesteps": FEW_STEPS, **settings}
    return Process.model_validate({**get_process("cosine").model_dump(), **given})


def denoiser(family="mlp", dim=2, *, seed=0, **options):
    """An untrained denoiser with two hidden layers of eight units, unless options say otherwise."""
    given = {"num_train_timesteps": FEW_STEPS, **options}
    if not given.keys() & {"params", "flops", "hidden"}:
        given["hidden"] = (8, 8)
    return build_denoiser(family, dim, generator=seeded(seed), **given)


def study(**changes):
    """A study of a KAN and an MLP with 600 parameters on 500 points, judged quickly."""
    settings = {
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
    }
    return StudyConfig.model_validate({**settings, **changes})


EVALUATION = {"num_noised": 200, "num_drawn": 50, "effort": "quick"}
"""Settings of an evaluation where nothing asks how good a model is."""


def budgeted_study(**changes):
    """Two families with one budget on two data sets."""
    data = [{"toy": toy, "num_points": 300} for toy in ("gaussian-mixture", "eight-gaussians")]
    models = [{"family": "kan"}, {"family": "mlp"}]
    training = {"steps": 20, "batch_size": 64}
    given = {"data": data, "models": models, "budget": {"amount": 900}, "training": training}
    return study(**{**given, **changes})


def built(trial):
    """The untrained denoiser of a trial."""
    return task_of(trial.data).build(trial, load_dataset(trial.data))


def without_clock(row):
    """A row of results without what a clock decides."""
    return {key: value for key, value in row.items() if not key.endswith("_seconds")}


def trial_content(folder):
    """All that a finished trial left but what a clock decides."""
    content = json.loads((folder / "trial.json").read_text().replace(str(folder), "RUN"))
    judged = content["judged"] or {"row": {}}
    weights = folder / "denoiser" / "diffusion_pytorch_model.safetensors"
    files = sorted(content.pop("files"))
    return {
        "config": content["config"],
        "row": without_clock({**content["trained"]["row"], **judged.pop("row")}),
        "judged": {key: value for key, value in judged.items() if key != "date"},
        "files": {name: (folder / name).read_bytes() for name in files if name != "curves.parquet"},
        "weights": weights.read_bytes() if weights.exists() else None,
    }


def reseal(folder):
    """Writes the digests of a run or a study again, as somebody would who has changed its files."""
    for path in (folder / "trial.json", folder / "environment.json"):
        if path.is_file() and path.stat().st_size < 10**6:
            content = json.loads(path.read_text())
            content.pop("sha256", None)
            files = [name for name in content.pop("files", {}) if (folder / name).is_file()]
            path.write_bytes(sealed_json(content, {name: digest(folder / name) for name in files}))


def contents(folder):
    """The content of each file in a folder by its path; None of what is no file."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def written(folder):
    """The files of a folder, and when each was written in nanoseconds."""
    return {
        path.relative_to(folder): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


def suggested(num_rows, dim, family="kan", params=None):
    """What suits a table of so many encoded rows."""
    rows = torch.empty(num_rows, dim, device="meta")
    table = Dataset(name="t", columns=(), standardizer=Standardizer.identity(1), train=rows)
    return TableTask().suggest(table, get_process("cosine"), family, params)
