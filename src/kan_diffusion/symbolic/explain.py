"""From a finished run to an explanation: look, simplify, find formulas, judge, write down.

The explanation's folder holds, beside what :mod:`kan_diffusion.report.explanation` draws,

* ``simplified/``, ``with-formulas/`` and ``formula/``: runs like any other, to be sampled and
  evaluated by the same commands;
* ``formulas.json``: the formulas, the edges and how each stage does;
* ``formula.tex`` and ``formula.py``, ``network.py``: the same as text and as programs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from kan_diffusion.data.datasets import Dataset, load_dataset
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.formula import FormulaDenoiser
from kan_diffusion.denoisers.kan import KANDenoiser
from kan_diffusion.denoisers.readable import CURVE, ReadableDenoiser
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.files import finite, write_json, write_text
from kan_diffusion.study.measure import load_run, yardstick
from kan_diffusion.symbolic.combination import Combination, compose, score_of
from kan_diffusion.symbolic.context import Context, make_context
from kan_diffusion.symbolic.explanation import Explanation, LevelFormula, Standing
from kan_diffusion.symbolic.levels import formula_over_levels
from kan_diffusion.denoisers.readable import readable
from kan_diffusion.symbolic.pruning import drop_idle, prune, prune_in_rounds, straighten
from kan_diffusion.symbolic.search import EdgeReport, SearchOptions, find_formulas
from kan_diffusion.symbolic.stages import judge_stage, remove_stages, save_stage
from kan_diffusion.symbolic.views import (
    LevelView,
    NetworkView,
    default_levels,
    view_network,
    view_score,
)
from kan_diffusion.symbolic.writing import (
    formula_program,
    level_latex,
    network_program,
    noise_latex,
    score_latex,
)

__all__ = ["ExplainOptions", "Explained", "explain_denoiser", "explain_run", "influences"]

Progress = Callable[[str], None]

_NO_EFFECT = 0.005
"""Attribution of edges that need no trial before they go."""


@dataclass(frozen=True)
class ExplainOptions:
    """What an explanation does.

    Attributes:
        prune: Attribution below which edges are taken away; None leaves the network as it is, and
            no formulas are looked for.
        formulas: Whether to look for formulas.
        search: What formulas, and how; its ``tolerance`` is also what straightening may cost.
        tune_steps: Steps of training after each stage.
        levels: Timesteps to look at; a few over all noise levels when None.
        num_samples: Points to generate from each stage, to be judged; 0 for none.
        over_levels: Whether to look for one formula over all noise levels.
        level_seconds: Time budget of that.
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
    """The denoisers behind an explanation.

    Attributes:
        network: The network as it was trained.
        simplified: After pruning and straightening; None where not asked for.
        with_formulas: With formulas in place of curves; None where they were not looked for.
        formula: One formula for all noise levels; None where there is none.
        edges: What became of each edge.
    """

    network: ReadableDenoiser
    simplified: ReadableDenoiser | None
    with_formulas: ReadableDenoiser | None
    formula: FormulaDenoiser | None
    edges: tuple[EdgeReport, ...]

    def stages(self) -> dict[str, Denoiser]:
        """The denoisers there are, by name."""
        named: dict[str, Denoiser | None] = {
            "network": self.network,
            "simplified": self.simplified,
            "with formulas": self.with_formulas,
            "formula": self.formula,
        }
        return {name: denoiser for name, denoiser in named.items() if denoiser is not None}


def explain_denoiser(
    denoiser: KANDenoiser,
    context: Context,
    options: ExplainOptions | None = None,
    on_progress: Progress | None = None,
) -> Explained:
    """Simplifies a trained denoiser and looks for formulas.

    Args:
        denoiser: The trained denoiser, which is left as it is.
        context: Its data and process.
        options: What to do; the defaults when None.
        on_progress: Told a line a step of the way.

    Raises:
        KanDiffusionError: It cannot be taken apart, or has too many edges for formulas.
    """
    options = ExplainOptions() if options is None else options
    say = on_progress or (lambda line: None)
    network = readable(denoiser)
    if options.prune is None:
        return Explained(network, None, None, None, ())
    current = prune_in_rounds(network, context, options.prune, on_progress=say).denoiser
    context.tune(current, options.tune_steps, 1e-2)
    search = options.search
    if not options.formulas or len(current.edges) > search.max_edges:
        if options.formulas:
            say(_too_many(current, search.max_edges))
        return Explained(network, current, None, None, ())
    current = straighten(current, context, tolerance=search.tolerance, on_progress=say)
    context.tune(current, options.tune_steps, 1e-2)
    current = drop_idle(current, context, tolerance=search.tolerance / 10, on_progress=say)
    # What is left without any effect, such as units that no edge enters any more.
    current = prune(current, context, _NO_EFFECT).denoiser
    simplified = current
    found = find_formulas(current, context, search, say)
    if 0 < found.num_curves < len(found.edges) / 2:
        # With formulas in their places, what is left may be straight or clearer than it was.
        current = found.denoiser
        context.tune(current, options.tune_steps, 5e-3)
        current = straighten(current, context, tolerance=search.tolerance, on_progress=say)
        found = find_formulas(current, context, search, say)
    with_formulas = found.denoiser
    context.tune(with_formulas, 2 * options.tune_steps, 5e-3)
    formula = None
    if options.over_levels:
        formula = formula_over_levels(
            with_formulas,
            context,
            tolerance=search.tolerance,
            seconds=options.level_seconds,
            on_progress=say,
        )
    return Explained(network, simplified, with_formulas, formula, found.edges)


