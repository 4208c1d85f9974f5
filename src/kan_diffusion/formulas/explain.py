"""From a finished run to an explanation: simplify, find formulas, judge, view, write.

Beside what :mod:`kan_diffusion.report.explanation` draws, the explanation's folder holds

* ``simplified/``, ``with-formulas/`` and ``formula/``: the stages as runs, which can be sampled and
  evaluated by the same commands as others;
* ``formulas.json``: formulas, edges and the scores of each stage;
* ``formula.tex`` and ``formula.py``, ``network.py``: the same as text and as programs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from kan_diffusion.data.sources import load_dataset
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.edges import CURVE
from kan_diffusion.denoisers.formula import FormulaDenoiser
from kan_diffusion.denoisers.readable import ReadableDenoiser, no_edges, readable
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline, make_scheduler
from kan_diffusion.errors import KanDiffusionError, NonFiniteSamplesError
from kan_diffusion.evaluation.metrics import metrics_named
from kan_diffusion.evaluation.oracles import OracleDenoiser
from kan_diffusion.files import finite, inside, remove_file, write_json, write_text
from kan_diffusion.formulas.combination import compose, score_of
from kan_diffusion.formulas.context import Context, Progress, make_context, tell_nobody
from kan_diffusion.formulas.levels import formula_over_levels
from kan_diffusion.formulas.match import EdgeReport, SearchOptions, find_formulas
from kan_diffusion.formulas.simplify import drop_idle, prune, prune_in_rounds, straighten
from kan_diffusion.formulas.views import (
    LevelView,
    NetworkView,
    ScoreView,
    default_levels,
    level_views,
    score_at,
    view_network,
    view_score,
)
from kan_diffusion.formulas.writing import (
    formula_program,
    level_latex,
    network_program,
    noise_latex,
    score_latex,
)
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.study.folder import (
    RESULT,
    REVERSE,
    TRIALS,
    WEIGHTS,
    Row,
    TrialResult,
    keep_trial,
    load_points,
    load_trial,
    load_weights,
    recorded_steps,
)
from kan_diffusion.study.measure import load_point_run
from kan_diffusion.study.tasks import Reference, require_judge, task_of
from kan_diffusion.study.trial import NUM_PANELS, record_reverse

__all__ = [
    "ExplainOptions",
    "Explained",
    "Explanation",
    "LevelFormula",
    "Moment",
    "Stage",
    "StageJudge",
    "Standing",
    "explain_denoiser",
    "explain_run",
    "explainable_trials",
    "influences",
    "remove_stages",
]

PhaseProgress = Callable[[str, str, float], None]
"""Called with the phase, what was just done, in words, and the share of the phase done."""

STAGES = ("simplified", "with formulas", "formula")
"""Denoisers that an explanation may make of a network, in order."""

_MOVING = 400
"""Number of points in the recorded reverse processes."""
_NO_EFFECT = 0.005
"""Attribution below which edges are removed without a test of the loss."""


@dataclass(frozen=True)
class LevelFormula:
    """The formula at one noise level.

    Attributes:
        level: The noise level.
        score: Coordinates of the score in LaTeX.
        ranges: Range of each coordinate it was checked on, quantiles 0.001 and 0.999, (d, 2).
        error: Root mean square distance of its predicted noise from the network's with formulas.
    """

    level: LevelView
    score: tuple[str, ...]
    ranges: NDArray[np.float64]
    error: float


@dataclass(frozen=True)
class Standing:
    """Scores of one denoiser of the explanation.

    Attributes:
        name: ``"network"``, ``"simplified"``, ``"with formulas"`` or ``"formula"``.
        edges: Number of edges; None for a denoiser without edges.
        constants: Number of parameters that have an effect.
        loss: Held-out loss.
        floor: The oracle's loss; None without one.
        excess: Excess over the oracle; None without one.
        metrics: Sample metrics by name; empty where it was not sampled.
        real: The same metrics between two samples of real points.
        trouble: Reason why it could not be sampled; empty where there is none.
    """

    name: str
    edges: int | None
    constants: int
    loss: float
    floor: float | None
    excess: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    real: Mapping[str, float] = field(default_factory=dict)
    trouble: str = ""


@dataclass(frozen=True)
class Moment:
    """The network at a moment of its training.

    Attributes:
        step: Number of finished steps.
        samples: Standardised points (n, d) that it drew, from the same noise at each moment.
        network: Its edges at one noise level.
    """

    step: int
    samples: NDArray[np.floating]
    network: NetworkView


@dataclass
class Explanation:
    """Everything found out about a trained denoiser, ready to be shown and saved.

    Attributes:
        title: Names of the model and the data.
        columns: Names of the coordinates.
        command: Command that makes this explanation again.
        network: The network as it was trained.
        score: Scores of all stages beside the exact one.
        simplified: The network after pruning and straightening; None where not asked for.
        readable: The network with formulas in place of curves; None where they were not looked for.
        edges: Outcome of the search for each edge of the simplified network.
        standings: Scores of each stage.
        sentences: Findings in words, the most important first.
        formula: Coordinates of the score in LaTeX at all noise levels; None where there is no such
            formula.
        noise: Coordinates of the predicted noise, likewise.
        level_formulas: Formulas at single levels; empty where curves are left.
        samples: Generated points in standardised coordinates, by name; real ones under ``"real"``.
        reverse: States of reverse processes by name, each with shape (times, n, d), at even times
            from noise to samples, all from the same noise; the exact one under ``"exact"``.
        training: Moments of training; empty where none were recorded.
    """

    title: str
    columns: tuple[str, ...]
    command: str
    network: NetworkView
    score: ScoreView
    simplified: NetworkView | None = None
    readable: NetworkView | None = None
    edges: tuple[EdgeReport, ...] = ()
    standings: tuple[Standing, ...] = ()
    sentences: tuple[str, ...] = ()
    formula: tuple[str, ...] | None = None
    noise: tuple[str, ...] | None = None
    level_formulas: tuple[LevelFormula, ...] = ()
    samples: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    reverse: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    training: tuple[Moment, ...] = ()


@dataclass(frozen=True)
class ExplainOptions:
    """Settings of an explanation.

    Attributes:
        prune: Attribution below which edges are removed; None leaves the network as it is, and no
            formulas are looked for.
        formulas: Whether to look for formulas.
        search: Settings of the search for formulas; ``tolerance`` also holds for straightening.
        tune_steps: Steps of training after each stage.
        levels: Timesteps to look at; a few over all noise levels when None.
        num_samples: Number of points to generate from each stage and judge; 0 for none.
        over_levels: Whether to look for one formula over all noise levels.
        level_seconds: Time budget of the search over noise levels.
    """

    prune: float | None = 0.05
    formulas: bool = True
    search: SearchOptions = field(default_factory=SearchOptions)
    tune_steps: int = 1000
    levels: tuple[int, ...] | None = None
    num_samples: int = 5000
    over_levels: bool = True
    level_seconds: float = 120.0


@dataclass(frozen=True)
class Explained:
    """The denoisers behind an explanation, in order; None for those not asked for or not found.

    Attributes:
        network: The network as it was trained.
        simplified: The network after pruning and straightening.
        with_formulas: The network with formulas in place of curves.
        formula: One formula for all noise levels.
        edges: Outcome of the search for each edge.
    """

    network: ReadableDenoiser
    simplified: ReadableDenoiser | None = None
    with_formulas: ReadableDenoiser | None = None
    formula: FormulaDenoiser | None = None
    edges: tuple[EdgeReport, ...] = ()

    def stages(self) -> dict[str, Denoiser]:
        """Gives the denoisers that exist, by name."""
        denoisers = (self.network, self.simplified, self.with_formulas, self.formula)
        named = zip(("network", *STAGES), denoisers, strict=True)
        return {name: denoiser for name, denoiser in named if denoiser is not None}


def explain_denoiser(
    denoiser: Denoiser,
    context: Context,
    options: ExplainOptions | None = None,
    on_progress: PhaseProgress | None = None,
) -> Explained:
    """Simplifies a trained denoiser and looks for formulas.

    Args:
        denoiser: The trained denoiser, which is left as it is.
        context: Its data and process.
        options: Settings; the defaults when None.
        on_progress: Called at every step of the phases "pruning", "lines", "edges", "formulas"
            and "levels".

    Raises:
        KanDiffusionError: It cannot be taken apart, or pruning would cut off an output.
    """
    options = options or ExplainOptions()

    def phase(name: str) -> Progress:
        return partial(on_progress or tell_nobody, name)

    network = readable(denoiser)
    if options.prune is None:
        return Explained(network)
    search, tolerance = options.search, options.search.tolerance
    current = prune_in_rounds(network, context, options.prune, on_progress=phase("pruning"))
    context.tune(current, options.tune_steps, 1e-2)
    if not options.formulas:
        return Explained(network, current)
    if len(current.edges) > search.max_edges:
        phase("formulas")(_too_many(current, search.max_edges), 1.0)
        return Explained(network, current)
    current = straighten(current, context, tolerance=tolerance, on_progress=phase("lines"))
    context.tune(current, options.tune_steps, 1e-2)
    current = drop_idle(current, context, tolerance=tolerance / 10, on_progress=phase("edges"))
    # Remove what is left without any effect, such as units that no edge enters any more.
    simplified = prune(current, context, _NO_EFFECT)
    found = find_formulas(simplified, context, search, phase("formulas"))
    if 0 < found.num_curves < len(found.edges) / 2:
        # With formulas in place, the remaining curves may be straight or easier to match.
        current = found.denoiser
        context.tune(current, options.tune_steps, 5e-3)
        current = straighten(current, context, tolerance=tolerance, on_progress=phase("lines"))
        earlier, found = found, find_formulas(current, context, search, phase("formulas"))
        matched = {(edge.source, edge.target): edge.r2 for edge in earlier.edges if not edge.reason}
        found = replace(
            found,
            edges=tuple(
                replace(edge, r2=matched.get((edge.source, edge.target), edge.r2))
                for edge in found.edges
            ),
        )
    with_formulas = found.denoiser
    context.tune(with_formulas, 2 * options.tune_steps, 5e-3)
    formula = None
    if options.over_levels:
        formula = formula_over_levels(
            with_formulas,
            context,
            tolerance=tolerance,
            seconds=options.level_seconds,
            on_progress=phase("levels"),
        )
    return Explained(network, simplified, with_formulas, formula, found.edges)


def _too_many(denoiser: ReadableDenoiser, most: int) -> str:
    return (
        f"{len(denoiser.edges)} edges are left, more than {most}: no formulas are looked for; take "
        "more away with prune, train with sparsify, or raise max_edges"
    )


@dataclass(frozen=True)
class Stage:
    """A denoiser of an explanation, judged as a study would judge it.

    Attributes:
        denoiser: The denoiser.
        standing: Its scores.
        row: Its row of results; empty where nothing was measured but the loss.
        levels: Its scores by noise level.
        samples: Generated points with shape (n, d), float64; None where there are none.
    """

    denoiser: Denoiser
    standing: Standing
    row: Row
    levels: list[dict[str, float | None]]
    samples: NDArray[np.float64] | None


@dataclass(frozen=True)
class StageJudge:
    """Judges and saves the stages of an explanation as runs.

    Attributes:
        config: Trial of the run that is explained, with settings for the judging.
        pipeline: Pipeline of that run.
        context: Its data and process, to measure the loss where ``shared`` is None.
        shared: Draws that all stages are measured with; None measures the loss alone.
    """

    config: TrialConfig
    pipeline: PointDiffusionPipeline
    context: Context
    shared: Reference | None

    def _pipeline(self, denoiser: Denoiser) -> PointDiffusionPipeline:
        return type(self.pipeline).from_pipe(self.pipeline, denoiser=denoiser)

    def judge(self, name: str, denoiser: Denoiser) -> Stage:
        """Judges a denoiser, by its loss alone where it cannot be sampled."""
        row: Row = {}
        levels: list[dict[str, float | None]] = []
        samples, trouble = None, ""
        if self.shared is not None:
            config, dataset, made = self.config, self.context.dataset, self._pipeline(denoiser)
            task = task_of(config.data)
            try:
                row, levels, samples = task.judge(config, dataset, made, self.shared)
            except KanDiffusionError as error:
                # Far from the data, where a sampler may get, functions such as exp have no bounds.
                trouble = str(error)
                evaluation = config.evaluation.model_copy(update={"num_samples": 0})
                plain = config.model_copy(update={"evaluation": evaluation})
                row, levels, _ = task.judge(plain, dataset, made, self.shared)
        scores = row if row.get("heldout_loss") is not None else vars(self.context.scores(denoiser))
        numbers = {k: float(v) for k, v in scores.items() if isinstance(v, int | float)}
        keys = metrics_named(self.config.evaluation.metrics)
        is_network = isinstance(denoiser, ReadableDenoiser)
        standing = Standing(
            name,
            edges=len(denoiser.edges) if is_network else None,
            constants=denoiser.num_trainable,
            loss=numbers["heldout_loss"],
            floor=numbers.get("floor"),
            excess=numbers.get("excess"),
            metrics={key: numbers[key] for key in keys if key in numbers},
            real={key: numbers[f"{key}_real"] for key in keys if f"{key}_real" in numbers},
            trouble=trouble,
        )
        points = None if samples is None else samples.double().numpy()
        return Stage(denoiser, standing, row, levels, points)

    def save(self, stage: Stage, out: Path) -> None:
        """Saves a stage in an explanation's folder as a run to be sampled, evaluated and reported.

        Its training curve has no steps, since it was made from another run.

        Raises:
            RunFolderError: It cannot be written.
        """
        name, denoiser = stage.standing.name, stage.denoiser
        folder = _place(out, name)
        config = self.config
        model = config.model.model_copy(update={"name": f"{config.model.name}, {name}"})
        trial = config.model_copy(update={"model": model})
        row: Row = {
            **trial.keys,
            "match": None,
            "budget": None,
            "family": "formula" if isinstance(denoiser, FormulaDenoiser) else "readable-kan",
            "kind": "other",
            "stage": name,
            "parameters": denoiser.num_trainable,
            "flops": denoiser.flops,
            "steps": config.training.steps,
            "error": None,
            **stage.row,
        }
        keep_trial(
            TrialResult(trial, row, stage.levels, folder),
            self._pipeline(denoiser),
            pd.DataFrame(columns=["step", "loss", "learning_rate", "heldout_loss"], dtype=float),
            None if stage.samples is None else torch.from_numpy(stage.samples),
        )


def stages_in(out: Path) -> list[Path]:
    """Finds the folders of the stages that an earlier explanation left.

    Raises:
        RunFolderError: One of them is damaged.
    """
    found = []
    for name in STAGES:
        trial = load_trial(_place(out, name))
        if trial is not None and trial.config.model.name.endswith(f", {name}"):
            found.append(trial.folder)
    return found


def remove_stages(out: Path) -> None:
    """Removes files of an earlier explanation that the next one may lack, and nothing else."""
    for folder in stages_in(out):
        remove_file(folder / RESULT)  # first: a half removed run must not count as finished
        shutil.rmtree(folder)
    for name in ("formula.tex", "formula.py", "network.py"):
        (out / name).unlink(missing_ok=True)


def _place(out: Path, name: str) -> Path:
    return inside(out, name.replace(" ", "-"))


def influences(denoiser: ReadableDenoiser) -> NDArray[np.bool_]:
    """Tells which predicted coordinates depend on which coordinates of the points, (d, d)."""
    reached = [{feature.coordinate} for feature in denoiser.input_features()]
    for layer in denoiser.kan_layers:
        after: list[set[int | None]] = [set() for _ in range(layer.out_features)]
        for edge in layer.edges:
            after[edge.output] |= reached[edge.input]
        reached = after
    d = denoiser.data_dim
    return np.array([[i in reached[o] for i in range(d)] for o in range(d)])


def _level_formulas(
    denoiser: ReadableDenoiser, context: Context, timesteps: list[int], columns: tuple[str, ...]
) -> tuple[LevelFormula, ...]:
    """Writes the formulas at single noise levels; none where curves are left."""
    levels = level_views(context.process, timesteps)
    alpha, sigma = (level.numpy()[timesteps] for level in context.process.levels())
    scores = score_of(compose(denoiser, np.array(timesteps)), context.process, alpha, sigma)
    if not all(score.is_complete for score in scores):
        return ()
    points = torch.stack([context.noised(timestep, 2000) for timestep in timesteps])
    x = points.numpy()
    values = np.stack([score.values(x) for score in scores], axis=-1)
    made = []
    for number, level in enumerate(levels):
        learned = score_at(denoiser, context.process, points[number], level)
        error = level.sigma * float(np.sqrt(np.mean((values[number] - learned) ** 2)))
        ranges = np.quantile(x[number], [0.001, 0.999], axis=0).T
        made.append(LevelFormula(level, level_latex(scores, number, columns), ranges, error))
    return tuple(made)


def _sentences(
    explained: Explained,
    standings: Sequence[Standing],
    columns: tuple[str, ...],
    options: ExplainOptions,
    chose_on_heldout: bool,
) -> tuple[str, ...]:
    """Puts the findings into words."""
    by_name = {standing.name: standing for standing in standings}
    found = []

    def quality(name: str) -> str:
        loss, excess = by_name[name].loss, by_name[name].excess
        return f"held-out loss {loss:.4g}" if excess is None else f"excess {excess:.2g}"

    curves = [edge for edge in explained.edges if edge.kind == CURVE]
    if explained.formula is not None:
        found.append(
            f"One formula holds at all noise levels: {quality('formula')} with "
            f"{explained.formula.num_trainable} constants, where the network has "
            f"{quality('network')} with {by_name['network'].constants} parameters."
        )
    elif curves:
        judged = [edge.r2 for edge in curves if edge.r2 is not None]
        why = []
        if judged:
            why.append(
                f"{len(judged)} because no function matches them or the loss would rise (held-"
                f"out R² of the best matches: {min(judged):.3f} to {max(judged):.3f})"
            )
        if len(judged) < len(curves):
            why.append(f"{len(curves) - len(judged)} were not reached in the time budget")
        found.append(
            f"There is no short formula: {len(curves)} of {len(explained.edges)} edges stay "
            f"curves, {' and '.join(why)}."
        )
    elif explained.with_formulas is not None:
        found.append(
            "Every edge is a formula, but no coefficients as functions of the noise level "
            "keep the loss: the formula is given level by level."
        )
    found += [
        f"Points generated from the stage '{standing.name}' cannot be judged: {standing.trouble}."
        for standing in standings
        if standing.trouble
    ]
    if explained.simplified is None:
        return tuple(found)
    if explained.with_formulas is None and options.formulas:
        found.append(f"{_too_many(explained.simplified, options.search.max_edges)}.")
    found.append(
        f"Of {len(explained.network.edges)} edges {len(explained.simplified.edges)} are left "
        f"after simplifying: {quality('network')} before, {quality('simplified')} after."
    )
    for output, of_output in enumerate(influences(explained.simplified)):
        absent = [columns[i] for i in np.flatnonzero(~of_output) if i != output]
        if absent:
            found.append(
                f"No edge leads from {' or '.join(absent)} to the score of {columns[output]}."
            )
    if chose_on_heldout:
        found.append(
            "The choice of what goes and what stays was made on the held-out rows that the stages "
            "are judged with, which makes their numbers a little too good; fresh rows would tell."
        )
    return tuple(found)


def explainable_trials(study: Path) -> dict[Path, TrialConfig]:
    """Finds the finished trials of a study's folder whose denoisers can be taken apart.

    Returns:
        Their configurations, by their folders.
    """
    found: dict[Path, TrialConfig] = {}
    can_be_read: dict[str, bool] = {}
    for folder in sorted(inside(study, TRIALS).glob("[!.]*")):
        with suppress(KanDiffusionError):
            trial = load_trial(folder)
            if trial is None or trial.row["error"] is not None:
                continue
            name = trial.config.model.name
            if name not in can_be_read:
                can_be_read[name] = False
                readable(load_point_run(folder)[1].denoiser)
                can_be_read[name] = True
            if can_be_read[name]:
                found[folder] = trial.config
    return found


def explain_run(
    run: Path,
    out: Path,
    options: ExplainOptions | None = None,
    *,
    command: str = "",
    on_progress: PhaseProgress | None = None,
) -> tuple[Explanation, Explained]:
    """Explains a finished run and writes everything but the figures.

    Args:
        run: Folder of the run.
        out: Folder of the explanation.
        options: Settings; the defaults when None.
        command: Command that makes this explanation again.
        on_progress: Called at every step of the phases of :func:`explain_denoiser`, "judging"
            and "looking".

    Raises:
        RunFolderError: There is no finished run, or the folder cannot be written.
        KanDiffusionError: The denoiser cannot be taken apart.
    """
    options, say = options or ExplainOptions(), on_progress or tell_nobody
    config, pipeline = load_point_run(run)
    if (reason := no_edges(pipeline.denoiser)) is not None:
        raise KanDiffusionError(f"'{run}' is of family '{config.model.family}': {reason}")
    process = config.process
    timesteps = list(options.levels or default_levels(process))
    last = process.num_timesteps - 1
    for timestep in timesteps:
        if not 0 <= timestep <= last:
            raise KanDiffusionError(
                f"timestep {timestep} is not one of the process, which has 0 to {last}; choose "
                "other levels"
            )
    config.data.require_recorded()
    dataset = load_dataset(config.data, config.study_seed, config.seed)
    require_judge(dataset)
    effort = config.evaluation.effort
    context = make_context(dataset, process, config.study_seed, effort=effort)
    stages_in(out)  # a damaged one is reported before the search, not after it
    inside(out, "figures")  # likewise
    explained = explain_denoiser(pipeline.denoiser, context, options, on_progress)
    remove_stages(out)
    sampled = {"num_samples": options.num_samples, "moments": ()}
    evaluation = config.evaluation.model_copy(update=sampled)
    shared = None
    if options.num_samples:
        split = config.seed if dataset.oracle == "none" else 0
        limited, task = evaluation.limited(config.data.quick), task_of(config.data)
        shared = task.reference(dataset, process, limited, config.study_seed, split)
    judged = config.model_copy(update={"evaluation": evaluation})
    judge = StageJudge(judged, pipeline, context, shared)
    standings: list[Standing] = []
    samples: dict[str, NDArray[np.float64]] = {}
    stages = explained.stages()
    for name, denoiser in stages.items():
        say("judging", name, len(standings) / len(stages))
        stage = judge.judge(name, denoiser)
        standings.append(stage.standing)
        if stage.samples is not None:
            samples[name] = stage.samples[:1000]
        if name != "network":
            judge.save(stage, out)
    reverse = _reverse(judge, stages) if options.num_samples else {}
    if samples:
        samples = {"real": context.draw.clean[:1000].numpy(), **samples}
    say("looking", "at every noise level", 0.0)
    columns = tuple(pipeline.columns)
    explanation = Explanation(
        title=f"{config.model.name} on {config.data.name}",
        columns=columns,
        command=command,
        network=view_network(explained.network, context, timesteps),
        score=view_score(stages, context, timesteps),
        edges=explained.edges,
        standings=tuple(standings),
        sentences=_sentences(explained, standings, columns, options, dataset.density is None),
        samples=samples,
        reverse=reverse,
        training=_training(run, pipeline.denoiser, context, timesteps[len(timesteps) // 2]),
    )
    if explained.simplified is not None:
        explanation.simplified = view_network(explained.simplified, context, timesteps)
    if (left := explained.with_formulas) is not None:
        explanation.readable = view_network(left, context, timesteps)
        explanation.level_formulas = _level_formulas(left, context, timesteps, columns)
    if explained.formula is not None:
        explanation.formula = score_latex(explained.formula, columns)
        explanation.noise = noise_latex(explained.formula, columns)
    _write(explanation, explained, out)
    return explanation, explained


def _reverse(judge: StageJudge, stages: Mapping[str, Denoiser]) -> dict[str, NDArray[np.float64]]:
    """Records reverse processes of stages, and of the exact denoiser where it is known."""
    config, density = judge.config, judge.context.dataset.density
    exact = {} if density is None else {"exact": OracleDenoiser(density, config.process)}
    scheduler = make_scheduler(config.sampling.scheduler, config.process)
    recorded = {}
    for name, denoiser in {**stages, **exact}.items():
        pipeline = type(judge.pipeline).from_pipe(
            judge.pipeline, denoiser=denoiser, scheduler=scheduler
        )
        with suppress(NonFiniteSamplesError):  # reported where the stage is judged
            states = record_reverse(config, judge.context.dataset, pipeline, _MOVING)
            recorded[name] = states.double().numpy()
    return recorded


def _training(run: Path, denoiser: Denoiser, context: Context, timestep: int) -> tuple[Moment, ...]:
    """Reads what a run recorded in training, with a view of its edges at one level."""
    moments = []
    for step in recorded_steps(run, WEIGHTS):
        file = f"{step}.safetensors"
        then = load_weights(run / WEIGHTS / file, denoiser)
        shape = NUM_PANELS, None, context.dataset.dim
        samples = load_points(inside(run, REVERSE, file), *shape)[-1][:_MOVING]
        network = view_network(readable(then), context, [timestep])
        moments.append(Moment(step, samples, network))
    return tuple(moments)


def _write(explanation: Explanation, explained: Explained, out: Path) -> None:
    """Writes formulas as JSON, LaTeX and programs."""
    formula = explained.formula
    content = {
        "title": explanation.title,
        "sentences": explanation.sentences,
        "standings": [asdict(standing) for standing in explanation.standings],
        "edges": [asdict(edge) for edge in explained.edges],
        "score": explanation.formula,
        "predicted_noise": explanation.noise,
        "expressions": None if formula is None else [str(e) for e in formula.expressions()],
        "levels": [
            {**asdict(part), "ranges": part.ranges.tolist()} for part in explanation.level_formulas
        ],
    }
    write_json(out / "formulas.json", finite(content))
    by_level = [
        (f"score at sigma = {p.level.sigma:.3f}", p.score) for p in explanation.level_formulas
    ]
    parts = [("score, all noise levels", explanation.formula or ()), *by_level]
    lines = [f"% {explanation.title}"]
    for title, expressions in parts:
        lines += [f"% {title}"] if expressions else []
        lines += [rf"\[ s_{{{k}}} = {expression} \]" for k, expression in enumerate(expressions)]
    if len(lines) > 1:
        write_text(out / "formula.tex", "\n".join(lines) + "\n")
    if formula is not None:
        write_text(out / "formula.py", formula_program(formula, explanation.title))
    if explained.with_formulas is not None:
        with suppress(KanDiffusionError):  # a program can have no curves but B-splines
            program = network_program(explained.with_formulas, explanation.title)
            write_text(out / "network.py", program)
