"""Commands on studies: compare, tune, report."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from pydantic import Field

from kan_diffusion.cli import options
from kan_diffusion.errors import KanDiffusionError, listed
from kan_diffusion.limits import MOST_PARAMETERS, MOST_TRIALS, MOST_WORKERS
from kan_diffusion.progress import TextConsole, progress_bars
from kan_diffusion.training.config import TrainingConfig

if TYPE_CHECKING:
    from kan_diffusion.study.config import StudyConfig
    from kan_diffusion.study.executors import Executor

What = Annotated[
    str,
    Parameter(
        help="A built-in study (swiss-roll, notebook), a study file (.yaml), a toy, a table of "
        "scikit-learn's (iris, wine, breast-cancer, diabetes), a file of rows (.csv, .csv.gz, "
        ".tsv, .parquet, .npy); or pictures: digits, shapes, or a folder of them."
    ),
]


_MODELS = Parameter(group="Models")


class StudyOptions(options.RunOptions):
    """Options of a study that is trained, here or on a cluster."""

    match: Annotated[str | None, _MODELS] = None
    """Resource held equal: params (the default), flops (operations of a forward pass for one point)
    or time (processor seconds of training)."""
    budget: Annotated[str | None, _MODELS] = None
    """Amount of it: a number, or a model such as mlp:32-32-32 to be like."""
    families: Annotated[options.Names, _MODELS] = None
    """Families, such as kan,mlp; 'all' for all there are; package.module:NAME for your own."""
    params: Annotated[int | None, _MODELS] = Field(None, ge=1, le=MOST_PARAMETERS)
    """Parameters of each model; 2300, or as suits pictures, by default."""
    steps: Annotated[int | None, TrainingConfig.model_fields["steps"]] = None
    data: options.Names = None
    """Of a study with several data sets, those to use."""
    device: options.Device = "auto"
    workers: int | None = Field(None, ge=1, le=MOST_WORKERS)
    """Trials side by side; one per core by default."""
    executor: str = "local"
    """Where trials run: local or ray."""
    address: str | None = None
    """Address of a running Ray cluster; without it one is started on this machine."""
    out: options.Out = None

    def study(self, what: str) -> StudyConfig:
        """Makes the study that the user names."""
        from kan_diffusion.study.named import study_for

        config = study_for(what, **self.of(study_for))
        config = config if self.steps is None else config.with_steps(self.steps)
        return config.only(data=self.data)

    def run_by(self) -> Executor:
        """Makes the executor of its trials."""
        from kan_diffusion.study.executors import get_executor

        return get_executor(self.executor, **self.of(get_executor))


class CompareOptions(StudyOptions):
    """Options of compare."""

    tuned: Annotated[Path | None, _MODELS] = None
    """Settings of the families, as 'tune' writes them."""
    process: str | None = None
    """Noising process, such as cosine, ddpm or flow; the study's by default."""
    seeds: int | None = Field(None, ge=1, le=MOST_TRIALS)
    """Trials per model."""
    quick: options.Switch = False
    """Judge by few points, samples and trees, for a first look; the same command without it judges
    again and trains nothing again."""


class TuneOptions(StudyOptions):
    """Options of tune."""

    tries: int = Field(12, ge=1, le=MOST_TRIALS)
    """Tries per family, equally many for all."""
    optimizers: options.Names = None
    """Optimisers to choose from, such as adam,soap,muon; that of the study by default."""


