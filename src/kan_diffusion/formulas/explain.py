"""From a finished run to an explanation: simplify, find formulas, judge, view, write.

Beside what :mod:`kan_diffusion.report.explanation` draws, the explanation's folder holds

* ``simplified/``, ``with-formulas/`` and ``formula/``: the stages as runs, which can be sampled and
  evaluated by the same commands as others;
* ``formulas.json``: formulas, edges and the scores of each stage;
* ``formula.tex`` and ``formula.py``: the formula for all noise levels as text and as a program.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from kan_diffusion.data.coordinates import CoordinateMap
from kan_diffusion.data.datasets import Dataset
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.edges import CURVE
from kan_diffusion.denoisers.formula import FormulaDenoiser
from kan_diffusion.denoisers.readable import ReadableDenoiser, no_edges, readable
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.evaluation.metrics import metrics_named
from kan_diffusion.files import finite, inside, remove_file, write_json, write_text
from kan_diffusion.formulas.context import Context, Progress, make_context, tell_nobody
from kan_diffusion.formulas.levels import LevelSearch, formula_over_levels
from kan_diffusion.formulas.match import EdgeReport, SearchOptions, find_formulas
from kan_diffusion.formulas.simplify import drop_idle, prune, straighten
from kan_diffusion.formulas.views import (
    NetworkView,
    ScoreView,
    default_levels,
    view_network,
    view_score,
)
from kan_diffusion.formulas.writing import formula_program, noise_latex, score_latex
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.study.folder import (
    RESULT,
    Judged,
    Row,
    Trained,
    TrialResult,
    keep_trial,
    load_trial,
)
from kan_diffusion.study.measure import load_point_run
from kan_diffusion.study.tasks import Reference, require_judge, task_of
from kan_diffusion.study.trial import first_row

__all__ = [
    "ExplainOptions",
    "Explained",
    "Explanation",
    "Stage",
    "StageJudge",
    "explain_denoiser",
    "explain_run",
    "influences",
    "outcome",
    "remove_stages",
]

PhaseProgress = Callable[[str, str, float], None]
"""Called with the phase, what was just done, in words, and the share of the phase done."""

STAGES = ("simplified", "with formulas", "formula")
"""Denoisers that an explanation may make of a network, in order."""

_ROUNDS = 3
"""Largest number of rounds of pruning."""
_NO_EFFECT = 0.005
"""Attribution below which edges are removed without a test of the loss."""


@dataclass(frozen=True)
class ExplainOptions:
    """Settings of an explanation.

    Attributes:
        prune: Attribution below which edges are removed; None leaves the network as it is, and no
            formulas are looked for.
        formulas: Whether to look for formulas.
        search: Settings of the search for formulas; ``tolerance`` also holds for straightening.
        max_edges: Largest number of edges of a network that formulas are looked for in.
        seconds: Time budget of the whole search, from the first line to the last noise level; half
            of it for edges.
        tune_steps: Steps of training after each stage.
        levels: Timesteps to look at; a few over all noise levels when None.
        num_samples: Number of points to generate from each stage and judge; 0 for none.
    """

    prune: float | None = 0.05
    formulas: bool = True
    search: SearchOptions = field(default_factory=SearchOptions)
    max_edges: int = 64
    seconds: float = 600.0
    tune_steps: int = 1000
    levels: tuple[int, ...] | None = None
    num_samples: int = 5000


@dataclass(frozen=True)
class Stage:
    """A denoiser of an explanation, judged as a study would judge it.

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
        denoiser: The denoiser.
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
    denoiser: Denoiser | None = None

    @property
    def quality(self) -> str:
        """Its excess or, without an oracle, its loss, in words."""
        if self.excess is None:
            return f"held-out loss {self.loss:.4g}"
        return f"excess {self.excess:.2g}"


