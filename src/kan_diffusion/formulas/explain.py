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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
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
from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.evaluation.metrics import metrics_named
from kan_diffusion.files import finite, inside, remove_file, write_json, write_text
from kan_diffusion.formulas.context import Context, Progress, tell_nobody
from kan_diffusion.formulas.levels import formula_over_levels
from kan_diffusion.formulas.match import EdgeReport, find_formulas
from kan_diffusion.formulas.match import ExplainOptions as ExplainOptions
from kan_diffusion.formulas.simplify import drop_idle, prune, straighten
from kan_diffusion.formulas.views import (
    NetworkView,
    ScoreView,
    default_levels,
    view_network,
    view_score,
)
from kan_diffusion.formulas.writing import formula_program, score_latex
from kan_diffusion.study.config import TrialConfig
from kan_diffusion.study.folder import (
    RESULT,
    Row,
    Trained,
    TrialResult,
    keep_trial,
    load_trial,
)
from kan_diffusion.study.tasks import Reference, require_judge, task_of
from kan_diffusion.study.trial import first_row, load_run

STAGES = ("simplified", "with formulas", "formula")
"""Denoisers that an explanation may make of a network, in order."""

_ROUNDS = 3
"""Largest number of rounds of pruning."""
_NO_EFFECT = 0.005
"""Attribution below which edges are removed without a test of the loss."""


