"""Commands on single runs: train, sample, impute, evaluate, explain."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from pydantic import AfterValidator, Field

from kan_diffusion import limits
from kan_diffusion.cli import options
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.progress import TextConsole, TrainingBar, progress_bars
from kan_diffusion.ranks import is_main_process
from kan_diffusion.settings import SampleSize
from kan_diffusion.training.config import OptimizerName, TrainingConfig

if TYPE_CHECKING:
    from kan_diffusion.study.tasks import Asked

_TRAINING = TrainingConfig.model_fields
_MODEL, _TABLES, _PICTURES = (Parameter(group=name) for name in ("Model", "Tables", "Pictures"))


def _kinds(parts: list[str] | None) -> object:
    """Parses kinds of columns such as ``age=number``."""
    if parts is None:
        return None
    kinds: dict[str, str] = {}
    for part in parts:
        name, sign, kind = part.rpartition("=")
        if not sign:
            raise KanDiffusionError(
                f"--columns has '{part}', which is no kind of a column such as age=number"
            )
        if name.strip() in kinds:
            raise KanDiffusionError(f"--columns names '{name.strip()}' twice; keep one")
        kinds[name.strip()] = kind.strip()
    return kinds


class TrainOptions(options.Options):
    """Options of train."""

    family: Annotated[str | None, _MODEL] = None
    """Kind of denoiser: kan, mlp, spline-mlp, modulated-kan, ...; of pictures unet-kan, dit, ..."""
    params: Annotated[int | None, _MODEL] = Field(None, ge=1, le=limits.MOST_PARAMETERS)
    """Trainable parameters, at most; of pictures within 2 %."""
    depth: Annotated[int | None, _MODEL] = Field(None, ge=1, le=limits.MOST_LAYERS)
    """Hidden layers."""
    process: Annotated[str | None, _MODEL] = None
    """Noising process, such as cosine, ddpm or flow; cosine, or flow of pictures, by default."""
    steps: Annotated[int | None, _TRAINING["steps"]] = None
    batch_size: Annotated[int | None, _TRAINING["batch_size"]] = None
    optimizer: Annotated[OptimizerName | None, _TRAINING["optimizer"]] = None
    learning_rate: Annotated[float | None, _TRAINING["learning_rate"], Parameter("--lr")] = None
    max_seconds: Annotated[float | None, _TRAINING["max_seconds"]] = None
    sparsify: Annotated[float, _TRAINING["sparsify"]] = 0.0
    seed: int = 0
    """Seed of all randomness."""
    describe: options.Switch = False
    """Show the kinds of the columns, or what pictures there are, and train nothing."""
    moments: int = Field(0, ge=0, le=limits.MOST_MOMENTS)
    """How many moments of training to record, beside its end, for 'report' to show."""
    device: options.Device = "auto"
    quick: options.Switch = False
    """Train on rows for half a minute, and judge by few points, samples and trees, for a first
    look; the same command without it judges again."""
    fresh: options.Switch = False
    """Delete the run that is in the folder and start anew."""
    tensorboard: options.Switch = False
    """Log the loss for TensorBoard."""
    out: options.Out = None


class DataOptions(options.Options):
    """Options of train that are settings of the data, each of some kinds of them."""

    holdout: float | None = None
    """Fraction of rows or pictures kept to judge with; by default 0.2; 0.3 of a table; 0.1 of
    pictures."""
    size: Annotated[int | None, _PICTURES] = None
    """Pixels of a side; by default 8 of digits, 16 of shapes, 32 of a folder."""
    mode: Annotated[str | None, _PICTURES] = None
    """Channels: L (grey) or RGB; by default as the pictures are."""
    kinds: Annotated[options.Names, AfterValidator(_kinds), Parameter("--columns"), _TABLES] = None
    """Kinds of columns: zip=category,day=date:%m/%d/%Y; found by default."""
    missing: Annotated[options.Names, _TABLES] = None
    """Words for gaps in a text file, such as '?,unknown'; of a dash --missing=-."""
    thousands: Annotated[str | None, _TABLES] = None
    """Mark of thousands in the numbers of a text file, such as ','."""
    scaling: Annotated[str | None, _TABLES] = None
    """What numbers become: normal, their normal scores, or standard, (x - mean) / std, of which
    formulas can be read; for readable-kan standard by default."""
    without: Annotated[options.Names, _TABLES] = None
    """Rules of a table that rows need not keep, such as 'start<=end,a+b=c'."""


def train(
    data: str,
    /,
    *,
    given: TrainOptions = TrainOptions(),
    of_data: Annotated[DataOptions, Parameter(group="Data")] = DataOptions(),
) -> None:
    """Train one denoiser on your rows or pictures or on a toy, and judge it.

    What is left out suits the table or pictures; of a toy it is a KAN of 2300 parameters, 2500
    steps and batches of 2048. The same command goes on where it was interrupted. For example:

    - `kan-diffusion train people.csv --out runs/people`
    - `kan-diffusion train people.csv --describe`: the kinds of its columns
    - `kan-diffusion train people.csv --columns 'age=number,zip=category'`
    - `kan-diffusion train two-spirals --family mlp --steps 2000 --lr 0.01`
    - `kan-diffusion train digits --out runs/digits`: pictures, by prompts, in a minute or two
    - `kan-diffusion train two-modes --family readable-kan --params 153 --sparsify 0.001`

    Args:
        data: A file of rows (.csv, .csv.gz, .tsv, .parquet, .npy), a table or a toy; or pictures:
            digits, shapes, or a folder of them.
    """
    started = time.monotonic()
    options.say_loading(data)
    from kan_diffusion.data.sources import data_from_name

    source = data_from_name(data, **dict(of_data))
    if given.describe:
        TextConsole().say(source.describe(given.seed))
        return
    import torch  # takes seconds, as does what follows: a file is read and refused before

    from kan_diffusion import files, processes
    from kan_diffusion.cli import console
    from kan_diffusion.cli.progress import known_floor
    from kan_diffusion.study import folder as folders
    from kan_diffusion.study import named, tasks, trial
    from kan_diffusion.training.callbacks import TensorBoard

    task, limit = tasks.task_of(source), given.max_seconds
    short = task.quick_seconds or 0.0  # of rows alone
    if given.quick and given.steps is None:
        limit = limit or task.quick_seconds
    # Where training is short, judging is to be short, too.
    quick = given.quick or (limit is not None and limit <= 2 * short)
    config = named.single_trial(source, **given.of(named.single_trial) | {"max_seconds": limit})
    judged: dict[str, object] = {"effort": "quick"} if quick else {}
    judged["moments"] = tuple(number / given.moments for number in range(given.moments))
    evaluation = config.evaluation.model_copy(update=judged)
    config = config.model_copy(update={"evaluation": evaluation})
    folder = given.out or Path("runs/train") / f"{config.data.name}-{config.model.family}"
    if is_main_process():
        folders.prepare_trial_folder(folder, config, fresh=given.fresh)
    options.warn(processes.signal_warning(config.process))
    floor = known_floor(config.data, config.process)
    torch.set_num_threads(1)  # as in a study, so that a run of its seed ends with the same bits
    logs = [TensorBoard(files.inside(folder, "tensorboard"))] if given.tensorboard else []
    with progress_bars() as bars:
        result = trial.run_trial(
            config,
            folder,
            device=given.device,
            spent_seconds=time.monotonic() - started,
            on_progress=TrainingBar(bars, config.label, config.training.steps, floor).move,
            callbacks=logs,
        )
    if not is_main_process():
        return
    if result.row["error"] is not None:
        raise KanDiffusionError(str(result.row["error"]))
    console.show_scores(result.row, f"{config.model.name} on {config.data.name}", config.data)
    if result.config.evaluation.effort == "quick":
        well = "without --quick judges it well"
        if short and limit is not None:
            well = "with --fresh, and without --quick or so short a time, trains it well"
        TextConsole().say(f"A first look, by few {task.noun}; the same command {well}.")
    words = ["kan-diffusion", "sample", str(folder), "--num", str(task.num)]
    module, own, _ = config.model.family.partition(":")
    words += ["--import", module] if own else []
    TextConsole().say(f"\nRun: {folder}\nSample from it: {shlex.join(words)}")


class DrawOptions(options.RunOptions):
    """Options of drawing from a run."""

    seed: int = 0
    """Seed of the noise."""
    device: options.Device = "auto"
    overwrite: options.Switch = False
    """Replace the file, or pictures of the same names."""


class SampleOptions(DrawOptions):
    """Options of sample."""

    where: Annotated[options.Several, _TABLES] = ()
    """What a column must be, such as species=setosa, 1.0<=length<=1.5, or 'species in setosa,
    virginica'; may be given several times."""
    like: Annotated[Path | None, _TABLES] = None
    """File of rows with some of the columns; the others are drawn for each."""
    max_seconds: Annotated[float | None, _TABLES] = Field(None, le=limits.MOST_SECONDS)
    """Seconds that the search for rows within ranges and lists of --where may take."""
    prompts: Annotated[options.Several, Parameter("--prompt"), _PICTURES] = ()
    """What a picture shall show; may be given several times."""
    classes: Annotated[options.Several, Parameter("--class"), _PICTURES] = ()
    """Class of pictures, by its name; may be given several times."""
    guidance: Annotated[float | None, _PICTURES] = Field(None, ge=0, le=limits.MOST_GUIDANCE)
    """Strength of guidance towards prompt or class, 1 is none; by default as the run was judged."""
    num: int | None = Field(None, ge=1, le=limits.MOST_VALUES)
    """Number of rows, or of pictures for each prompt or class; by default 1000, or 16 pictures."""
    steps: int | None = Field(None, ge=1)
    """Steps of the sampler; by default as the run was judged with, for ddpm all timesteps."""
    scheduler: str | None = None
    """dpm-solver++ (the default), ddpm, ddim, heun, unipc; of flow matching flow-heun (the
    default), flow-euler."""
    animate: Path | None = None
    """Write the way from noise to points instead of rows: a .gif or .html, of 60 steps even in time
    unless --steps is given."""
    out: Path | None = None
    """File to write: .csv, .csv.gz, .tsv, .parquet or .npy; of pictures a folder. By default
    samples.csv in the run's folder, then samples-2.csv, ..., or pictures."""


