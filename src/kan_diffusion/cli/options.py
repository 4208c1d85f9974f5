"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from typer.models import OptionInfo

from kan_diffusion.imports import import_own
from kan_diffusion.limits import MOST_PARAMETERS, MOST_STEPS, MOST_WORKERS

__all__ = [
    "Address", "Amount", "DataSets", "Device", "Executor", "Families", "Match", "Modules",
    "NoisingProcess", "Out", "Overwrite", "Params", "Quick", "Run", "SamplerSteps", "Steps", "What",
    "Workers", "option",
]  # fmt: skip


def _import(names: str | None) -> str | None:
    if names is not None:
        for name in names.split(","):
            import_own(name.strip())
    return names


def option(
    help: str,
    default: str | bool = True,
    *,
    name: str | None = None,
    within: tuple[float | None, float | None] = (None, None),
    callback: Callable[[str | None], str | None] | None = None,
) -> OptionInfo:
    """Declares an option.

    Args:
        help: Its meaning.
        default: The default in words; or whether the default value is shown.
        name: Its name, if it is not the parameter's, or if a switch has no opposite.
        within: Smallest and largest number; None for no bound.
        callback: Takes the given value and returns it.
    """
    names = () if name is None else (name,)
    made: OptionInfo = typer.Option(
        *names, help=help, show_default=default, min=within[0], max=within[1], callback=callback
    )
    return made


DataSets = Annotated[str | None, option("Of a study with several data sets, those to use.")]
Modules = Annotated[
    str | None,
    option(
        "Modules of your own that the run needs, for its family or metrics.",
        name="--import",
        callback=_import,
    ),
]
Quick = Annotated[
    bool,
    option(
        "Judge by few points, samples and trees, for a first look; the same command without it "
        "judges again and trains nothing again. 'train' trains on rows for half a minute.",
        name="--quick",
    ),
]
Device = Annotated[str, option("cpu, cuda, ... or auto: a GPU when there is one.")]
Out = Annotated[Path | None, option("Run folder.")]
Overwrite = Annotated[
    bool, option("Replace the file, or pictures of the same names.", name="--overwrite")
]
SamplerSteps = Annotated[
    int | None,
    option(
        "Steps of the sampler; 20, of tables of 2,000 rows 50, for ddpm all timesteps.",
        within=(1, None),
    ),
]
Run = Annotated[Path, typer.Argument(help="Folder of a finished run.")]

What = Annotated[
    str,
    typer.Argument(
        help="A built-in study (swiss-roll, notebook), a study file (.yaml), a "
        "toy, a table of scikit-learn's (iris, wine, breast-cancer, diabetes), a file of rows "
        "(.csv, .csv.gz, .tsv, .parquet, .npy); or pictures: digits, shapes, or a folder of them.",
    ),
]
Match = Annotated[
    str | None,
    option(
        "Resource held equal: params, flops (operations of a forward pass for one point) or time "
        "(processor seconds of training).",
        "params",
    ),
]
Amount = Annotated[
    str | None,
    option(
        "Amount of it: a number, or a model such as mlp:32-32-32 to be like.",
        "2300 for params; for pictures as suits them",
        name="--budget",
    ),
]
Families = Annotated[
    str | None,
    option("Families, such as kan,mlp; 'all' for all there are; package.module:NAME for your own."),
]
Params = Annotated[
    int | None,
    option(
        "Parameters of each model.",
        "2300; for pictures as suits them",
        within=(1, MOST_PARAMETERS),
    ),
]
NoisingProcess = Annotated[
    str | None,
    option(
        "Noising process, such as cosine, ddpm or flow.",
        "cosine, flow of pictures, or the study's",
        name="--process",
    ),
]
Steps = Annotated[int | None, option("Training steps.", within=(1, MOST_STEPS))]
Workers = Annotated[
    int | None, option("Trials side by side; one per core by default.", within=(1, MOST_WORKERS))
]
Executor = Annotated[str, option("Where trials run: local or ray.")]
Address = Annotated[
    str | None,
    option("Address of a running Ray cluster; without it one is started on this machine."),
]