def _too_many(denoiser: ReadableDenoiser, most: int) -> str:
    return (
        f"{len(denoiser.edges)} edges are left, more than {most}: no formulas are looked for; take "
        "more away with --prune, train with --sparsify, or raise --max-edges"
    )


def influences(denoiser: ReadableDenoiser) -> np.ndarray:
    """Which coordinates of the points reach which coordinates of the prediction.

    Args:
        denoiser: A network.

    Returns:
        Whether there is a path of edges, with shape (d outputs, d inputs), bool.
    """
    of_inputs = denoiser.input_coordinates()
    reached = [{coordinate} if coordinate is not None else set() for coordinate in of_inputs]
    for layer in denoiser.layers:
        after: list[set[int]] = [set() for _ in range(layer.out_features)]
        for edge in layer.edges:
            after[edge.output] |= reached[edge.input]
        reached = after
    d = denoiser.data_dim
    return np.array([[i in reached[o] for i in range(d)] for o in range(d)])


def _level_formulas(
    denoiser: ReadableDenoiser, context: Context, timesteps: list[int], columns: tuple[str, ...]
) -> tuple[LevelFormula, ...]:
    process = context.process
    steps = np.array(timesteps, dtype=np.int64)
    alpha, sigma = (level.numpy()[steps] for level in process.levels())
    scores: list[Combination] = score_of(compose(denoiser, steps), process, alpha, sigma)
    if not all(score.is_complete for score in scores):
        return ()
    made = []
    for number, timestep in enumerate(timesteps):
        x = context.noised(timestep, 2000)
        with torch.no_grad():
            prediction = denoiser(x.to(denoiser.dtype), timestep, return_dict=False)[0].double()
        a, s = torch.tensor([[alpha[number]]]), torch.tensor([[sigma[number]]])
        noise = process.predicted_noise(prediction, x, a, s).numpy()
        one = np.broadcast_to(x.numpy(), (len(steps), *x.shape))
        values = np.stack([score.values(one)[number] for score in scores], axis=-1)
        made.append(
            LevelFormula(
                level=LevelView(timestep, float(alpha[number]), float(sigma[number])),
                score=level_latex(scores, number, columns),
                ranges=np.quantile(x.numpy(), [0.001, 0.999], axis=0).T,
                error=float(np.sqrt(np.mean((-sigma[number] * values - noise) ** 2))),
            )
        )
    return tuple(made)


def _sentences(
    explained: Explained,
    standings: list[Standing],
    columns: tuple[str, ...],
    options: ExplainOptions,
    *,
    chose_on_heldout: bool,
) -> tuple[str, ...]:
    """What was found, in words."""
    by_name = {standing.name: standing for standing in standings}
    found = []

    def how(name: str) -> str:
        standing = by_name[name]
        if standing.excess is None:
            return f"held-out loss {standing.loss:.4g}"
        return f"excess {standing.excess:.2g}"

    if explained.formula is not None:
        found.append(
            f"One formula holds at all noise levels: {how('formula')} with "
            f"{explained.formula.num_trainable} constants, where the network has "
            f"{how('network')} with {by_name['network'].constants} parameters."
        )
    elif explained.with_formulas is not None:
        curves = [edge for edge in explained.edges if edge.kind == CURVE]
        if curves:
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
        else:
            found.append(
                "Every edge is a formula, but no coefficients as functions of the noise level "
                "keep the loss: the formula is given level by level."
            )
    found += [
        f"Points generated from the stage '{standing.name}' cannot be judged: {standing.trouble}."
        for standing in standings
        if standing.trouble
    ]
    if explained.simplified is not None:
        if explained.with_formulas is None and options.formulas:
            found.append(f"{_too_many(explained.simplified, options.search.max_edges)}.")
        found.append(
            f"Of {len(explained.network.edges)} edges {len(explained.simplified.edges)} are left "
            f"after simplifying: {how('network')} before, {how('simplified')} after."
        )
        reach = influences(explained.simplified)
        for output, of_output in enumerate(reach):
            absent = [columns[i] for i in np.flatnonzero(~of_output) if i != output]
            if absent:
                found.append(
                    f"No edge leads from {' or '.join(absent)} to the score of {columns[output]}."
                )
        if chose_on_heldout:
            found.append(
                "What goes and what stays was decided on the held-out rows that the stages are "
                "judged with, which makes their numbers a little too good; fresh rows would tell "
                "(kan-diffusion evaluate --data)."
            )
    return tuple(found)