def sample(runs: list[Path], /, *, given: SampleOptions = SampleOptions()) -> None:
    """Draw rows from a trained run, in the data's own units, under conditions; or pictures.

    For example:

    - `kan-diffusion sample runs/mine --num 1000`: into runs/mine/samples.csv
    - `kan-diffusion sample runs/iris --where 'species=setosa' --where '1.0<=petal length<=1.5'`
    - `kan-diffusion sample runs/people --like some.csv`: a row for each, its cells kept
    - `kan-diffusion sample runs/mine --scheduler heun --steps 30 --out samples.parquet`
    - `kan-diffusion sample runs/digits --prompt 'a seven' --num 16 --guidance 2 --out sevens`: PNG
      files and a contact sheet
    - `kan-diffusion sample runs/kan runs/mlp --animate both.gif`: how points come about, side by
      side from the same noise

    Args:
        runs: Folder of a finished run; several with --animate.
    """
    from kan_diffusion import devices, files, processes, randomness
    from kan_diffusion.data.frames import require_writable_ending
    from kan_diffusion.diffusion.sampling import make_scheduler
    from kan_diffusion.study import tasks, trial

    asked = tasks.Asked(**given.of(tasks.Asked))
    if given.animate is not None:
        if given.where or given.like or given.max_seconds is not None or given.out:
            raise KanDiffusionError(
                "--animate draws whole rows and writes its own file; leave --where, --like, "
                "--max-seconds and --out out"
            )
        _animate(runs, given.animate, asked, given)
        return
    run, *others = runs
    if others:
        raise KanDiffusionError(
            f"rows are drawn from one run, not from {len(runs)}; with --animate they are shown "
            "side by side"
        )
    config, pipeline = trial.load_run(run)
    task = tasks.task_of(config.data)
    task.require_asked(asked, str(run))
    if given.out is not None and Path(task.file).suffix:  # pictures have a folder
        require_writable_ending(given.out)
    if asked.guidance is None and asked.requests:
        asked = replace(asked, guidance=config.sampling.guidance)
    pipeline.scheduler = make_scheduler(given.scheduler, pipeline.process)
    options.warn(processes.signal_warning(pipeline.process))
    usual = config.sampling.steps
    steps = given.steps or (pipeline.process.num_timesteps if given.scheduler == "ddpm" else usual)
    path, numbered = given.out or run / task.file, given.out is None and not given.overwrite
    with files.new_output(path, overwrite=given.overwrite, numbered=numbered) as output:
        pipeline.to(devices.resolve_device(given.device))
        generator = randomness.torch_generator("samples", given.seed)
        drawn = task.draw(pipeline, asked, given.num, steps, generator)
        drawn.write(output.temporary)
    TextConsole().say(f"{drawn.words}: {output.path}")