def compare(what: What, /, *, given: CompareOptions = CompareOptions()) -> None:
    """Train KAN and MLP denoisers side by side and report who denoises better.

    Finished trials are kept: the same command goes on where it was interrupted. For example:

    - `kan-diffusion compare swiss-roll`: the default study, two minutes on two cores
    - `kan-diffusion compare points.csv --match params --budget 2300`: the answer for your data
    - `kan-diffusion compare wine --families all --seeds 10`
    - `kan-diffusion compare moons --match time --budget 6 --families kan,mlp`
    - `kan-diffusion compare moons --match flops --budget mlp:32-32-32 --process flow`
    - `kan-diffusion compare digits`: pictures by prompts, plain and KAN transformers and U-Nets
    - `kan-diffusion compare study.yaml --executor ray --address auto --out /shared/mine`
    """
    options.say_loading(what)
    from kan_diffusion.cli import console
    from kan_diffusion.cli.progress import StudyProgress
    from kan_diffusion.processes import signal_warning
    from kan_diffusion.report.study import write_report
    from kan_diffusion.study import tuning
    from kan_diffusion.study.results.rows import Results
    from kan_diffusion.study.results.verdicts import decide
    from kan_diffusion.study.run import run_study

    config = given.study(what)
    if given.tuned is not None:
        config = tuning.apply_tuned(config, tuning.read_tuned(given.tuned))
    if given.quick:
        evaluation = config.evaluation.model_copy(update={"effort": "quick"})
        config = config.model_copy(update={"evaluation": evaluation})
    folder = given.out or Path("runs") / config.name
    options.warn(signal_warning(config.process))
    with progress_bars() as bars:
        progress = StudyProgress(config.name, folder, bars)
        results = run_study(
            config,
            folder,
            executor=given.run_by(),
            on_plan=progress.start,
            on_event=progress.move,
        )
        progress.draw()
        page = write_report(results, folder, options.command_line())
    judged = results.config  # as fully as before, where that was more than is asked now
    rows = Results.of(results.rows, judged.evaluation.metrics, judged.data)
    console.show_summary(rows)
    console.show_conclusions(decide(rows))
    TextConsole().say(f"\nReport: {page}")
    failed = rows.rows[rows.rows["failed"]]
    if len(failed):
        first = failed.iloc[0]
        raise KanDiffusionError(
            f"{len(failed)} of {len(rows.rows)} trials failed, the first ('{first['name']}', "
            f"seed {first['seed']}) with: {first['error']}"
        )


def tune(what: What, /, *, given: TuneOptions = TuneOptions()) -> None:
    """Search good settings for each family, with the same effort for all of them.

    Tunes on seeds that no comparison uses, at the budget of the study. The same command goes on
    where it was interrupted. For example:

    - `kan-diffusion tune points.csv --tries 12 --out runs/tuned`, then
    - `kan-diffusion compare points.csv --tuned runs/tuned/tuned.json`
    - `kan-diffusion tune study.yaml --data moons,circles`: on some of its data sets
    """
    options.say_loading(what)
    from kan_diffusion.cli.console import show_tuned
    from kan_diffusion.cli.progress import StudyProgress
    from kan_diffusion.study import tuning

    config = given.study(what)
    folder = given.out or Path("runs") / f"{config.name}-tuning"
    with progress_bars() as bars:
        progress = StudyProgress(f"tuning {config.name}", folder, bars)
        tuned = tuning.tune(
            config,
            folder,
            tries=given.tries,
            optimizers=given.optimizers or (),
            executor=given.run_by(),
            on_plan=progress.start,
            on_event=progress.move,
        )
    show_tuned(tuned)
    shared = given.model_dump(include={"match", "budget", "params", "families", "data", "steps"})
    words = [
        f"--{name}={','.join(value) if isinstance(value, list) else value}"
        for name, value in shared.items()
        if value is not None
    ]
    use = ["kan-diffusion", "compare", what, *words, "--tuned", str(tuned.path)]
    TextConsole().say(f"\nSettings: {tuned.path}\nUse them: {shlex.join(use)}")


class ReportOptions(options.RunOptions):
    """Options of report."""

    out: Path | None = None
    """Folder to write; the one given, or runs/side-by-side for several, by default."""


def report(runs: list[Path], /, *, given: ReportOptions = ReportOptions()) -> None:
    """Write a study's report again, or one of finished runs side by side.

    For example:

    - `kan-diffusion report runs/swiss-roll`
    - `kan-diffusion report runs/two-modes runs/two-modes/explanation/formula --out runs/both`: a
      network and its formula side by side

    Args:
        runs: Folder of a study, or folders of runs that were judged alike.
    """
    from kan_diffusion.files import require_writable
    from kan_diffusion.report.study import write_report
    from kan_diffusion.study.results.rows import read_runs
    from kan_diffusion.study.run import load_study

    first, *others = runs
    studies = sorted(path.parent for path in first.glob("*/study.yaml"))
    if studies and not any((first / name).exists() for name in ("study.yaml", "trial.json")):
        raise KanDiffusionError(
            f"'{first}' is no study and no run; it holds studies: {listed(studies)}; give one"
        )
    folder = given.out or (Path("runs/side-by-side") if others else first)
    require_writable(folder)
    if not others and (first / "study.yaml").exists():
        words = ["kan-diffusion", "compare", str(first / "study.yaml"), "--out", str(first)]
        page = write_report(load_study(first), folder, shlex.join(words))
    else:
        page = write_report(read_runs(runs), folder, options.command_line(), runs=True)
    TextConsole().say(f"Report: {page}")