@dataclass(frozen=True)
class Stage:
    """The scores of a denoiser of an explanation, judged as a study would judge it.

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

    @property
    def quality(self) -> str:
        """Its excess or, without an oracle, its loss, in words."""
        if self.excess is None:
            return f"held-out loss {self.loss:.4g}"
        return f"excess {self.excess:.2g}"


@dataclass(frozen=True)
class Explained:
    """What came of a trained denoiser.

    Attributes:
        stages: Denoisers by name: ``"network"``, and those of ``STAGES`` that there are.
        edges: Outcome of the search for each edge of the simplified network.
        is_complete: Whether the search over noise levels came to its end; None if there was none.
    """

    stages: Mapping[str, Denoiser]
    edges: Sequence[EdgeReport] = ()
    is_complete: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Explanation(Explained):
    """Everything found out about a trained denoiser, ready to be shown.

    Attributes:
        title: Names of the model and the data.
        columns: What the coordinates are.
        command: Command that makes this explanation again.
        standings: Scores of the stages.
        views: The networks among them.
        score: Their scores as functions of the points, beside the exact one.
        sentences: Findings in words, the most important first.
        formula: Coordinates of the score in LaTeX at all noise levels; None where there is no such
            formula.
    """

    title: str
    columns: Sequence[str]
    command: str
    standings: Sequence[Stage]
    views: Mapping[str, NetworkView]
    score: ScoreView
    sentences: Sequence[str]
    formula: Sequence[str] | None = None


def explain_denoiser(denoiser: Denoiser, context: Context, options: ExplainOptions) -> Explained:
    """Simplifies a trained denoiser and looks for formulas.

    Args:
        denoiser: The trained denoiser, which is left as it is.
        context: Its data and process, whose clock is set. Phases are "pruning", "lines", "edges",
            "formulas" and "levels".
        options: Settings.

    Raises:
        KanDiffusionError: It cannot be taken apart.
    """
    tolerance = options.tolerance
    stages: dict[str, Denoiser] = {"network": (network := readable(denoiser))}
    if options.prune is None:
        return Explained(stages)
    current = prune(network, context, options.prune, _ROUNDS)
    context.tune(current, options.tune_steps, 1e-2)
    if len(current.edges) > options.max_edges:
        return Explained(stages | {"simplified": current})
    end = time.monotonic() + options.seconds
    context.until = end - options.seconds / 2
    current = straighten(current, context, tolerance)
    context.tune(current, options.tune_steps, 1e-2)
    current = drop_idle(current, context, tolerance / 10)
    # Remove what is left without any effect, such as units that no edge enters any more.
    stages["simplified"] = current = prune(current, context, _NO_EFFECT)
    current, edges = find_formulas(current, context, options)
    if 0 < sum(edge.kind == CURVE for edge in edges) < len(edges) / 2:
        # With formulas in place, the remaining curves may be straight or easier to match.
        context.tune(current, options.tune_steps, 5e-3)
        current = straighten(current, context, tolerance)
        current, edges = find_formulas(current, context, options, edges)
    stages["with formulas"] = current
    context.tune(current, 2 * options.tune_steps, 5e-3)
    if context.process.is_flow:
        return Explained(stages, edges)
    context.until = end
    formula, is_complete = formula_over_levels(current, context, tolerance)
    if formula is not None:
        stages["formula"] = formula
    return Explained(stages, edges, is_complete)


def judge_stage(
    name: str,
    pipeline: PointDiffusionPipeline,
    config: TrialConfig,
    dataset: Dataset,
    shared: Reference,
    out: Path,
) -> Stage:
    """Judges a denoiser of an explanation, by its loss alone where it cannot be sampled.

    Any but the network itself is saved as a run to be sampled, evaluated and reported. Its training
    curve has no steps, since it was made from another run.

    Args:
        name: Name of the stage.
        pipeline: The denoiser with the sampler of the run that is explained.
        config: Trial of that run, with settings for the judging.
        dataset: Its data.
        shared: Draws that all stages are measured with.
        out: Folder of the explanation.

    Raises:
        RunFolderError: It cannot be saved.
    """
    task, denoiser, trouble = task_of(config.data), pipeline.denoiser, ""
    try:
        judged, samples = task.judge(config, dataset, pipeline, shared)
    except KanDiffusionError as error:
        # Far from the data, where a sampler may get, functions such as exp have no bounds.
        trouble = str(error)
        evaluation = config.evaluation.model_copy(update={"num_samples": 0})
        plain = config.model_copy(update={"evaluation": evaluation})
        judged, samples = task.judge(plain, dataset, pipeline, shared)
    if name != "network":
        model = config.model.model_copy(update={"name": f"{config.model.name}, {name}"})
        trial = config.model_copy(update={"model": model})
        family = "formula" if isinstance(denoiser, FormulaDenoiser) else "readable-kan"
        about: Row = {"match": None, "budget": None, "family": family, "kind": "other"}
        trained = Trained(row={**first_row(trial, denoiser), **about, "stage": name})
        curve = pd.DataFrame(columns=["step", "loss", "learning_rate", "heldout_loss"], dtype=float)
        keep_trial(
            TrialResult(trial, _folder(out, name), trained, judged), pipeline, curve, samples
        )
    numbers = {k: float(v) for k, v in judged.row.items() if isinstance(v, int | float)}
    keys = metrics_named(config.evaluation.metrics)
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
    )


def _stages_in(out: Path) -> list[Path]:
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
    for folder in _stages_in(out):
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
    unfinished = "The search was not finished"
    if (formula := stages.get("formula")) is not None:
        network = stages["network"]
        said = (
            f"One formula holds at all noise levels: {formula.quality} with {formula.constants} "
            f"constants, where the network has {network.quality} with {network.constants} "
            "parameters."
        )
        if _is_normal(explained.stages["formula"]):
            said += " It is the score of a normal distribution."
        if not explained.is_complete:
            said += (
                f" {unfinished} within {options.seconds:g} s: more seconds may bring a better "
                "formula."
            )
        return said
    if "simplified" not in stages:
        return ""
    if "with formulas" not in stages:
        return (
            f"No formula was looked for: {stages['simplified'].edges} edges are left, more than "
            f"{options.max_edges}. Train with a larger sparsify or fewer params."
        )
    curves = [edge for edge in explained.edges if edge.kind == CURVE]
    judged = [edge.r2 for edge in curves if edge.r2 is not None]
    none = "There is no short formula, as a complete search says"
    longer = f"within {options.seconds:g} s; give it more seconds"
    if len(judged) < len(curves):
        return (
            f"{unfinished}: {len(curves) - len(judged)} of {len(explained.edges)} edges were not "
            f"tried {longer}, or train with sparsify, which leaves fewer edges."
        )
    if curves:
        return (
            f"{none}: {len(curves)} of {len(explained.edges)} edges stay curves, because no "
            "function matches them or the loss would rise (held-out R² of the best matches: "
            f"{min(judged):.3f} to {max(judged):.3f})."
        )
    if explained.is_complete is None:
        return (
            "Every edge is a formula at each noise level. For flow matching there is no search for "
            "one formula at all levels; train with another process, such as cosine."
        )
    if not explained.is_complete:
        return (
            f"{unfinished}: every edge is a formula, but none for all noise levels that keeps the "
            f"loss was found {longer}."
        )
    return (
        f"{none}: every edge is a formula at each noise level, but no coefficients as functions of "
        "the noise level keep the loss."
    )


def _is_normal(formula: Denoiser) -> bool:
    r"""Whether a formula is :math:`-(\alpha^2 \Sigma + \sigma^2 I)^{-1} (x - \alpha \mu)`.

    The covariance and the mean of the least noise must be those of the other levels within a tenth.
    """
    import sympy

    assert isinstance(formula, FormulaDenoiser)
    process, identity = formula.process, torch.eye(formula.data_dim, dtype=torch.float64)
    names = {sympy.Symbol(f"x{i}", real=True) for i in range(formula.data_dim)}
    slopes = (part.diff(x) for part in formula.expressions() for x in names)
    if any(slope.free_symbols & names for slope in slopes):
        return False
    normal: tuple[Tensor, Tensor] | None = None
    for timestep in default_levels(process):
        alpha, sigma = (level[timestep].double() for level in process.levels())
        with torch.no_grad():
            at_zero = formula.score(torch.zeros(1, formula.data_dim), alpha[None], sigma[None])
            precision = (at_zero - formula.score(identity, alpha[None], sigma[None])).mT
        if normal is None:
            if torch.linalg.eigvalsh(precision + precision.mT).min() <= 0:
                return False
            noised = torch.linalg.inv((precision + precision.mT) / 2)
            normal = noised @ at_zero[0] / alpha, (noised - sigma**2 * identity) / alpha**2
        mean, covariance = normal
        expected = torch.linalg.inv(alpha**2 * covariance + sigma**2 * identity)
        apart = torch.column_stack([precision - expected, at_zero[0] - alpha * expected @ mean])
        if torch.linalg.norm(apart) > 0.1 * torch.linalg.norm(expected):
            return False
    return True


def _sentences(
    explained: Explained,
    standings: Mapping[str, Stage],
    maps: Sequence[CoordinateMap],
    options: ExplainOptions,
    chose_on_heldout: bool,
) -> Iterator[str]:
    """Puts the findings into words."""
    if said := outcome(explained, standings, options):
        yield said
    columns = [each.name for each in maps]
    if others := [name for name in columns if name.startswith(("normal score of", "code of"))]:
        of_scores = any(name.startswith("normal score of") for name in others)
        remedy = (
            ", and normal scores are normal whatever their column is; train with the scaling "
            "standard to read numbers as they are"
        )
        yield (
            f"Formulas and curves are of {', '.join(others)}, not of the columns themselves"
            f"{remedy if of_scores else ''}."
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
    on_progress: Progress = tell_nobody,
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
        RunFolderError: There is no finished run, or the folder cannot be written or holds a run.
        KanDiffusionError: The denoiser cannot be taken apart.
    """
    options = options or ExplainOptions()
    config, loaded = load_run(run)
    task = task_of(config.data)
    pipeline = task.points(loaded)
    if (reason := no_edges(pipeline.denoiser)) is not None:
        raise KanDiffusionError(f"'{run}', {config.model.name}, cannot be taken apart: {reason}")
    process = config.process
    config.data.require_recorded()
    dataset = load_dataset(config.data, config.study_seed, config.seed)
    require_judge(dataset)
    effort, maps = config.evaluation.effort, dataset.maps
    context = Context(dataset, process, config.study_seed, effort=effort, on_progress=on_progress)
    if (out / RESULT).exists():
        raise RunFolderError(f"'{out}' holds a run; give the explanation a folder of its own")
    _stages_in(out)  # a damaged one is reported before the search, not after it
    explained = explain_denoiser(pipeline.denoiser, context, options)
    remove_stages(out)
    sampled = {"num_samples": options.num_samples, "moments": ()}
    likely = {} if options.num_samples else {"num_likelihood": 0}
    evaluation = config.evaluation.model_copy(update=sampled | likely)
    judged = config.model_copy(update={"evaluation": evaluation})
    shared = task.reference(dataset, process, judged.judging, config.study_seed, config.seed)
    standings: dict[str, Stage] = {}
    for name, denoiser in explained.stages.items():
        on_progress("judging", name, len(standings) / len(explained.stages))
        stage = type(pipeline).from_pipe(pipeline, denoiser=denoiser)
        standings[name] = judge_stage(name, stage, judged, dataset, shared, out)
    on_progress("looking", "at every noise level", 0.0)
    timesteps, formula = default_levels(process), explained.stages.get("formula")
    title, columns = f"{config.model.name} on {config.data.name}", tuple(each.name for each in maps)
    score = expressions = None
    if isinstance(formula, FormulaDenoiser):
        expressions = [str(part) for part in formula.expressions()]
        score = score_latex(formula, columns)
        text = (rf"\[ s_{{{k}}} = {part} \]" for k, part in enumerate(score))
        write_text(out / "formula.tex", "\n".join([f"% {title}", *text, ""]))
        write_text(out / "formula.py", formula_program(formula, title, maps))
    sentences = _sentences(explained, standings, maps, options, dataset.density is None)
    explanation = Explanation(
        **vars(explained),
        title=title,
        columns=columns,
        command=command,
        standings=list(standings.values()),
        views={
            name: view_network(denoiser, context, timesteps)
            for name, denoiser in explained.stages.items()
            if isinstance(denoiser, ReadableDenoiser)
        },
        score=view_score(explained.stages, context, timesteps),
        sentences=list(sentences),
        formula=score,
    )
    content = {
        "title": title,
        "columns": columns,
        "sentences": explanation.sentences,
        "standings": [vars(stage) for stage in explanation.standings],
        "edges": [vars(edge) for edge in explained.edges],
        "score": score,
        "expressions": expressions,
    }
    write_json(out / "formulas.json", finite(content))
    return explanation
