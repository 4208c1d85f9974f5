"""Options that several commands have."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kan_diffusion.imports import import_own, is_place
from kan_diffusion.limits import MOST_PARAMETERS, MOST_STEPS, MOST_WORKERS

__all__ = [
    "Address", "Amount", "Conditional", "Device", "Executor", "Families", "Match", "Modules",
    "Out", "Overwrite", "Params", "Processes", "Run", "SamplerSteps", "Steps", "Unverified",
    "What", "Workers", "own_code",
]  # fmt: skip


def own_code(given: str | None) -> str | None:
    """Lets modules of the working folder be imported when a word on the command line names some."""
    folder = str(Path.cwd())
    if given is not None and (is_place(given) or given.endswith((".yaml", ".yml"))):
        sys.path[:] = [*(place for place in sys.path if place != folder), folder]
    return given


def _import(names: str | None) -> str | None:
    if names is not None:
        own_code(f"{names}:")
        for name in names.split(","):
            import_own(name.strip())
    return names


Modules = Annotated[
    str | None,
    typer.Option(
        "--import",
        callback=_import,
        help="Modules of your own that the run needs, for its family or metrics.",
    ),
]
Unverified = Annotated[
    bool,
    typer.Option("--unverified", help="Read files that have changed since the run wrote them."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, ... or auto: a GPU when there is one.")]
Out = Annotated[Path | None, typer.Option(help="Run folder.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")]
SamplerSteps = Annotated[
    int | None, typer.Option(min=1, help="Steps of the sampler; 20, or all timesteps for ddpm.")
]
Run = Annotated[Path, typer.Argument(help="Folder of a finished run.")]

What = Annotated[
    str,
    typer.Argument(
        callback=own_code,
        help="A built-in study (swiss-roll, notebook, pilot, verdict), a study file (.yaml), a "
        "toy, a table of scikit-learn's (iris, wine, breast-cancer, diabetes), a file of rows "
        "(.csv, .csv.gz, .tsv, .parquet, .npy), or a folder of Parquet files; or pictures: digits, "
        "shapes, emoji, or a folder of them.",
    ),
]
Match = Annotated[
    str | None,
    typer.Option(
        help="Resource held equal: params, flops, flops-per-edge or time (processor seconds of "
        "training).",
        show_default="params",
    ),
]
Amount = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="Amount of it: a number, or a model such as mlp:32-32-32 to be like.",
        show_default="2300 for params; as suits pictures",
    ),
]
Families = Annotated[
    str | None,
    typer.Option(
        callback=own_code,
        help="Families, such as kan,mlp; 'all' for all there are; package.module:NAME for your "
        "own.",
    ),
]
Params = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_PARAMETERS,
        help="Parameters of each model.",
        show_default="2300; with --match time those that serve it best; as suits pictures",
    ),
]
Processes = Annotated[
    str | None,
    typer.Option(
        "--process",
        help="Noising processes, such as cosine,flow; models are compared within each.",
        show_default="cosine, flow of pictures, or the study's",
    ),
]
Conditional = Annotated[
    bool,
    typer.Option(
        "--conditional", help="Tell the denoiser the class of each point: which moon, which square."
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, max=MOST_STEPS, help="Training steps.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, max=MOST_WORKERS, help="Trials side by side; one a core by default."),
]
Executor = Annotated[str, typer.Option(help="Where trials run: local or ray.")]
Address = Annotated[
    str | None,
    typer.Option(
        help="Address of a running Ray cluster; without it one is started on this machine."
    ),
]
