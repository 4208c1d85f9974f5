"""The command line: parse, call the library, print."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import os
import shlex
import signal
import sys
import time
import traceback
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from typer.core import TyperGroup

from kan_diffusion._version import __version__
from kan_diffusion.cli.options import (
    Address,
    Amount,
    DataSets,
    Device,
    Executor,
    Families,
    Match,
    Modules,
    NoisingProcess,
    Out,
    Overwrite,
    Params,
    Quick,
    Run,
    SamplerSteps,
    Steps,
    What,
    Workers,
    option,
)
from kan_diffusion.errors import (
    OUT_OF_MEMORY,
    KanDiffusionError,
    is_out_of_memory,
    one_line,
    printable,
    valid_settings,
)
from kan_diffusion.interrupts import interrupt_on_signals
from kan_diffusion.limits import (
    MOST_GUIDANCE,
    MOST_LAYERS,
    MOST_MOMENTS,
    MOST_PARAMETERS,
    MOST_POINTS,
    MOST_SECONDS,
    MOST_STEPS,
    MOST_TRIALS,
    MOST_VALUES,
)
from kan_diffusion.progress import TextConsole
from kan_diffusion.ranks import is_main_process

Judging = TypeVar("Judging", "StudyConfig", "TrialConfig")

if TYPE_CHECKING:
    import pandas as pd

    from kan_diffusion.study.config import StudyConfig, TrialConfig
    from kan_diffusion.study.tasks import Asked

__all__ = ["app", "main"]


_RESUMED = ("compare", "tune", "train")


class _Commands(TyperGroup):
    """The commands; an interrupted one says whether it can be resumed."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as signalled:
            kept = "nothing is kept: give the same command again to begin anew"
            if ctx.invoked_subcommand in _RESUMED:
                kept = "what is finished is kept: give the same command again to go on"
            TextConsole(stderr=True).say(f"interrupted; {kept}")
            raise typer.Exit(128 + next(iter(signalled.args), signal.SIGINT)) from None


app = typer.Typer(
    name="kan-diffusion",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Diffusion models whose denoiser is a Kolmogorov-Arnold network, compared with MLPs.",
    epilog="Begin with `kan-diffusion compare swiss-roll`, two minutes, or with "
    "`kan-diffusion train people.csv` for rows of your own.",
)


