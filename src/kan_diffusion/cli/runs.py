"""Commands on single runs: train, sample, impute, evaluate, explain."""

from __future__ import annotations

import csv
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kan_diffusion.cli.options import (
    Device,
    Modules,
    Out,
    Overwrite,
    Params,
    Quick,
    Run,
    SamplerSteps,
    Switch,
    Whole,
    command_line,
    listed,
    say_loading,
    setting,
    warn,
    within,
    without_bars,
)
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.limits import (
    MOST_GUIDANCE,
    MOST_LAYERS,
    MOST_MOMENTS,
    MOST_POINTS,
    MOST_SECONDS,
    MOST_VALUES,
)
from kan_diffusion.progress import TextConsole
from kan_diffusion.ranks import is_main_process
from kan_diffusion.training.config import OptimizerName, TrainingConfig

if TYPE_CHECKING:
    from kan_diffusion.study.tasks import Asked

__all__ = ["evaluate", "explain", "impute", "sample", "train"]

_MODEL, _DATA = Parameter(group="Model"), Parameter(group="Data")
_PICTURES, _TABLES = Parameter(group="Pictures"), Parameter(group="Tables")
_SUITS = "as suits the table or pictures; {} of a toy"
_STEPS, _BATCH = (TrainingConfig.model_fields[name].default for name in ("steps", "batch_size"))
Several = Parameter(negative="")
"""An option that may be given several times."""


def train(
    data: str,
    /,
    *,
    family: Annotated[str | None, _MODEL] = None,
    params: Annotated[
        Params,
        Parameter(
            help="Trainable parameters, at most; of pictures within 2 %.",
            group="Model",
            show_default=_SUITS.format(2300),
        ),
    ] = None,
    depth: Annotated[int | None, _MODEL, Whole, within(1, MOST_LAYERS)] = None,
    process: Annotated[str | None, _MODEL] = None,
    steps: Annotated[
        int | None, Whole, setting(TrainingConfig, "steps", _SUITS.format(_STEPS))
    ] = None,
    batch_size: Annotated[
        int | None, Whole, setting(TrainingConfig, "batch_size", _SUITS.format(_BATCH))
    ] = None,
    optimizer: Annotated[
        OptimizerName | None, setting(TrainingConfig, "optimizer", "adam; muon of pictures")
    ] = None,
    lr: Annotated[
        float | None,
        setting(TrainingConfig, "learning_rate", "as suits the family and its size, or pictures"),
    ] = None,
    max_seconds: Annotated[float | None, setting(TrainingConfig, "max_seconds", "no limit")] = None,
    sparsify: Annotated[float, setting(TrainingConfig, "sparsify")] = 0.0,
    holdout: Annotated[
        float | None,
        Parameter(group="Data", show_default="0.2; 0.3 of a table; 0.1 of pictures"),
    ] = None,
    size: Annotated[int | None, _PICTURES, Whole] = None,
    mode: Annotated[str | None, _PICTURES] = None,
    columns: Annotated[str | None, _TABLES] = None,
    missing: Annotated[str | None, _TABLES] = None,
    thousands: Annotated[str | None, _TABLES] = None,
    scaling: Annotated[str | None, _TABLES] = None,
    without: Annotated[str | None, _TABLES] = None,
    describe: Annotated[bool, Switch, _DATA] = False,
    seed: Annotated[int, Whole] = 0,
    moments: Annotated[int, Whole, within(0, MOST_MOMENTS)] = 0,
    device: Device = "auto",
    quick: Quick = False,
    fresh: Annotated[bool, Switch] = False,
    tensorboard: Annotated[bool, Switch] = False,
    out: Out = None,
) -> None:
    """Trains one denoiser and judges it.

    Args:
        data: A file of rows (.csv, .csv.gz, .tsv, .parquet, .npy), a table or a toy; or pictures:
            digits, shapes, or a folder of them.
        family: Kind of denoiser: kan, mlp, spline-mlp, modulated-kan, ...; of pictures unet-kan,
            dit, ...; kan, or unet-kan of pictures, where it is left out.
        depth: Hidden layers; as suits the family and the table where it is left out.
        process: Noising process, such as cosine, ddpm or flow; cosine, or flow of pictures, where
            it is left out.
        holdout: Fraction of the rows of a file or table, or of pictures, kept to judge with.
        size: Pixels of a side; 8 of digits, 16 of shapes, 32 of a folder where it is left out.
        mode: Channels: L (grey) or RGB; as the pictures are where it is left out.
        columns: Kinds of columns: zip=category,day=date:%m/%d/%Y; found by default.
        missing: Words for gaps in a text file, such as '?,unknown'.
        thousands: Mark of thousands in the numbers of a text file, such as ','.
        scaling: What numbers become: normal, their normal scores, or standard, (x - mean) / std, of
            which formulas can be read; standard for readable-kan where it is left out.
        without: Rules of a table that rows need not keep, such as 'start<=end,a+b=c'.
        describe: Show the kinds of the columns, or what pictures there are, and train nothing.
        seed: Seed of all randomness.
        moments: How many moments of training to record, beside its end, for 'report' to show.
        fresh: Delete the run that is in the folder and start anew.
        tensorboard: Log the loss for TensorBoard.
    """
    started = time.monotonic()
    say_loading(data)
    from kan_diffusion.data.sources import data_from_name

    source = data_from_name(
        data,
        kinds=_kinds(columns),
        missing=listed(missing),
        thousands=thousands,
        scaling=scaling,
        without=listed(without),
        holdout=holdout,
        size=size,
        mode=mode,
    )
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
    config = single_trial(
        source,
        family=family,
        params=params,
        depth=depth,
        process=process,
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=lr,
        max_seconds=max_seconds,
        seed=seed,
        sparsify=sparsify,
    )
    judged: dict[str, object] = {"effort": "quick"} if quick else {}
    if moments:
        judged["moments"] = tuple(number / moments for number in range(moments))
    evaluation = config.evaluation.model_copy(update=judged)
    config = config.model_copy(update={"evaluation": evaluation})
    folder = out or Path("runs/train") / f"{config.data.name}-{config.model.family}"
    if is_main_process():
        prepare_trial_folder(folder, config, fresh=fresh)
    warn(signal_warning(config.process))
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