def explain_run(
    run: Path,
    out: Path,
    options: ExplainOptions | None = None,
    *,
    command: str = "",
    on_progress: Progress | None = None,
) -> tuple[Explanation, Explained]:
    """Explains a finished run, and writes all but the pictures.

    Args:
        run: Folder of the run.
        out: Folder of the explanation.
        options: What to do; the defaults when None.
        command: What makes this explanation again.
        on_progress: Told a line a step of the way.

    Returns:
        The explanation and the denoisers behind it.

    Raises:
        RunFolderError: There is no finished run, or the folder cannot be written.
        KanDiffusionError: The denoiser cannot be taken apart.
    """
    options = ExplainOptions() if options is None else options
    config, pipeline = load_run(run)
    if not isinstance(pipeline.denoiser, KANDenoiser | ReadableDenoiser):
        raise KanDiffusionError(
            f"'{run}' is of family '{config.model.family}': only KANs have edges to read; train "
            "one with --family readable-kan, kan or modulated-kan"
        )
    timesteps = list(options.levels or default_levels(config.process))
    for timestep in timesteps:
        if not 0 <= timestep < config.process.num_timesteps:
            raise KanDiffusionError(
                f"timestep {timestep} is not one of the process, which has 0 to "
                f"{config.process.num_timesteps - 1}; choose others with --levels"
            )
    dataset: Dataset = load_dataset(config.data, config.study_seed, config.seed)
    context = make_context(dataset, config.process, config.study_seed)
    explained = explain_denoiser(pipeline.denoiser, context, options, on_progress)
    _remove_earlier(out)
    say = on_progress or (lambda line: None)
    shared = None
    evaluation = config.evaluation.model_copy(
        update={"num_samples": options.num_samples, "moments": ()}
    )
    judged = config.model_copy(update={"evaluation": evaluation})
    if options.num_samples:
        split = config.seed if dataset.split_by_seed else 0
        shared = yardstick(dataset, config.process, evaluation, config.study_seed, split)
    standings = []
    samples: dict[str, np.ndarray] = {}
    for name, denoiser in explained.stages().items():
        say(f"judging: {name}")
        standing, row, levels, drawn = judge_stage(
            name, denoiser, context, judged, shared, pipeline
        )
        standings.append(standing)
        if drawn is not None:
            samples[name] = drawn[:1000]
        if name != "network":
            save_stage(name, denoiser, judged, row, levels, drawn, pipeline, out)
    if samples:
        samples = {"real": context.draw.clean[:1000].numpy(), **samples}
    title = f"{config.model.name} on {config.data.name}"
    columns = tuple(pipeline.config.columns)
    formula, with_formulas = explained.formula, explained.with_formulas
    explanation = Explanation(
        title=title,
        columns=columns,
        command=command,
        network=view_network(explained.network, context, timesteps),
        score=view_score(explained.stages(), context, timesteps),
        simplified=_view(explained.simplified, context, timesteps),
        readable=_view(with_formulas, context, timesteps),
        edges=explained.edges,
        standings=tuple(standings),
        sentences=_sentences(
            explained,
            standings,
            columns,
            options,
            chose_on_heldout=dataset.density is None,
        ),
        formula=None if formula is None else score_latex(formula, columns),
        noise=None if formula is None else noise_latex(formula, columns),
        level_formulas=()
        if with_formulas is None
        else _level_formulas(with_formulas, context, timesteps, columns),
        samples=samples,
    )
    _write(explanation, explained, out)
    return explanation, explained


def _view(
    denoiser: ReadableDenoiser | None, context: Context, timesteps: list[int]
) -> NetworkView | None:
    return None if denoiser is None else view_network(denoiser, context, timesteps)


def _remove_earlier(out: Path) -> None:
    """Takes away what an earlier explanation found and this one may not find."""
    remove_stages(out)
    for name in ("formula.tex", "formula.py", "network.py"):
        (out / name).unlink(missing_ok=True)


def _write(explanation: Explanation, explained: Explained, out: Path) -> None:
    """Writes formulas as JSON, LaTeX and programs."""
    formula, with_formulas = explained.formula, explained.with_formulas
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
    lines = [f"% {explanation.title}"]
    parts = [("score, all noise levels", explanation.formula or ())]
    parts += [
        (f"score at sigma = {part.level.sigma:.3f}", part.score)
        for part in explanation.level_formulas
    ]
    for what, expressions in parts:
        if expressions:
            lines.append(f"% {what}")
            lines += [
                rf"\[ s_{{{number}}} = {expression} \]"
                for number, expression in enumerate(expressions)
            ]
    if len(lines) > 1:
        write_text(out / "formula.tex", "\n".join(lines) + "\n")
    if formula is not None:
        write_text(out / "formula.py", formula_program(formula, explanation.title))
    if with_formulas is not None:
        with suppress(KanDiffusionError):  # of curves that are no splines there is no program
            write_text(out / "network.py", network_program(with_formulas, explanation.title))