def _version(asked: bool) -> None:
    if asked:
        TextConsole().say(f"kan-diffusion {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Sets logging up before any command."""
    from rich.logging import RichHandler

    handler = RichHandler(
        console=TextConsole(stderr=True), show_time=False, show_path=False, markup=False
    )
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("kan_diffusion.imports").setLevel(logging.INFO)
    logging.captureWarnings(True)


@app.command(
    epilog="Examples:\n\n"
    "`kan-diffusion compare swiss-roll`: the default study, two minutes on two cores\n\n"
    "`kan-diffusion compare points.csv --match params --budget 2300`: the answer for your data\n\n"
    "`kan-diffusion compare wine --families all --seeds 10`\n\n"
    "`kan-diffusion compare moons --match time --budget 6 --families kan,mlp`\n\n"
    "`kan-diffusion compare moons --match flops --budget mlp:32-32-32`\n\n"
    "`kan-diffusion compare moons --process flow`\n\n"
    "`kan-diffusion compare digits`: pictures by prompts, plain and KAN transformers and U-Nets\n\n"
    "`kan-diffusion compare study.yaml --executor ray --address auto --out /shared/mine`"
)
def compare(
    what: What,
    match: Match = None,
    budget: Amount = None,
    families: Families = None,
    seeds: Annotated[int | None, option("Trials per model.", within=(1, MOST_TRIALS))] = None,
    params: Params = None,
    process: NoisingProcess = None,
    steps: Steps = None,
    data: DataSets = None,
    tuned: Annotated[
        Path | None, option("Settings of the families, as 'tune' writes them.")
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    executor: Executor = "local",
    address: Address = None,
    quick: Quick = False,
    out: Out = None,
) -> None:
    """Train KAN and MLP denoisers side by side and report who denoises better.

    Finished trials are kept: the same command goes on where it was interrupted.
    """
    from kan_diffusion.cli.console import show_conclusions, show_forest, show_summary
    from kan_diffusion.cli.progress import show_study_progress
    from kan_diffusion.processes import signal_warning
    from kan_diffusion.report.gather import report_contents
    from kan_diffusion.report.study import write_report
    from kan_diffusion.study.executors import get_executor
    from kan_diffusion.study.named import study_for
    from kan_diffusion.study.run import run_study
    from kan_diffusion.study.tuning import apply_tuned, read_tuned

    config: StudyConfig = study_for(
        what, params, match=match, budget=budget, families=_listed(families), process=process
    )
    if steps is not None:
        config = config.with_steps(steps)
    if data is not None:
        config = config.with_data(_listed(data) or [])
    if tuned is not None:
        config = apply_tuned(config, read_tuned(tuned))
    if seeds is not None:
        config = config.model_copy(update={"seeds": seeds})
    config = _judged(config, quick).pinned()
    folder = out if out is not None else Path("runs") / config.name
    _warn(signal_warning(config.process))
    runner = get_executor(executor, workers=workers, device=device, address=address)
    with show_study_progress(config.name) as progress:
        results = run_study(
            config, folder, executor=runner, on_plan=progress.start, on_event=progress.move
        )
        progress.draw()
        contents = report_contents(results, _command())
        page = write_report(contents, folder)
    show_summary(contents.results)
    show_forest(contents)
    show_conclusions(contents.decision)
    TextConsole().say(f"\nReport: {page}")
    _require_success(results.rows)


def _judged(config: Judging, quick: bool) -> Judging:
    """Returns a study or a trial that is judged quickly, if that is asked for."""
    if not quick:
        return config
    evaluation = config.evaluation.model_copy(update={"effort": "quick"})
    return config.model_copy(update={"evaluation": evaluation})


def _require_success(rows: pd.DataFrame) -> None:
    """Raises an error if any trial of a study failed."""
    failed = rows.loc[rows["error"].notna()]
    if len(failed):
        first = failed.iloc[0]
        raise KanDiffusionError(
            f"{len(failed)} of {len(rows)} trials failed, the first ('{first['name']}', seed "
            f"{first['seed']}) with: {first['error']}"
        )


@app.command(
    epilog="Examples:\n\n"
    "`kan-diffusion tune points.csv --tries 12 --out runs/tuned`, then\n\n"
    "`kan-diffusion compare points.csv --tuned runs/tuned/tuned.json`\n\n"
    "`kan-diffusion tune swiss-roll --data swiss-roll,checkerboard`"
)
def tune(
    what: What,
    tries: Annotated[
        int, option("Tries per family, equally many for all.", within=(1, MOST_TRIALS))
    ] = 12,
    match: Match = None,
    budget: Amount = None,
    families: Families = None,
    params: Params = None,
    steps: Steps = None,
    data: DataSets = None,
    optimizers: Annotated[
        str | None,
        option("Optimisers to choose from, such as adam,soap,muon.", "that of the study"),
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    executor: Executor = "local",
    address: Address = None,
    out: Out = None,
) -> None:
    """Search good settings for each family, with the same effort for all of them.

    Tunes on seeds that no comparison uses, at the budget of the study. The same command goes
    on where it was interrupted.
    """
    from kan_diffusion.cli.console import show_tuned
    from kan_diffusion.cli.progress import show_study_progress
    from kan_diffusion.study.executors import get_executor
    from kan_diffusion.study.named import study_for
    from kan_diffusion.study.tuning import tune as search

    config: StudyConfig = study_for(
        what, params, match=match, budget=budget, families=_listed(families)
    )
    if steps is not None:
        config = config.with_steps(steps)
    if data is not None:
        config = config.with_data(_listed(data) or [])
    folder = out if out is not None else Path("runs") / f"{config.name}-tuning"
    runner = get_executor(executor, workers=workers, device=device, address=address)
    with show_study_progress(f"tuning {config.name}") as progress:
        tuned = search(
            config, folder, tries=tries, optimizers=_listed(optimizers) or (),
            executor=runner, on_plan=progress.start, on_event=progress.move,
        )  # fmt: skip
    show_tuned(tuned)
    given = {"match": match, "budget": budget, "params": params, "families": families, "data": data}
    given["steps"] = None if steps is None else str(steps)
    same = [f"--{name}={value}" for name, value in given.items() if value is not None]
    use = ["kan-diffusion", "compare", what, *same, "--tuned", str(tuned.path)]
    TextConsole().say(f"\nSettings: {tuned.path}\nUse them: {shlex.join(use)}")


@app.command(
    epilog="Examples:\n\n"
    "`kan-diffusion train people.csv --out runs/people`\n\n"
    "`kan-diffusion train people.csv --describe`: the kinds of its columns\n\n"
    "`kan-diffusion train people.csv --columns 'age=number,zip=category'`\n\n"
    "`kan-diffusion train two-spirals --family mlp --steps 2000 --lr 0.01`\n\n"
    "`kan-diffusion train digits --out runs/digits`: pictures, by prompts, in a minute or two\n\n"
    "`kan-diffusion train two-modes --family readable-kan --params 153 --sparsify 0.001`"
)
def train(
    data: Annotated[
        str,
        typer.Argument(
            help="A file of rows (.csv, .csv.gz, .tsv, .parquet, .npy), a table or a toy; or "
            "pictures: digits, shapes, or a folder of them."
        ),
    ],
    family: Annotated[
        str | None,
        option(
            "Kind of denoiser: kan, mlp, spline-mlp, modulated-kan, ...; of pictures unet-kan, "
            "dit, ...",
            "kan; unet-kan of pictures",
        ),
    ] = None,
    params: Annotated[
        int | None,
        option(
            "Trainable parameters, at most; of pictures within 2 %.",
            "as suits the table or pictures; 2300 of a toy",
            within=(1, MOST_PARAMETERS),
        ),
    ] = None,
    depth: Annotated[
        int | None,
        option("Hidden layers.", "as suits the family and the table", within=(1, MOST_LAYERS)),
    ] = None,
    process: Annotated[
        str | None,
        option("Noising process, such as cosine, ddpm or flow.", "cosine; flow of pictures"),
    ] = None,
    steps: Annotated[
        int | None,
        option(
            "Training steps, at most.",
            "as suits the table or pictures; 2500 of a toy",
            within=(1, MOST_STEPS),
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        option(
            "Rows or pictures per step, drawn with replacement.",
            "as suits the table or pictures; 2048 of a toy",
            within=(1, MOST_POINTS),
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        option("Optimiser: adam, soap or muon.", "adam; muon of pictures"),
    ] = None,
    lr: Annotated[
        float | None, option("Peak learning rate.", "as suits the family and its size, or pictures")
    ] = None,
    max_seconds: Annotated[
        float | None,
        option(
            "Seconds that reading, training and judging may take: the number of steps then "
            "follows from the machine's speed.",
            "no limit",
            within=(None, MOST_SECONDS),
        ),
    ] = None,
    holdout: Annotated[
        float | None,
        option(
            "Fraction of the rows of a file or table, or of pictures, kept to judge with.",
            "0.2; 0.3 of a table; 0.1 of pictures",
        ),
    ] = None,
    size: Annotated[
        int | None,
        option("Pixels of a side of pictures.", "8 of digits, 16 of shapes, 32 of a folder"),
    ] = None,
    mode: Annotated[
        str | None,
        option("Channels of pictures: L (grey) or RGB.", "as the pictures are"),
    ] = None,
    columns: Annotated[
        str | None,
        option("Kinds of columns: zip=category,day=date:%m/%d/%Y; found by default.", False),
    ] = None,
    missing: Annotated[
        str | None, option("Words for gaps in a text file, such as '?,unknown'.", False)
    ] = None,
    thousands: Annotated[
        str | None, option("Mark of thousands in the numbers of a text file, such as ','.", False)
    ] = None,
    without: Annotated[
        str | None,
        option("Rules of a table that rows need not keep, such as 'start<=end,a+b=c'.", False),
    ] = None,
    describe: Annotated[
        bool,
        option(
            "Show the kinds of the columns, or what pictures there are, and train nothing.",
            name="--describe",
        ),
    ] = False,
    seed: Annotated[int, option("Seed of all randomness.")] = 0,
    sparsify: Annotated[
        float,
        option(
            "Weight of a penalty that leaves a KAN few edges, for 'explain'; 0.001 is a good "
            "start.",
            within=(0, None),
        ),
    ] = 0.0,
    moments: Annotated[
        int,
        option(
            "How many moments of training to record, beside its end, for 'explain' and 'report' to "
            "play.",
            within=(0, MOST_MOMENTS),
        ),
    ] = 0,
    device: Device = "auto",
    quick: Quick = False,
    fresh: Annotated[
        bool, option("Delete the run that is in the folder and start anew.", name="--fresh")
    ] = False,
    tensorboard: Annotated[
        bool, option("Log the loss for TensorBoard.", name="--tensorboard")
    ] = False,
    out: Out = None,
) -> None:
    """Train one denoiser on your rows or pictures or on a toy, and judge it.

    The same command goes on where it was interrupted.
    """
    started = time.monotonic()
    console = TextConsole(stderr=True)
    if console.is_terminal and Path(data).exists():
        console.say(f"reading '{data}'")
    from kan_diffusion.data.sources import data_from_name

    source = data_from_name(
        data, kinds=_kinds(columns), missing=_words(missing), thousands=thousands,
        without=_words(without), holdout=holdout, size=size, mode=mode,
    )  # fmt: skip
    if describe:
        TextConsole().say(source.describe(seed))
        return
    import torch  # takes seconds, as does what follows: a file is read and refused before

    from kan_diffusion.cli.console import show_scores
    from kan_diffusion.cli.progress import known_floor
    from kan_diffusion.files import inside
    from kan_diffusion.processes import signal_warning
    from kan_diffusion.progress import show_training
    from kan_diffusion.study.folder import prepare_trial_folder
    from kan_diffusion.study.named import single_trial
    from kan_diffusion.study.tasks import task_of
    from kan_diffusion.study.trial import run_trial

    task = task_of(source)
    if quick and max_seconds is None and steps is None:
        max_seconds = task.quick_seconds
    if task.quick_seconds is not None and max_seconds is not None:
        quick = quick or max_seconds <= 2 * task.quick_seconds  # judging is to be short, too
    config: TrialConfig = single_trial(
        source, family=family, params=params, depth=depth, process=process, steps=steps,
        batch_size=batch_size, optimizer=optimizer, learning_rate=lr, max_seconds=max_seconds,
        seed=seed, sparsify=sparsify,
    )  # fmt: skip
    if moments:
        recorded = {"moments": tuple(number / moments for number in range(moments))}
        evaluation = config.evaluation.model_copy(update=recorded)
        config = config.model_copy(update={"evaluation": evaluation})
    config = _judged(config, quick)
    name = f"{config.data.name}-{config.model.family}"
    folder = out if out is not None else Path("runs/train") / name
    if is_main_process():
        prepare_trial_folder(folder, config, fresh=fresh)
    _warn(signal_warning(config.process))
    floor = known_floor(config.data, config.process)
    torch.set_num_threads(1)  # as in a study, so that a run of its seed ends with the same bits
    with show_training(config.label, config.training.steps, floor) as on_progress:
        result = run_trial(
            config,
            folder,
            device=device,
            spent_seconds=time.monotonic() - started,
            on_progress=on_progress,
            log_folder=inside(folder, "tensorboard") if tensorboard else None,
        )
    if not is_main_process():
        return
    if result.row["error"] is not None:
        raise KanDiffusionError(str(result.row["error"]))
    show_scores(result.row, f"{config.model.name} on {config.data.name}", config.data)
    if result.config.evaluation.effort == "quick":
        well = "without --quick judges it well"
        if task.quick_seconds is not None and config.training.max_seconds is not None:
            well = "with --fresh, and without --quick or so short a time, trains it well"
        TextConsole().say(f"A first look, by few {task.noun}; the same command {well}.")
    words = ["kan-diffusion", "sample", str(folder), "--num", str(task.num)]
    module, own, _ = config.model.family.partition(":")
    words += ["--import", module] if own else []
    TextConsole().say(f"\nRun: {folder}\nSample from it: {shlex.join(words)}")


@app.command(
    epilog="Examples:\n\n"
    "`kan-diffusion sample runs/mine --num 1000`: into runs/mine/samples.csv\n\n"
    "`kan-diffusion sample runs/iris --where 'species=setosa' --where '1.0<=petal length<=1.5'`\n\n"
    "`kan-diffusion sample runs/people --like some.csv`: a row for each, its cells kept\n\n"
    "`kan-diffusion sample runs/mine --scheduler heun --steps 30 --out samples.parquet`\n\n"
    "`kan-diffusion sample runs/digits --prompt 'a seven' --num 16 --guidance 2 --out sevens`: PNG "
    "files and a contact sheet\n\n"
    "`kan-diffusion sample runs/kan runs/mlp --animate both.gif`: how points come about, side by "
    "side from the same noise"
)
def sample(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folder of a finished run; several with --animate.",
        ),
    ],
    num: Annotated[
        int | None,
        option(
            "Number of rows; of pictures, for each prompt or class.",
            "1000; as many as --like; 16 pictures",
            within=(1, MOST_VALUES),
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None, option("What a picture shall show; may be given several times.")
    ] = None,
    of_class: Annotated[
        list[str] | None,
        option(
            "Class of pictures, by its name; may be given several times.",
            name="--class",
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        option(
            "Strength of guidance of pictures towards prompt or class; 1 is none.",
            "as the run was judged",
            within=(0, MOST_GUIDANCE),
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        option(
            "What a column must be, such as species=setosa, 1.0<=length<=1.5, or 'species in "
            "setosa, virginica'; may be given several times."
        ),
    ] = None,
    like: Annotated[
        Path | None, option("File of rows with some of the columns; the others are drawn for each.")
    ] = None,
    max_seconds: Annotated[
        float | None,
        option(
            "Seconds that the search for rows within ranges and lists of --where may take.",
            "a number of draws",
            within=(None, MOST_SECONDS),
        ),
    ] = None,
    steps: SamplerSteps = None,
    scheduler: Annotated[
        str | None,
        option(
            "dpm-solver++, ddpm, ddim, heun, unipc; of flow matching flow-heun, flow-euler.",
            "dpm-solver++; flow-heun",
        ),
    ] = None,
    seed: Annotated[int, option("Seed of the noise.")] = 0,
    device: Device = "auto",
    out: Annotated[
        Path | None,
        option(
            "File to write: .csv, .csv.gz, .tsv, .parquet or .npy; of pictures a folder.",
            "samples.csv in the run's folder, then samples-2.csv, ...; pictures",
        ),
    ] = None,
    animate: Annotated[
        Path | None,
        option(
            "Write the way from noise to points instead of rows: a .gif, .mp4 or .html, of 60 "
            "steps even in time unless --steps is given.",
            False,
        ),
    ] = None,
    trails: Annotated[
        int | None,
        option(
            "With --animate, points whose paths are drawn.",
            "40 where processes differ, else 0",
            within=(0, MOST_POINTS),
        ),
    ] = None,
    overwrite: Overwrite = False,
    modules: Modules = None,
) -> None:
    """Draw rows from a trained run, in the data's own units, under conditions; or pictures."""
    from kan_diffusion.devices import resolve_device
    from kan_diffusion.diffusion.sampling import make_scheduler
    from kan_diffusion.files import new_output
    from kan_diffusion.processes import signal_warning
    from kan_diffusion.randomness import torch_generator
    from kan_diffusion.study.measure import load_run
    from kan_diffusion.study.tasks import Asked, task_of

    asked = Asked(
        tuple(prompt or ()), tuple(of_class or ()), guidance, tuple(where or ()), like, max_seconds
    )
    if animate is not None:
        if where or like is not None or max_seconds is not None or out is not None:
            raise KanDiffusionError(
                "--animate draws whole rows and writes its own file; leave --where, --like, "
                "--max-seconds and --out out"
            )
        _animate(
            runs, animate, replace(asked, trails=trails), num=num, steps=steps,
            scheduler=scheduler, seed=seed, device=device, overwrite=overwrite,
        )  # fmt: skip
        return
    if trails is not None:
        raise KanDiffusionError("--trails draws paths of points that move; give --animate, too")
    if len(runs) > 1:
        raise KanDiffusionError(
            f"rows are drawn from one run, not from {len(runs)}; with --animate they are shown "
            "side by side"
        )
    (run,) = runs
    _without_bars()
    config, pipeline = load_run(run)
    task = task_of(config.data)
    task.require_asked(asked, str(run))
    if out is not None:
        task.require_place(out)
    if guidance is None and (prompt or of_class):
        asked = replace(asked, guidance=config.sampling.guidance)
    pipeline.scheduler = make_scheduler(scheduler, pipeline.process)
    _warn(signal_warning(pipeline.process))
    if steps is None:
        usual = task.sampler_steps(config)
        steps = pipeline.process.num_timesteps if scheduler == "ddpm" else usual
    numbered = out is None and not overwrite
    with new_output(out or run / task.file, overwrite=overwrite, numbered=numbered) as output:
        pipeline.to(resolve_device(device))
        drawn = task.draw(pipeline, asked, num, steps, torch_generator("samples", seed))
        drawn.write(output.temporary)
    TextConsole().say(f"{drawn.words}: {output.path}")


def _animate(
    runs: list[Path],
    path: Path,
    asked: Asked,
    *,
    num: int | None,
    steps: int | None,
    scheduler: str | None,
    seed: int,
    device: str,
    overwrite: bool,
) -> None:
    """Writes the reverse processes of runs side by side."""
    from kan_diffusion.devices import resolve_device
    from kan_diffusion.files import new_output
    from kan_diffusion.processes import signal_warning
    from kan_diffusion.report.motion import require_ending, write_motion
    from kan_diffusion.report.views import animate, mover_of_run
    from kan_diffusion.study.tasks import task_of

    require_ending(path)
    _without_bars()
    movers = [mover_of_run(run) for run in runs]
    for mover in movers:
        task_of(mover.data).require_asked(asked, mover.source)
        _warn(signal_warning(mover.process))
        mover.pipeline.to(resolve_device(device))
    first = movers[0].data
    with new_output(path, overwrite=overwrite, option="--animate") as output:
        motion = animate(movers, asked, num=num, steps=steps, scheduler=scheduler, seed=seed)
        words = ", ".join([*asked.prompts, *asked.classes]) or task_of(first).noun
        said = write_motion(motion, output.temporary, f"From noise to {words}")
    TextConsole().say(said.replace(str(output.temporary), str(path)))


@app.command(
    epilog="Examples:\n\n"
    "`kan-diffusion impute runs/people gaps.csv --out filled.csv`\n\n"
    "`kan-diffusion impute runs/people gaps.csv --draws 20 --out filled.parquet`: twenty fillings, "
    "whose spread says how sure they are"
)
def impute(
    run: Run,
    data: Annotated[Path, typer.Argument(help="File of rows with gaps, of all columns.")],
    out: Annotated[Path, option("File to write: .csv, .csv.gz, .tsv, .parquet or .npy.")],
    draws: Annotated[
        int,
        option(
            "Fillings of each gap; if several, column 'draw' has their number.",
            within=(1, MOST_POINTS),
        ),
    ] = 1,
    steps: SamplerSteps = None,
    seed: Annotated[int, option("Seed of the noise.")] = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    modules: Modules = None,
) -> None:
    """Fill the gaps of rows with what a trained run thinks likely; all other cells stay."""
    from kan_diffusion.data.frames import require_writable_ending
    from kan_diffusion.devices import resolve_device
    from kan_diffusion.files import new_output
    from kan_diffusion.randomness import torch_generator
    from kan_diffusion.study.measure import load_run
    from kan_diffusion.study.tasks import task_of

    require_writable_ending(out)
    _without_bars()
    config, pipeline = load_run(run)
    generator = torch_generator("gaps", seed)
    with new_output(out, overwrite=overwrite) as output:
        pipeline.to(resolve_device(device))
        filled = task_of(config.data).fill(pipeline, data, draws, steps or 20, generator)
        filled.write(output.temporary)
    TextConsole().say(f"{filled.words}: {out}")


def _kinds(text: str | None) -> dict[str, str] | None:
    """Parses kinds of columns such as ``age=number``; names with commas are quoted."""
    if text is None:
        return None
    kinds: dict[str, str] = {}
    for part in next(csv.reader([text], skipinitialspace=True)):
        name, sign, kind = part.rpartition("=")
        if not sign:
            raise KanDiffusionError(
                f"--columns has '{part}', which is no kind of a column such as age=number"
            )
        name = name.strip()
        if name in kinds:
            raise KanDiffusionError(f"--columns names '{name}' twice; keep one of its kinds")
        kinds[name] = kind.strip()
    return kinds


@app.command(
    epilog="Examples:\n\n"
    "`kan-diffusion evaluate runs/mine`: with the rows that were held out\n\n"
    "`kan-diffusion evaluate runs/people --data real.csv --out people.html`"
)
def evaluate(
    run: Run,
    data: Annotated[
        str | None, option("A file or toy to judge with; the run's own data by default.")
    ] = None,
    out: Annotated[
        Path | None,
        option("Page to write, of a run of a table.", "tables.html in the run's folder"),
    ] = None,
    modules: Modules = None,
) -> None:
    """Judge a trained run: loss and sample metrics; of a table also its rows, on a page."""
    from kan_diffusion.cli.console import show_judged, show_scores
    from kan_diffusion.cli.progress import show_phases
    from kan_diffusion.files import require_writable
    from kan_diffusion.report.views import view_of
    from kan_diffusion.study.folder import load_trial
    from kan_diffusion.study.measure import evaluate_run

    _without_bars()
    if out is not None:
        require_writable(out.parent)
    row, used = evaluate_run(run, data)
    trial = load_trial(run)
    assert trial is not None
    source = trial.config.data
    show_scores(row, f"{run} on {used}", source)
    with show_phases(f"judging {run}") as show:
        page = view_of(source).page(run, data, out, on_progress=show)
    if page is not None:
        show_judged(page, f"Synthetic rows of {run} beside real ones")
        TextConsole().say(f"\nPage: {page.path}")


@app.command(
    epilog="Examples:\n\n"
    "`kan-diffusion train two-modes --family readable-kan --params 153 --sparsify 0.001 "
    "--out runs/two-modes`, then\n\n"
    "`kan-diffusion explain runs/two-modes`: pictures, formulas, programs\n\n"
    "`kan-diffusion explain runs/mine --prune 0.1 --library linear,tanh,sin --max-complexity 4`\n\n"
    "`kan-diffusion explain runs/mine --no-simplify`: look at the network as it is\n\n"
    "`kan-diffusion sample runs/two-modes/explanation/formula`: sample from the formula"
)
def explain(
    run: Run,
    simplify: Annotated[bool, option("Prune and straighten edges, and look for formulas.")] = True,
    prune: Annotated[
        float, option("Edges with less attribution than this are removed.", within=(0, None))
    ] = 0.05,
    formulas: Annotated[bool, option("Look for formulas.")] = True,
    library: Annotated[
        str | None,
        option(
            "Functions to try, such as linear,tanh,sin; package.module:NAME for your own.",
            "all",
        ),
    ] = None,
    min_r2: Annotated[
        float, option("Held-out R² below which a match is refused.", within=(None, 1))
    ] = 0.99,
    max_complexity: Annotated[
        int | None, option("Highest complexity of a function: 1 is a line.", within=(1, None))
    ] = None,
    tolerance: Annotated[
        float, option("By how much the loss may rise, stage by stage.", within=(0, None))
    ] = 1e-3,
    max_edges: Annotated[
        int, option("Networks with more edges get no formulas.", within=(1, None))
    ] = 64,
    seconds: Annotated[
        float, option("Seconds that the search for formulas may take.", within=(1, MOST_SECONDS))
    ] = 600.0,
    levels: Annotated[
        str | None, option("Timesteps to look at, such as 50,300,800.", "six noise levels")
    ] = None,
    num: Annotated[
        int, option("Points to generate from each stage; 0 for none.", within=(0, MOST_POINTS))
    ] = 5000,
    out: Annotated[
        Path | None, option("Folder to write.", "explanation in the run's folder")
    ] = None,
    modules: Modules = None,
) -> None:
    """Look into a KAN: its edges, what can be left out, and formulas for its score.

    Edges can be read in the families readable-kan, full-kan and modulated-kan, not in kan.
    """
    import torch

    from kan_diffusion.cli.console import show_standings
    from kan_diffusion.cli.progress import show_phases
    from kan_diffusion.denoisers.library import LIBRARY, get_functions
    from kan_diffusion.files import inside, require_writable
    from kan_diffusion.formulas.explain import ExplainOptions, explain_run, explainable_trials
    from kan_diffusion.formulas.match import SearchOptions
    from kan_diffusion.report.explanation import write_explanation

    torch.set_num_threads(1)  # at these sizes a second thread makes a step slower
    _without_bars()
    if (run / "study.yaml").is_file() and (trials := explainable_trials(run)):
        TextConsole().say(f"'{run}' is a study; explain one of its trials:")
        for trial, config in trials.items():
            TextConsole().say(f"kan-diffusion explain {shlex.quote(str(trial))}  # {config.label}")
        raise typer.Exit(1)
    names = _listed(library)
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
    folder = out if out is not None else inside(run, "explanation")
    require_writable(folder)
    with show_phases(f"explaining {run}") as on_progress:
        explanation, _ = explain_run(
            run,
            folder,
            options,
            command=_command(),
            on_progress=on_progress,
        )
        on_progress("drawing", "pictures and page", 0.0)
        page = write_explanation(explanation, folder)
    show_standings(explanation)
    for sentence in explanation.sentences:
        TextConsole().say(sentence)
    TextConsole().say(f"\nExplanation: {page}")


def _timesteps(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise KanDiffusionError(
            f"--levels '{text}' is not a list of timesteps such as 50,300,800"
        ) from error


@app.command(
    epilog="Examples:\n\n`kan-diffusion report runs/swiss-roll`: a study's report again\n\n"
    "`kan-diffusion report runs/two-modes runs/two-modes/explanation/formula --out runs/both`: a "
    "network and its formula side by side"
)
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folder of a study, or folders of runs that were judged alike."),
    ],
    out: Annotated[
        Path | None,
        option("Folder to write.", "the one folder given; runs/side-by-side for several"),
    ] = None,
    modules: Modules = None,
) -> None:
    """Write a study's report again from its trials, or one of finished runs side by side."""
    from kan_diffusion.files import require_writable
    from kan_diffusion.report.gather import report_contents, runs_contents
    from kan_diffusion.report.study import write_report
    from kan_diffusion.study.results.rows import read_runs
    from kan_diffusion.study.run import load_study

    folder = out or (runs[0] if len(runs) == 1 else Path("runs/side-by-side"))
    require_writable(folder)
    if len(runs) == 1 and (runs[0] / "study.yaml").exists():
        (run,) = runs
        again = shlex.join(["kan-diffusion", "compare", str(run / "study.yaml"), "--out", str(run)])
        contents = report_contents(load_study(run), again)
    else:
        contents = runs_contents(read_runs(runs), _command())
    TextConsole().say(f"Report: {write_report(contents, folder)}")


def _without_bars() -> None:
    """Hides the bars that diffusers shows while it loads a pipeline."""
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()


def _warn(message: str | None) -> None:
    if message is not None:
        logging.getLogger("kan_diffusion").warning(message)


def _listed(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",")]


def _words(text: str | None) -> list[str] | None:
    """Parses words with commas between them; those with commas are quoted."""
    return None if text is None else next(csv.reader([text], skipinitialspace=True))


def _command() -> str:
    """The command as the user gave it."""
    return shlex.join(["kan-diffusion", *sys.argv[1:]])


_PLAIN = str.maketrans({"±": "~", "−": "-", "–": "-", "’": "'", "“": '"', "”": '"', "…": "..."})


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """Replaces characters that the terminal lacks by ASCII, without accents."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    letters = (unicodedata.normalize("NFKD", letter) for letter in text)
    return "".join(each.encode("ascii", "ignore").decode() or "?" for each in letters), error.end


def main() -> None:
    """Runs the command line; errors a user can act on are one line on standard error."""
    codecs.register_error("plain", _in_plain_letters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")

    interrupt_on_signals()
    os.environ["PYTHONSAFEPATH"] = "1"  # no worker has the working folder on its path
    if not is_main_process():  # of several processes that train one model, only the first prints
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    try:
        for word in sys.argv[1:]:  # those of wrong usage are printed by typer
            if printable(word) != word or len(word.splitlines()) > 1 or "\n" in word:
                raise KanDiffusionError(f"argument '{word}' has invisible characters; rename it")
        with valid_settings("settings"):
            app()
    except Exception as error:  # what nobody foresaw may quote a file, too
        TextConsole(stderr=True).say(f"error: {_in_words(error)}")
        raise SystemExit(1) from error


def _in_words(error: Exception) -> str:
    """Writes an error a user can act on as one line, and any other with where it arose."""
    if isinstance(error, KanDiffusionError):
        return str(error)
    if isinstance(error, OSError):
        name = f"'{error.filename}': " if error.filename is not None else ""
        return one_line(f"{name}{error.strerror or error}; check the path, or choose another")
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    return "".join(traceback.format_exception(error))