def _animate(runs: Sequence[Path], path: Path, asked: Asked, given: SampleOptions) -> None:
    """Writes the reverse processes of runs side by side."""
    from kan_diffusion import devices, files, processes
    from kan_diffusion.report import motion, views
    from kan_diffusion.study.tasks import task_of

    motion.require_ending(path)
    movers = [views.mover_of_run(run) for run in runs]
    for mover in movers:
        task_of(mover.data).require_asked(asked, mover.source)
        options.warn(processes.signal_warning(mover.pipeline.process))
        mover.pipeline.to(devices.resolve_device(given.device))
    with files.new_output(path, overwrite=given.overwrite) as output:
        moving = views.animate(movers, asked, **given.of(views.animate))
        words = ", ".join(asked.requests) or task_of(movers[0].data).noun
        said = motion.write_motion(moving, output.temporary, f"From noise to {words}")
    TextConsole().say(said.replace(str(output.temporary), str(path)))


class ImputeOptions(DrawOptions):
    """Options of impute."""

    out: Path
    """File to write: .csv, .csv.gz, .tsv, .parquet or .npy."""
    draws: int = Field(1, ge=1, le=limits.MOST_POINTS)
    """Fillings of each gap; if several, column 'draw' has their number."""
    steps: int = Field(20, ge=1)
    """Steps of the sampler."""


