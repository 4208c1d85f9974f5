r"""The truth lab: densities whose exact score is known, and what is recovered of it.

================== ============================================= =================================
density            its score, standardised, noised               what must come out
================== ============================================= =================================
correlated         :math:`-(\alpha^2 \Sigma + \sigma^2 I)^{-1}x` a linear formula, coefficients
Gaussian                                                         within 2 %
two modes          :math:`(-x + \alpha m \tanh(\alpha m x / v))  this form, m and v within 3 %
                   / v, \; v = \alpha^2 s^2 + \sigma^2`
four modes         the same in each coordinate                   no edge from one coordinate to the
                                                                 other's score
swiss roll         no short formula                              none, said with numbers
narrow modes       as of two modes                               the same, 3 %
uneven modes       with offsets within the tanh and outside      this form, within 3 %
oblique modes      the tanh of a sum of the coordinates          this form, within 3 %
================== ============================================= =================================

Each is learned by a readable KAN from points alone, explained as any run is, and compared with the
truth, over several seeds. A result is a file of its own, so that an interrupted lab goes on.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers.utils.logging import disable_progress_bar

from kan_diffusion.data.toys import ToyData
from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.denoisers.edges import CURVE
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline, make_scheduler
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.evaluation.metrics import energy_distance
from kan_diffusion.files import finite, write_json
from kan_diffusion.formulas.explain import (
    ExplainOptions,
    Explanation,
    PhaseProgress,
    explain_run,
    influences,
)
from kan_diffusion.formulas.match import SearchOptions
from kan_diffusion.formulas.views import default_levels
from kan_diffusion.study.measure import load_run
from kan_diffusion.study.named import single_trial
from kan_diffusion.study.trial import run_trial
from truth_lab.truth import Recovered, recovered_constants

__all__ = [
    "LAB",
    "LabCase",
    "LabResult",
    "LabResults",
    "energies",
    "run_lab",
    "run_lab_case",
]

_SAMPLES = 2500
_SAMPLER_STEPS = 50
_DRAWS = 20


@dataclass(frozen=True)
class LabCase:
    """A density of the lab.

    Attributes:
        toy: Its name among the toys.
        params: Parameters of the network that learns it, at most.
        question: What is asked.
        bound: Largest relative error of a constant; None where there is nothing to recover.
        steps: Training steps.
        num_points: Training points: few of them would have constants of their own.
        sparsify: Weight of the penalty that makes edges few.
        seconds: Time budget of the search for formulas.
    """

    toy: str
    params: int
    question: str
    bound: float | None
    steps: int = 3000
    num_points: int = 200_000
    sparsify: float = 1e-3
    seconds: float = 120.0


LAB: dict[str, LabCase] = {
    case.toy: case
    for case in (
        LabCase("correlated-gaussian", 237, "is the score read as linear?", 0.02),
        LabCase("two-modes", 153, "is the tanh found, with its constants?", 0.03),
        LabCase("four-modes", 450, "does no edge lead from one coordinate to the other?", 0.03),
        LabCase("swiss-roll", 592, "is it said that there is no short formula?", None),
        LabCase("narrow-modes", 153, "is a sharper tanh found, too?", 0.03),
        LabCase("uneven-modes", 153, "are the offsets of unequal weights found?", 0.03),
        LabCase("oblique-modes", 450, "is the tanh of a sum of coordinates found?", 0.03),
    )
}
"""The densities of the lab."""


@dataclass(frozen=True)
class LabResult:
    """What came of one training run.

    Attributes:
        toy: The density.
        seed: The seed.
        formula: The score's coordinates in LaTeX; empty where there is no formula.
        constants: Constants recovered, at each noise level.
        has_form: Whether the formula has the form of the truth.
        separate: Whether no edges lead from one coordinate to another's score.
        edges: Number of edges left.
        curves: How many of them stay curves.
        best_r2: Best held-out R² of these; NaN where there are none.
        excess: Excess by stage.
        energy: Energy distance of samples by stage.
        energy_real: The same between two real samples.
        seconds: Wall-clock time of training and explaining.
    """

    toy: str
    seed: int
    formula: tuple[str, ...]
    constants: tuple[Recovered, ...]
    has_form: bool
    separate: bool
    edges: int
    curves: int
    best_r2: float
    excess: dict[str, float]
    energy: dict[str, float]
    energy_real: float
    seconds: float

    @property
    def worst(self) -> float:
        """Largest relative error of a constant; infinite where the form was not found."""
        if not self.has_form:
            return math.inf
        return max((constant.error for constant in self.constants), default=0.0)

    @property
    def energy_ratio(self) -> float:
        """Energy distance of the formula's samples over that between real samples."""
        return self.energy.get("formula", math.nan) / self.energy_real


