"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Address", "Amount", "Device", "Executor", "Families", "Match", "Out", "Params",
    "Processes", "Run", "Steps", "What", "Workers",
]  # fmt: skip

Device = Annotated[str, typer.Option(help="cpu, cuda, ... or auto: a GPU when there is one.")]
Out = Annotated[Path | None, typer.Option(help="Run folder.")]
Run = Annotated[Path, typer.Argument(help="Folder of a finished run.")]

What = Annotated[
    str,
    typer.Argument(
        help="A built-in study (swiss-roll, notebook, pilot), a study file (.yaml), a toy, a table "
        "of scikit-learn's (iris, wine, breast-cancer, diabetes), or a file of points (.csv, "
        ".parquet, .npy)."
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
        show_default="2300 for params",
    ),
]
Families = Annotated[
    str | None,
    typer.Option(
        help="Families, such as kan,mlp; 'all' for all there are; package.module:NAME for your own."
    ),
]
Params = Annotated[
    int | None, typer.Option(min=1, help="Parameters of each model.", show_default="2300")
]
Processes = Annotated[
    str | None,
    typer.Option(
        "--process",
        help="Noising processes, such as cosine,flow; models are compared within each.",
        show_default="cosine, or the study's",
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Training steps.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Trials side by side; one a core by default.")
]
Executor = Annotated[str, typer.Option(help="Where trials run: local or ray.")]
Address = Annotated[
    str | None,
    typer.Option(
        help="Address of a running Ray cluster; without it one is started on this machine."
    ),
]