def impute(run: options.Run, data: Path, /, *, given: ImputeOptions) -> None:
    """Fill the gaps of rows with what a trained run thinks likely; all other cells stay.

    For example:

    - `kan-diffusion impute runs/people gaps.csv --out filled.csv`
    - `kan-diffusion impute runs/people gaps.csv --draws 20 --out filled.parquet`: twenty fillings,
      whose spread says how sure they are

    Args:
        data: File of rows with gaps, of all columns.
    """
    from kan_diffusion import devices, files, randomness
    from kan_diffusion.data.frames import require_writable_ending
    from kan_diffusion.study import tasks, trial

    require_writable_ending(given.out)
    config, pipeline = trial.load_run(run)
    task, generator = tasks.task_of(config.data), randomness.torch_generator("gaps", given.seed)
    asked = tasks.Asked(fill=data, fillings=given.draws)
    task.require_asked(asked, str(run))
    with files.new_output(given.out, overwrite=given.overwrite) as output:
        pipeline.to(devices.resolve_device(given.device))
        filled = task.draw(pipeline, asked, None, given.steps, generator)
        filled.write(output.temporary)
    TextConsole().say(f"{filled.words}: {given.out}")


class EvaluateOptions(options.RunOptions):
    """Options of evaluate."""

    data: str | None = None
    """What to judge with: of a table a file of the same columns, of points a toy; by default the
    run's own data."""
    out: Path | None = None
    """Page to write, of a run of a table; by default tables.html in the run's folder."""