@dataclass(frozen=True)
class LabResults:
    """All of the lab.

    Attributes:
        results: One a density and seed.
    """

    results: tuple[LabResult, ...]

    def of(self, toy: str) -> list[LabResult]:
        """The results of a density."""
        return [result for result in self.results if result.toy == toy]

    def summary(self) -> list[tuple[str, str, str]]:
        """Density, question and answer, a row each."""
        rows = []
        for toy, case in LAB.items():
            results = self.of(toy)
            if not results:
                continue
            count = len(results)
            if case.bound is None:
                none = sum(not result.formula for result in results)
                curves = ", ".join(f"{r.curves} of {r.edges}" for r in results)
                answer = f"no formula in {none} of {count}; edges that stay curves: {curves}"
            else:
                good = sum(result.worst <= case.bound for result in results)
                of_form = [result.worst for result in results if result.has_form]
                notes = [f"worst {max(of_form):.2%}"] if of_form else []
                if len(of_form) < count:
                    notes.append(f"form not found in {count - len(of_form)}")
                answer = (
                    f"constants within {case.bound:.0%} in {good} of {count} ({', '.join(notes)})"
                )
                ratios = [result.energy_ratio for result in results if "formula" in result.energy]
                if ratios:
                    answer += (
                        f"; samples' energy distance at most {max(ratios):.2f} times "
                        "real-against-real"
                    )
                if toy == "four-modes":
                    apart = sum(result.separate for result in results)
                    answer = f"no such edge in {apart} of {count}; {answer}"
            rows.append((toy, case.question, answer))
        return rows


def energies(run: Path, stages: Mapping[str, Denoiser]) -> tuple[dict[str, float], float]:
    """Energy distances of samples to real points by stage, and of real points to others.

    Means over twenty samples, because a single one may well be three times its mean. Fifty steps of
    Heun's method, because with few steps the sampler's own error would be measured.

    Args:
        run: Folder of the run they come from, on a toy.
        stages: Denoisers by name.

    Returns:
        The mean energy distance by name, infinite where some points are no finite numbers, and the
        one between real points.
    """
    config, pipeline = load_run(run)
    assert isinstance(config.data, ToyData)
    density = config.data.density
    generator = torch.Generator().manual_seed(config.study_seed)

    def real() -> torch.Tensor:
        return density.sample(_SAMPLES, generator)

    between_real = [energy_distance(real(), real()) for _ in range(2 * _DRAWS)]
    energies = {}
    for name, denoiser in stages.items():
        made = PointDiffusionPipeline(
            denoiser,
            pipeline.process,
            pipeline.config.mean,
            pipeline.config.scale,
            scheduler=make_scheduler("heun", pipeline.process),
        )
        drawn = [
            made(_SAMPLES, _SAMPLER_STEPS, generator=generator).samples.double()
            for _ in range(_DRAWS)
        ]
        try:
            energies[name] = float(np.mean([energy_distance(points, real()) for points in drawn]))
        except KanDiffusionError:  # points that are no numbers are at no distance
            energies[name] = math.inf
    return energies, float(np.mean(between_real))