def sample(
    runs: list[Path],
    /,
    *,
    num: Annotated[int | None, Whole, within(1, MOST_VALUES)] = None,
    steps: SamplerSteps = None,
    scheduler: str | None = None,
    where: Annotated[list[str] | None, _TABLES, Several] = None,
    like: Annotated[Path | None, _TABLES] = None,
    max_seconds: Annotated[float | None, _TABLES, within(None, MOST_SECONDS)] = None,
    prompt: Annotated[list[str] | None, _PICTURES, Several] = None,
    of_class: Annotated[
        list[str] | None, Parameter(name="--class", group="Pictures", negative="")
    ] = None,
    guidance: Annotated[float | None, _PICTURES, within(0, MOST_GUIDANCE)] = None,
    animate: Annotated[Path | None, Parameter(group="Animation")] = None,
    seed: Annotated[int, Whole] = 0,
    device: Device = "auto",
    out: Path | None = None,
    overwrite: Overwrite = False,
    modules: Modules = None,
) -> None:
    """Draws samples from a run.

    Args:
        runs: Folder of a finished run; several with --animate.
        num: Number of rows, or of pictures for each prompt or class; 1000, as many as --like, or 16
            pictures where it is left out.
        scheduler: dpm-solver++, ddpm, ddim, heun, unipc; of flow matching flow-heun, flow-euler.
            dpm-solver++ or flow-heun where it is left out.
        where: What a column must be, such as species=setosa, 1.0<=length<=1.5, or 'species in
            setosa, virginica'; may be given several times.
        like: File of rows with some of the columns; the others are drawn for each.
        max_seconds: Seconds that the search for rows within ranges and lists of --where may take; a
            number of draws where it is left out.
        prompt: What a picture shall show; may be given several times.
        of_class: Class of pictures, by its name; may be given several times.
        guidance: Strength of guidance towards prompt or class, 1 is none; as the run was judged
            where it is left out.
        animate: Write the way from noise to points instead of rows: a .gif or .html, of 60
            steps even in time unless --steps is given.
        seed: Seed of the noise.
        out: File to write: .csv, .csv.gz, .tsv, .parquet or .npy; of pictures a folder. In the
            run's folder samples.csv, then samples-2.csv, ..., or pictures, where it is left out.
    """
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
        _animate(runs, animate, asked, num, steps, scheduler, seed, device, overwrite)
        return
    if len(runs) > 1:
        raise KanDiffusionError(
            f"rows are drawn from one run, not from {len(runs)}; with --animate they are shown "
            "side by side"
        )
    (run,) = runs
    without_bars()
    config, pipeline = load_run(run)
    task = task_of(config.data)
    task.require_asked(asked, str(run))
    if out is not None:
        task.require_place(out)
    if guidance is None and (prompt or of_class):
        asked = replace(asked, guidance=config.sampling.guidance)
    pipeline.scheduler = make_scheduler(scheduler, pipeline.process)
    warn(signal_warning(pipeline.process))
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
    without_bars()
    movers = [mover_of_run(run) for run in runs]
    for mover in movers:
        task_of(mover.data).require_asked(asked, mover.source)
        warn(signal_warning(mover.pipeline.process))
        mover.pipeline.to(resolve_device(device))
    with new_output(path, overwrite=overwrite) as output:
        motion = animate(movers, asked, num=num, steps=steps, scheduler=scheduler, seed=seed)
        words = ", ".join([*asked.prompts, *asked.classes]) or task_of(movers[0].data).noun
        said = write_motion(motion, output.temporary, f"From noise to {words}")
    TextConsole().say(said.replace(str(output.temporary), str(path)))