@dataclass
class Explanation:
    """Everything found out about a trained denoiser, ready to be shown and saved.

    Attributes:
        title: Names of the model and the data.
        columns: What the coordinates are.
        command: Command that makes this explanation again.
        network: The network as it was trained.
        score: Scores of all stages beside the exact one.
        simplified: The network after pruning and straightening; None where not asked for.
        readable: The network with formulas in place of curves; None where they were not looked for.
        edges: Outcome of the search for each edge of the simplified network.
        standings: The stages with their scores.
        sentences: Findings in words, the most important first.
        formula: Coordinates of the score in LaTeX at all noise levels; None where there is no such
            formula.
        noise: Coordinates of the predicted noise, likewise.
    """

    title: str
    columns: tuple[str, ...]
    command: str
    network: NetworkView
    score: ScoreView
    simplified: NetworkView | None = None
    readable: NetworkView | None = None
    edges: tuple[EdgeReport, ...] = ()
    standings: tuple[Stage, ...] = ()
    sentences: tuple[str, ...] = ()
    formula: tuple[str, ...] | None = None
    noise: tuple[str, ...] | None = None

    @property
    def stages(self) -> dict[str, Denoiser]:
        """The denoisers of the stages by name."""
        return {each.name: each.denoiser for each in self.standings if each.denoiser is not None}


@dataclass(frozen=True)
class Explained:
    """What came of a trained denoiser.

    Attributes:
        stages: Denoisers by name: ``"network"``, and those of ``STAGES`` that there are.
        edges: Outcome of the search for each edge.
        levels: Outcome of the search over noise levels; None if there was none.
    """

    stages: Mapping[str, Denoiser]
    edges: tuple[EdgeReport, ...] = ()
    levels: LevelSearch | None = None