def run_lab_case(
    case: LabCase,
    seed: int,
    folder: Path,
    *,
    draw: Callable[[Explanation, Path], object] | None = None,
    on_progress: PhaseProgress | None = None,
) -> LabResult:
    """Trains on a density, explains what came of it and compares with the truth.

    Args:
        case: The density.
        seed: What all draws derive from.
        folder: The lab's folder; a result that is there is read.
        draw: Draws an explanation into a folder.
        on_progress: Told of every step, as in :func:`explain_run`.
    """
    place = folder / "runs" / f"{case.toy}-{seed}"
    path = place / "result.json"
    if path.is_file():
        return _read(path)
    torch.set_num_threads(1)
    disable_progress_bar()
    started = time.perf_counter()
    config = single_trial(
        case.toy,
        family="readable-kan",
        params=case.params,
        steps=case.steps,
        seed=seed,
        sparsify=case.sparsify,
    )
    data = ToyData(toy=case.toy, num_points=case.num_points)
    config = config.model_copy(update={"data": data})
    run_trial(config, place / "run", device="cpu")
    options = ExplainOptions(search=SearchOptions(seconds=case.seconds), level_seconds=600.0)
    explanation, explained = explain_run(
        place / "run",
        place / "explanation",
        options,
        command="make lab",
        on_progress=on_progress,
    )
    seconds = time.perf_counter() - started
    energy, energy_real = energies(place / "run", explained.stages())
    if draw is not None:
        draw(explanation, place / "explanation")
    has_form = False
    constants: list[Recovered] = []
    timesteps = default_levels(config.process)
    if explained.formula is not None and case.bound is not None:
        has_form, constants = recovered_constants(
            explained.formula, case.toy, config.process, timesteps
        )
    left = explained.with_formulas or explained.simplified or explained.network
    curves = [edge for edge in explained.edges if edge.kind == CURVE]
    reach = influences(left)
    result = LabResult(
        toy=case.toy,
        seed=seed,
        formula=explanation.formula or (),
        constants=tuple(constants),
        has_form=has_form,
        separate=bool(reach[~np.eye(len(reach), dtype=bool)].sum() == 0),
        edges=len(left.edges),
        curves=len(curves),
        best_r2=max((edge.r2 for edge in curves if edge.r2 is not None), default=math.nan),
        excess={s.name: s.excess for s in explanation.standings if s.excess is not None},
        energy=energy,
        energy_real=energy_real,
        seconds=seconds,
    )
    _save(result, path)
    return result


def _save(result: LabResult, path: Path) -> None:
    content = {**vars(result), "constants": [vars(c) for c in result.constants]}
    write_json(path, finite(content))


def _read(path: Path) -> LabResult:
    content = json.loads(path.read_text())
    content["constants"] = tuple(Recovered(**constant) for constant in content["constants"])
    content["formula"] = tuple(content["formula"])
    for key in ("energy", "excess"):
        content[key] = {
            name: math.inf if value is None else value for name, value in content[key].items()
        }
    content["best_r2"] = math.nan if content["best_r2"] is None else content["best_r2"]
    return LabResult(**content)


def run_lab(
    folder: Path,
    *,
    seeds: int = 5,
    workers: int = 1,
    cases: Sequence[str] = tuple(LAB),
    draw: Callable[[Explanation, Path], object] | None = None,
    on_progress: PhaseProgress | None = None,
) -> LabResults:
    """Runs the lab, or goes on with it.

    Args:
        folder: Where it is kept.
        seeds: Training runs a density.
        workers: How many run side by side, a process and a thread each.
        cases: Densities, of ``LAB``.
        draw: Draws an explanation into a folder; a function that can be imported.
        on_progress: Told of every run, as in :func:`explain_run`.

    Raises:
        RunFolderError: The folder cannot be written.
        KanDiffusionError: A process died.
    """
    todo = [(LAB[name], seed) for seed in range(seeds) for name in cases]
    found: dict[tuple[str, int], LabResult] = {}
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(
        max_workers=max(1, workers),
        mp_context=context,
        initializer=signal.signal,  # interrupts are the driver's affair
        initargs=(signal.SIGINT, signal.SIG_IGN),
    ) as pool:
        futures = {
            pool.submit(partial(run_lab_case, case, seed, folder, draw=draw)): (case.toy, seed)
            for case, seed in todo
        }
        try:
            for number, future in enumerate(as_completed(futures), 1):
                key = futures[future]
                found[key] = future.result()
                if on_progress is not None:
                    on_progress("runs", f"{key[0]}, seed {key[1]}", number / len(todo))
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            if isinstance(error, BrokenProcessPool):
                raise KanDiffusionError(
                    "a process of the lab died; what is finished is kept: give the same command "
                    "again, with fewer --workers if memory was short"
                ) from error
            raise
    return LabResults(tuple(found[case.toy, seed] for case, seed in todo))