def evaluate(run: options.Run, /, *, given: EvaluateOptions = EvaluateOptions()) -> None:
    """Judge a trained run: loss and sample metrics; of a table also its rows, on a page.

    For example:

    - `kan-diffusion evaluate runs/mine`: with the rows that were held out
    - `kan-diffusion evaluate runs/people --data real.csv --out people.html`
    """
    from kan_diffusion.cli import console, progress
    from kan_diffusion.files import require_writable
    from kan_diffusion.report.views import view_of
    from kan_diffusion.study import trial

    if given.out is not None:
        require_writable(given.out.parent)
    row, used = trial.evaluate_run(run, given.data)
    source = trial.trained_run(run).config.data
    console.show_scores(row, f"{run} on {used}", source)
    with progress.show_phases(f"judging {run}") as show:
        page = view_of(source).page(run, given.data, given.out, on_progress=show)
    if page is not None:
        console.show_judged(page, f"Synthetic rows of {run} beside real ones")
        TextConsole().say(f"\nPage: {page.path}")


class ExplainOptions(options.RunOptions):
    """Options of explain."""

    simplify: Annotated[bool, Parameter(negative="--no-simplify")] = True
    """Prune and straighten edges, and look for formulas."""
    library: options.Names = None
    """Functions to try, such as linear,tanh,sin or your own package.module:NAME; by default all."""
    tolerance: float = Field(1e-3, ge=0)
    """By how much the loss may rise, stage by stage."""
    seconds: float = Field(600.0, ge=1, le=limits.MOST_SECONDS)
    """Seconds that the whole search may take."""
    num: SampleSize = 5000
    """Points to generate from each stage; 0 for none."""
    out: Path | None = None
    """Folder to write; by default explanation in the run's folder."""


def explain(run: options.Run, /, *, given: ExplainOptions = ExplainOptions()) -> None:
    """Look into a KAN: its edges, what can be left out, and formulas for its score.

    Edges can be read in the families readable-kan, full-kan and modulated-kan, not in kan. For
    example:

    - `kan-diffusion train two-modes --family readable-kan --params 153 --sparsify 0.001 --out
      runs/two-modes`, then
    - `kan-diffusion explain runs/two-modes`: pictures, formulas, programs
    - `kan-diffusion explain runs/mine --library linear,tanh,sin --seconds 60`
    - `kan-diffusion explain runs/mine --no-simplify`: look at the network as it is
    - `kan-diffusion sample runs/two-modes/explanation/formula`: sample from the formula
    """
    import torch

    from kan_diffusion import files
    from kan_diffusion.cli import console, progress
    from kan_diffusion.denoisers.library import LIBRARY, get_functions
    from kan_diffusion.formulas import explain as explaining
    from kan_diffusion.report.explanation import write_explanation

    torch.set_num_threads(1)  # at these sizes a second thread makes a step slower
    names = given.library
    functions = dict(LIBRARY) if names is None else get_functions(names, importing=True)
    usual = explaining.ExplainOptions()
    settings = replace(
        usual,
        prune=usual.prune if given.simplify else None,
        library=functions,
        tolerance=given.tolerance,
        seconds=given.seconds,
        num_samples=given.num,
    )
    folder = given.out or files.inside(run, "explanation")
    files.require_writable(folder)
    with progress.show_phases(f"explaining {run}") as on_progress:
        explanation = explaining.explain_run(
            run, folder, settings, command=options.command_line(), on_progress=on_progress
        )
        on_progress("drawing", "pictures and page", 0.0)
        page = write_explanation(explanation, folder)
    console.show_standings(explanation)
    for sentence in explanation.sentences:
        TextConsole().say(sentence)
    TextConsole().say(f"\nExplanation: {page}")