def explain_denoiser(
    denoiser: Denoiser,
    context: Context,
    options: ExplainOptions | None = None,
    on_progress: PhaseProgress = tell_nobody,
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
    search, tolerance = options.search, options.search.tolerance

    def phase(name: str) -> Progress:
        return partial(on_progress, name)

    stages: dict[str, Denoiser] = {"network": (network := readable(denoiser))}
    if options.prune is None:
        return Explained(stages)
    current = prune(network, context, options.prune, _ROUNDS, phase("pruning"))
    context.tune(current, options.tune_steps, 1e-2)
    if not options.formulas or len(current.edges) > options.max_edges:
        return Explained(stages | {"simplified": current})
    end = time.monotonic() + options.seconds
    until = end - options.seconds / 2
    current = straighten(current, context, tolerance, until, phase("lines"))
    context.tune(current, options.tune_steps, 1e-2)
    current = drop_idle(current, context, tolerance / 10, until, phase("edges"))
    # Remove what is left without any effect, such as units that no edge enters any more.
    stages["simplified"] = current = prune(current, context, _NO_EFFECT)
    current, edges = find_formulas(current, context, search, until, phase("formulas"))
    if 0 < sum(edge.kind == CURVE for edge in edges) < len(edges) / 2:
        # With formulas in place, the remaining curves may be straight or easier to match.
        context.tune(current, options.tune_steps, 5e-3)
        current = straighten(current, context, tolerance, until, phase("lines"))
        current, edges = find_formulas(current, context, search, until, phase("formulas"), edges)
    stages["with formulas"] = current
    context.tune(current, 2 * options.tune_steps, 5e-3)
    levels = None
    if not context.process.is_flow:
        left = end - time.monotonic()
        levels = formula_over_levels(
            current, context, tolerance=tolerance, seconds=left, on_progress=phase("levels")
        )
        if levels.formula is not None:
            stages["formula"] = levels.formula
    return Explained(stages, edges, levels)


@dataclass(frozen=True)
class StageJudge:
    """Judges the stages of an explanation and saves them as runs.

    Attributes:
        config: Trial of the run that is explained, with settings for the judging.
        pipeline: Pipeline of that run.
        dataset: Its data.
        shared: Draws that all stages are measured with.
        out: Folder of the explanation.
    """

    config: TrialConfig
    pipeline: PointDiffusionPipeline
    dataset: Dataset
    shared: Reference
    out: Path

    def judge(self, name: str, denoiser: Denoiser) -> Stage:
        """Judges a denoiser, by its loss alone where it cannot be sampled.

        Any but the network itself is saved as a run to be sampled, evaluated and reported.

        Raises:
            RunFolderError: It cannot be saved.
        """
        pipeline = type(self.pipeline).from_pipe(self.pipeline, denoiser=denoiser)
        config, task, trouble = self.config, task_of(self.config.data), ""
        try:
            row, levels, samples = task.judge(config, self.dataset, pipeline, self.shared)
        except KanDiffusionError as error:
            # Far from the data, where a sampler may get, functions such as exp have no bounds.
            trouble = str(error)
            evaluation = config.evaluation.model_copy(update={"num_samples": 0})
            plain = config.model_copy(update={"evaluation": evaluation})
            row, levels, samples = task.judge(plain, self.dataset, pipeline, self.shared)
        if name != "network":
            self._save(name, pipeline, row, levels, samples)
        numbers = {k: float(v) for k, v in row.items() if isinstance(v, int | float)}
        keys = metrics_named(self.config.evaluation.metrics)
        return Stage(
            name,
            edges=len(denoiser.edges) if isinstance(denoiser, ReadableDenoiser) else None,
            constants=denoiser.num_trainable,
            loss=numbers.get("heldout_loss", math.inf),
            floor=numbers.get("floor"),
            excess=numbers.get("excess"),
            metrics={key: numbers[key] for key in keys if key in numbers},
            real={key: numbers[f"{key}_real"] for key in keys if f"{key}_real" in numbers},
            trouble=trouble,
            denoiser=denoiser,
        )

    def _save(
        self,
        name: str,
        pipeline: PointDiffusionPipeline,
        row: Row,
        levels: list[dict[str, float | None]],
        samples: Tensor | None,
    ) -> None:
        """Saves a stage; its training curve has no steps, since it was made from another run."""
        config, denoiser = self.config, pipeline.denoiser
        model = config.model.model_copy(update={"name": f"{config.model.name}, {name}"})
        trial = config.model_copy(update={"model": model})
        about: Row = {
            "match": None,
            "budget": None,
            "family": "formula" if isinstance(denoiser, FormulaDenoiser) else "readable-kan",
            "kind": "other",
            "stage": name,
        }
        trained = Trained(row={**first_row(trial, denoiser), **about})
        judged = Judged(row=row, levels=levels, versions=trial.judgement.versions)
        curve = pd.DataFrame(columns=["step", "loss", "learning_rate", "heldout_loss"], dtype=float)
        result = TrialResult(trial, _folder(self.out, name), trained, judged)
        keep_trial(result, pipeline, curve, samples)


def stages_in(out: Path) -> list[Path]:
    """Finds the folders of the stages that an earlier explanation left.

    Raises:
        RunFolderError: One of them is damaged.
    """
    trials = [(name, load_trial(_folder(out, name))) for name in STAGES]
    return [
        trial.folder
        for name, trial in trials
        if trial is not None and trial.config.model.name.endswith(f", {name}")
    ]


def remove_stages(out: Path) -> None:
    """Removes files of an earlier explanation that the next one may lack, and nothing else."""
    for folder in stages_in(out):
        remove_file(folder / RESULT)  # first: a half removed run must not count as finished
        shutil.rmtree(folder)
    for name in ("formula.tex", "formula.py"):
        (out / name).unlink(missing_ok=True)


def _folder(out: Path, name: str) -> Path:
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


def outcome(explained: Explained, stages: Mapping[str, Stage], options: ExplainOptions) -> str:
    """Says whether there is a formula, there is none, or the search did not come to its end.

    The text is empty if no formula was asked for.
    """
    if (formula := stages.get("formula")) is not None:
        network = stages["network"]
        normal = _is_normal(explained.stages["formula"])
        return (
            f"One formula holds at all noise levels: {formula.quality} with {formula.constants} "
            f"constants, where the network has {network.quality} with {network.constants} "
            f"parameters.{' It is the score of a normal distribution.' * normal}"
        )
    if "with formulas" not in stages:
        left = stages["simplified"].edges if options.formulas and "simplified" in stages else None
        return (
            ""
            if left is None
            else (
                f"No formula was looked for: {left} edges are left, more than {options.max_edges}. "
                "Train with a larger sparsify or fewer params."
            )
        )
    curves = [edge for edge in explained.edges if edge.kind == CURVE]
    judged = [edge.r2 for edge in curves if edge.r2 is not None]
    longer = f"within {options.seconds:g} s; give it more seconds"
    if len(judged) < len(curves):
        return (
            f"The search was not finished: {len(curves) - len(judged)} of "
            f"{len(explained.edges)} edges were not tried {longer}, or train with sparsify, "
            "which leaves fewer edges."
        )
    if curves:
        return (
            f"There is no short formula, as a complete search says: {len(curves)} of "
            f"{len(explained.edges)} edges stay curves, because no function matches them or the "
            f"loss would rise (held-out R² of the best matches: {min(judged):.3f} to "
            f"{max(judged):.3f})."
        )
    if explained.levels is None:
        return (
            "Every edge is a formula at each noise level. For flow matching there is no search for "
            "one formula at all levels; train with another process, such as cosine."
        )
    if not explained.levels.is_complete:
        return (
            "The search was not finished: every edge is a formula, but none for all noise levels "
            f"that keeps the loss was found {longer}."
        )
    return (
        "There is no short formula, as a complete search says: every edge is a formula at each "
        "noise level, but no coefficients as functions of the noise level keep the loss."
    )


def _is_normal(formula: Denoiser) -> bool:
    """Whether a formula is the score of a normal distribution, linear in all coordinates."""
    import sympy

    assert isinstance(formula, FormulaDenoiser)
    points = {sympy.Symbol(f"x{i}", real=True) for i in range(formula.data_dim)}
    slopes = (part.diff(x) for part in formula.expressions() for x in points)
    return not any(slope.free_symbols & points for slope in slopes)


def _sentences(
    explained: Explained,
    standings: Mapping[str, Stage],
    maps: tuple[CoordinateMap, ...],
    options: ExplainOptions,
    chose_on_heldout: bool,
) -> Iterator[str]:
    """Puts the findings into words."""
    if said := outcome(explained, standings, options):
        yield said
    columns = [each.name for each in maps]
    if others := [name for name in columns if name.startswith(("normal score of", "code of"))]:
        yield (
            f"Formulas and curves are of {', '.join(others)}, not of the columns themselves, and "
            "normal scores are normal whatever their column is; train with the scaling "
            "standard to read numbers as they are."
        )
    for name, stage in standings.items():
        if stage.trouble:
            yield f"Points generated from the stage '{name}' cannot be judged: {stage.trouble}."
    simplified = explained.stages.get("simplified")
    if not isinstance(simplified, ReadableDenoiser):
        return
    before, after = standings["network"], standings["simplified"]
    yield (
        f"Of {before.edges} edges {after.edges} are left after simplifying: {before.quality} "
        f"before, {after.quality} after."
    )
    for output, of_output in enumerate(influences(simplified)):
        if absent := [columns[i] for i in np.flatnonzero(~of_output) if i != output]:
            yield f"No edge leads from {' or '.join(absent)} to the score of {columns[output]}."
    if chose_on_heldout:
        yield (
            "The choice of what goes and what stays was made on the held-out rows that the stages "
            "are judged with, which makes their numbers a little too good; fresh rows would tell."
        )


def explain_run(
    run: Path,
    out: Path,
    options: ExplainOptions | None = None,
    *,
    command: str = "",
    on_progress: PhaseProgress = tell_nobody,
) -> Explanation:
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
    options = options or ExplainOptions()
    config, pipeline = load_point_run(run)
    if (reason := no_edges(pipeline.denoiser)) is not None:
        raise KanDiffusionError(f"'{run}' is of family '{config.model.family}': {reason}")
    process = config.process
    timesteps = list(options.levels or default_levels(process))
    last = process.num_timesteps - 1
    for timestep in timesteps:
        if not 0 <= timestep <= last:
            raise KanDiffusionError(
                f"timestep {timestep} is not one of the process, which has 0 to {last}; give others"
            )
    config.data.require_recorded()
    dataset = load_dataset(config.data, config.study_seed, config.seed)
    require_judge(dataset)
    effort = config.evaluation.effort
    context = make_context(dataset, process, config.study_seed, effort=effort)
    stages_in(out)  # a damaged one is reported before the search, not after it
    explained = explain_denoiser(pipeline.denoiser, context, options, on_progress)
    remove_stages(out)
    sampled = {"num_samples": options.num_samples, "moments": ()}
    likely = {} if options.num_samples else {"num_likelihood": 0}
    evaluation = config.evaluation.model_copy(update=sampled | likely)
    judged = config.model_copy(update={"evaluation": evaluation})
    split = config.seed if dataset.oracle == "none" else 0
    task, limited = task_of(config.data), evaluation.limited(config.data.quick)
    shared = task.reference(dataset, process, limited, config.study_seed, split)
    judge = StageJudge(judged, pipeline, dataset, shared, out)
    standings: dict[str, Stage] = {}
    for name, denoiser in explained.stages.items():
        on_progress("judging", name, len(standings) / len(explained.stages))
        standings[name] = judge.judge(name, denoiser)
    on_progress("looking", "at every noise level", 0.0)
    maps, formula = dataset.maps, explained.stages.get("formula")
    columns = tuple(each.name for each in maps)
    views = {
        name: view_network(denoiser, context, timesteps)
        for name, denoiser in explained.stages.items()
        if isinstance(denoiser, ReadableDenoiser)
    }
    explanation = Explanation(
        title=f"{config.model.name} on {config.data.name}",
        columns=columns,
        command=command,
        network=views["network"],
        score=view_score(dict(explained.stages), context, timesteps),
        simplified=views.get("simplified"),
        readable=views.get("with formulas"),
        edges=explained.edges,
        standings=tuple(standings.values()),
        sentences=tuple(_sentences(explained, standings, maps, options, dataset.density is None)),
    )
    if isinstance(formula, FormulaDenoiser):
        explanation.formula = score_latex(formula, columns)
        explanation.noise = noise_latex(formula, columns)
        title = explanation.title
        text = (rf"\[ s_{{{k}}} = {part} \]" for k, part in enumerate(explanation.formula))
        write_text(out / "formula.tex", "\n".join([f"% {title}", *text, ""]))
        write_text(out / "formula.py", formula_program(formula, title, maps))
    _write(explanation, out)
    return explanation


_SCORES = ("name", "edges", "constants", "loss", "floor", "excess", "metrics", "real", "trouble")


def _write(explanation: Explanation, out: Path) -> None:
    """Writes what was found as JSON."""
    formula = explanation.stages.get("formula")
    content = {
        "title": explanation.title,
        "columns": explanation.columns,
        "sentences": explanation.sentences,
        "standings": [{key: getattr(s, key) for key in _SCORES} for s in explanation.standings],
        "edges": [vars(edge) for edge in explanation.edges],
        "score": explanation.formula,
        "predicted_noise": explanation.noise,
        "expressions": [str(part) for part in formula.expressions()]
        if isinstance(formula, FormulaDenoiser)
        else None,
    }
    write_json(out / "formulas.json", finite(content))
