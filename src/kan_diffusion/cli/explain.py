"""The command ``explain``: parse, call the library, print."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from kan_diffusion.cli.options import Modules, Unverified, own_code
from kan_diffusion.errors import KanDiffusionError

__all__ = ["EXPLAIN_EXAMPLES", "explain"]

EXPLAIN_EXAMPLES = (
    "Examples:\n\n"
    "`kan-diffusion train two-modes --family readable-kan --params 150 --sparsify 0.001 "
    "--out runs/two-modes`, then\n\n"
    "`kan-diffusion explain runs/two-modes`: pictures, formulas, programs\n\n"
    "`kan-diffusion explain runs/mine --prune 0.1 --library linear,tanh,sin --max-complexity 4`\n\n"
    "`kan-diffusion explain runs/mine --no-simplify`: look at the network as it is\n\n"
    "`kan-diffusion sample runs/two-modes/explanation/formula`: sample from the formula"
)


def explain(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    simplify: Annotated[
        bool, typer.Option(help="Prune and straighten edges, and look for formulas.")
    ] = True,
    prune: Annotated[
        float, typer.Option(min=0, help="Edges with less attribution than this are taken away.")
    ] = 0.05,
    formulas: Annotated[bool, typer.Option(help="Look for formulas.")] = True,
    library: Annotated[
        str | None,
        typer.Option(
            callback=own_code,
            help="Functions to try, such as linear,tanh,sin; package.module:NAME for your own.",
            show_default="all",
        ),
    ] = None,
    min_r2: Annotated[
        float, typer.Option(max=1, help="Held-out R² below which a match is refused.")
    ] = 0.99,
    max_complexity: Annotated[
        int | None, typer.Option(min=1, help="Highest complexity of a function: 1 is a line.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="By how much the loss may rise, stage by stage.")
    ] = 1e-3,
    max_edges: Annotated[
        int, typer.Option(min=1, help="Networks with more edges get no formulas.")
    ] = 64,
    seconds: Annotated[
        float, typer.Option(min=1, help="Time budget of the search for formulas.")
    ] = 600.0,
    levels: Annotated[
        str | None,
        typer.Option(
            help="Timesteps to look at, such as 50,300,800.", show_default="six noise levels"
        ),
    ] = None,
    num: Annotated[
        int, typer.Option(min=0, help="Points to generate from each stage; 0 for none.")
    ] = 5000,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write.", show_default="explanation in the run's folder"),
    ] = None,
    modules: Modules = None,
    unverified: Unverified = False,
) -> None:
    """Look into a KAN: its edges, what can be left out, and formulas for its score."""
    import torch
    from diffusers.utils.logging import disable_progress_bar

    from kan_diffusion.cli.console import show_standings
    from kan_diffusion.cli.progress import show_phases
    from kan_diffusion.denoisers.library import LIBRARY, get_functions
    from kan_diffusion.report.explanation import write_explanation
    from kan_diffusion.symbolic.explain import ExplainOptions, explain_run, explainable_trials
    from kan_diffusion.symbolic.match import SearchOptions

    torch.set_num_threads(1)  # at these sizes a second thread makes a step slower
    disable_progress_bar()
    if (run / "study.yaml").is_file() and (trials := explainable_trials(run)):
        typer.echo(f"'{run}' is a study; explain one of its trials:")
        for trial, config in trials.items():
            typer.echo(f"kan-diffusion explain {shlex.quote(str(trial))}  # {config.label}")
        raise typer.Exit(1)
    names = None if library is None else [name.strip() for name in library.split(",")]
    options = ExplainOptions(
        prune=prune if simplify else None,
        formulas=formulas,
        search=SearchOptions(
            library=dict(LIBRARY) if names is None else get_functions(names, importing=True),
            min_r2=min_r2,
            max_complexity=max_complexity,
            tolerance=tolerance,
            max_edges=max_edges,
            seconds=seconds,
        ),
        levels=None if levels is None else _timesteps(levels),
        num_samples=num,
    )
    folder = out if out is not None else run / "explanation"
    command = shlex.join(["kan-diffusion", *sys.argv[1:]])
    with show_phases(f"explaining {run}") as on_progress:
        explanation, _ = explain_run(
            run, folder, options, command=command, on_progress=on_progress, verify=not unverified
        )
        on_progress("drawing", "pictures and page", 0.0)
        page = write_explanation(explanation, folder)
    show_standings(explanation)
    for sentence in explanation.sentences:
        typer.echo(sentence)
    typer.echo(f"\nExplanation: {page}")


def _timesteps(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise KanDiffusionError(
            f"--levels '{text}' is not a list of timesteps such as 50,300,800"
        ) from error