def impute(
    run: Run,
    data: Path,
    /,
    *,
    out: Path,
    draws: Annotated[int, Whole, within(1, MOST_POINTS)] = 1,
    steps: Annotated[int, Whole, within(1), Parameter(help="Steps of the sampler.")] = 20,
    seed: Annotated[int, Whole] = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    modules: Modules = None,
) -> None:
    """Fills the gaps of rows.

    Args:
        data: File of rows with gaps, of all columns.
        out: File to write: .csv, .csv.gz, .tsv, .parquet or .npy.
        draws: Fillings of each gap; if several, column 'draw' has their number.
        seed: Seed of the noise.
    """
    from kan_diffusion.data.frames import require_writable_ending
    from kan_diffusion.devices import resolve_device
    from kan_diffusion.files import new_output
    from kan_diffusion.randomness import torch_generator
    from kan_diffusion.study.measure import load_run
    from kan_diffusion.study.tasks import task_of

    require_writable_ending(out)
    without_bars()
    config, pipeline = load_run(run)
    generator = torch_generator("gaps", seed)
    with new_output(out, overwrite=overwrite) as output:
        pipeline.to(resolve_device(device))
        filled = task_of(config.data).fill(pipeline, data, draws, steps, generator)
        filled.write(output.temporary)
    TextConsole().say(f"{filled.words}: {out}")


def evaluate(
    run: Run,
    /,
    *,
    data: str | None = None,
    out: Path | None = None,
    modules: Modules = None,
) -> None:
    """Judges a run.

    Args:
        data: A file or toy to judge with; the run's own data where it is left out.
        out: Page to write, of a run of a table; tables.html in the run's folder where it is left
            out.
    """
    from kan_diffusion.cli.console import show_judged, show_scores
    from kan_diffusion.cli.progress import show_phases
    from kan_diffusion.files import require_writable
    from kan_diffusion.report.views import view_of
    from kan_diffusion.study.folder import load_trial
    from kan_diffusion.study.measure import evaluate_run

    without_bars()
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


def explain(
    run: Run,
    /,
    *,
    simplify: bool = True,
    library: str | None = None,
    tolerance: Annotated[float, within(0)] = 1e-3,
    seconds: Annotated[float, within(1, MOST_SECONDS)] = 600.0,
    num: Annotated[int, Whole, within(0, MOST_POINTS)] = 5000,
    out: Path | None = None,
    modules: Modules = None,
) -> None:
    """Explains a run.

    Args:
        simplify: Prune and straighten edges, and look for formulas.
        library: Functions to try, such as linear,tanh,sin; package.module:NAME for your own; all
            where it is left out.
        tolerance: By how much the loss may rise, stage by stage.
        seconds: Seconds that the whole search may take.
        num: Points to generate from each stage; 0 for none.
        out: Folder to write; explanation in the run's folder where it is left out.
    """
    import torch

    from kan_diffusion.cli.console import show_standings
    from kan_diffusion.cli.progress import show_phases
    from kan_diffusion.denoisers.library import LIBRARY, get_functions
    from kan_diffusion.files import inside, require_writable
    from kan_diffusion.formulas.explain import ExplainOptions, explain_run
    from kan_diffusion.report.explanation import write_explanation

    torch.set_num_threads(1)  # at these sizes a second thread makes a step slower
    without_bars()
    names = listed(library)
    functions = dict(LIBRARY) if names is None else get_functions(names, importing=True)
    options = ExplainOptions(
        prune=ExplainOptions.prune if simplify else None,
        library=functions,
        tolerance=tolerance,
        seconds=seconds,
        num_samples=num,
    )
    folder = out or inside(run, "explanation")
    require_writable(folder)
    with show_phases(f"explaining {run}") as on_progress:
        explanation = explain_run(
            run, folder, options, command=command_line(), on_progress=on_progress
        )
        on_progress("drawing", "pictures and page", 0.0)
        page = write_explanation(explanation, folder)
    show_standings(explanation)
    for sentence in explanation.sentences:
        TextConsole().say(sentence)
    TextConsole().say(f"\nExplanation: {page}")


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
