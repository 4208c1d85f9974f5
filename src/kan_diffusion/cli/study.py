"""Commands on studies: compare, tune, report."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kan_diffusion.cli.options import (
    Address,
    Device,
    Executor,
    Modules,
    Out,
    Params,
    Quick,
    Whole,
    Workers,
    command_line,
    listed,
    say_loading,
    setting,
    warn,
    within,
)
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.limits import MOST_TRIALS
from kan_diffusion.progress import TextConsole
from kan_diffusion.training.config import TrainingConfig

__all__ = ["compare", "report", "tune"]

What = Annotated[
    str,
    Parameter(
        help="A built-in study (swiss-roll, notebook), a study file (.yaml), a toy, a table of "
        "scikit-learn's (iris, wine, breast-cancer, diabetes), a file of rows (.csv, .csv.gz, "
        ".tsv, .parquet, .npy); or pictures: digits, shapes, or a folder of them."
    ),
]
Match = Annotated[
    str | None,
    Parameter(
        help="Resource held equal: params, flops (operations of a forward pass for one point) or "
        "time (processor seconds of training).",
        group="Models",
        show_default="params",
    ),
]
Budget = Annotated[
    str | None,
    Parameter(
        help="Amount of it: a number, or a model such as mlp:32-32-32 to be like.",
        group="Models",
        show_default="2300 for params; for pictures as suits them",
    ),
]
Families = Annotated[
    str | None,
    Parameter(
        help="Families, such as kan,mlp; 'all' for all there are; package.module:NAME for your "
        "own.",
        group="Models",
        show_default="the study's",
    ),
]
StudyParams = Annotated[
    Params, Parameter(group="Models", show_default="2300; for pictures as suits them")
]
DataSets = Annotated[str | None, Parameter(help="Of a study with several data sets, those to use.")]
Steps = Annotated[int | None, Whole, setting(TrainingConfig, "steps", "the study's")]


def compare(
    what: What,
    /,
    *,
    match: Match = None,
    budget: Budget = None,
    families: Families = None,
    params: StudyParams = None,
    tuned: Annotated[Path | None, Parameter(group="Models")] = None,
    process: str | None = None,
    seeds: Annotated[int | None, Whole, within(1, MOST_TRIALS)] = None,
    steps: Steps = None,
    data: DataSets = None,
    quick: Quick = False,
    device: Device = "auto",
    workers: Workers = None,
    executor: Executor = "local",
    address: Address = None,
    out: Out = None,
) -> None:
    """Trains denoisers side by side and reports who denoises better.

    Args:
        tuned: Settings of the families, as 'tune' writes them.
        process: Noising process, such as cosine, ddpm or flow; cosine, or flow of pictures, or the
            study's where it is left out.
        seeds: Trials per model.
    """
    say_loading(what)
    from kan_diffusion.cli.console import show_conclusions, show_summary
    from kan_diffusion.cli.progress import show_study_progress
    from kan_diffusion.processes import signal_warning
    from kan_diffusion.report.study import write_report
    from kan_diffusion.study.executors import get_executor
    from kan_diffusion.study.named import study_for
    from kan_diffusion.study.results import Results, decide
    from kan_diffusion.study.run import run_study
    from kan_diffusion.study.tuning import apply_tuned, read_tuned

    config = study_for(
        what, params, match=match, budget=budget, families=listed(families), process=process
    )
    if steps is not None:
        config = config.with_steps(steps)
    if data is not None:
        config = config.with_data(listed(data) or [])
    if tuned is not None:
        config = apply_tuned(config, read_tuned(tuned))
    if seeds is not None:
        config = config.model_copy(update={"seeds": seeds})
    if quick:
        evaluation = config.evaluation.model_copy(update={"effort": "quick"})
        config = config.model_copy(update={"evaluation": evaluation})
    config = config.pinned()
    folder = out or Path("runs") / config.name
    warn(signal_warning(config.process))
    runner = get_executor(executor, workers=workers, device=device, address=address)
    with show_study_progress(config.name) as progress:
        results = run_study(
            config, folder, executor=runner, on_plan=progress.start, on_event=progress.move
        )
        progress.draw()
        page = write_report(results, folder, command_line())
    rows = Results.of(results.rows, config.evaluation.metrics, config.data)
    show_summary(rows)
    show_conclusions(decide(rows))
    TextConsole().say(f"\nReport: {page}")
    failed = results.rows.loc[results.rows["error"].notna()]
    if len(failed):
        first = failed.iloc[0]
        raise KanDiffusionError(
            f"{len(failed)} of {len(results.rows)} trials failed, the first ('{first['name']}', "
            f"seed {first['seed']}) with: {first['error']}"
        )


def tune(
    what: What,
    /,
    *,
    tries: Annotated[int, Whole, within(1, MOST_TRIALS)] = 12,
    match: Match = None,
    budget: Budget = None,
    families: Families = None,
    params: StudyParams = None,
    steps: Steps = None,
    data: DataSets = None,
    optimizers: str | None = None,
    device: Device = "auto",
    workers: Workers = None,
    executor: Executor = "local",
    address: Address = None,
    out: Out = None,
) -> None:
    """Searches settings of families.

    Args:
        tries: Tries per family, equally many for all.
        optimizers: Optimisers to choose from, such as adam,soap,muon; that of the study where it is
            left out.
    """
    say_loading(what)
    from kan_diffusion.cli.console import show_tuned
    from kan_diffusion.cli.progress import show_study_progress
    from kan_diffusion.study.executors import get_executor
    from kan_diffusion.study.named import study_for
    from kan_diffusion.study.tuning import tune as search

    config = study_for(what, params, match=match, budget=budget, families=listed(families))
    if steps is not None:
        config = config.with_steps(steps)
    if data is not None:
        config = config.with_data(listed(data) or [])
    folder = out or Path("runs") / f"{config.name}-tuning"
    runner = get_executor(executor, workers=workers, device=device, address=address)
    with show_study_progress(f"tuning {config.name}") as progress:
        tuned = search(
            config,
            folder,
            tries=tries,
            optimizers=listed(optimizers) or (),
            executor=runner,
            on_plan=progress.start,
            on_event=progress.move,
        )
    show_tuned(tuned)
    given = {"match": match, "budget": budget, "params": params, "families": families}
    same = {**given, "data": data, "steps": steps}
    words = [f"--{name}={value}" for name, value in same.items() if value is not None]
    use = ["kan-diffusion", "compare", what, *words, "--tuned", str(tuned.path)]
    TextConsole().say(f"\nSettings: {tuned.path}\nUse them: {shlex.join(use)}")


def report(runs: list[Path], /, *, out: Path | None = None, modules: Modules = None) -> None:
    """Writes a report.

    Args:
        runs: Folder of a study, or folders of runs that were judged alike.
        out: Folder to write; the one folder given, or runs/side-by-side for several.
    """
    from kan_diffusion.files import require_writable
    from kan_diffusion.report.study import write_report
    from kan_diffusion.study.results.rows import read_runs
    from kan_diffusion.study.run import load_study

    folder = out or (runs[0] if len(runs) == 1 else Path("runs/side-by-side"))
    require_writable(folder)
    if len(runs) == 1 and (runs[0] / "study.yaml").exists():
        (run,) = runs
        again = shlex.join(["kan-diffusion", "compare", str(run / "study.yaml"), "--out", str(run)])
        page = write_report(load_study(run), folder, again)
    else:
        page = write_report(read_runs(runs), folder, command_line(), runs=True)
    TextConsole().say(f"Report: {page}")
