r"""The truth lab: densities whose exact score is known, and what is recovered of it.

================== ============================================= =================================
density            its score, standardised, noised               what must come out
================== ============================================= =================================
correlated         :math:`-(\alpha^2 \Sigma + \sigma^2 I)^{-1}x` a linear formula, coefficients
Gaussian                                                         within 2 %
two modes          :math:`(-x + \alpha m \tanh(\alpha m x / v))  this form, constants within 3 %
                   / v, \; v = \alpha^2 s^2 + \sigma^2`
four modes         the same in each coordinate                   no edge from one coordinate to the
                                                                 other's score
swiss roll         no short formula                              none, said with numbers
narrow modes       as of two modes                               the same, 3 %
uneven modes       with offsets within the tanh and outside      this form, within 3 %
oblique modes      the tanh of a sum of the coordinates          this form, within 3 %
================== ============================================= =================================

Each is learned by a readable KAN from points alone, explained as any run is, with the defaults of
``kan-diffusion explain``, and compared with the truth, over several seeds. A result is a file of
its own, so that an interrupted lab goes on.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.utils.logging import disable_progress_bar

from kan_diffusion.data.toys import ToyData
from kan_diffusion.denoisers.edges import CURVE
from kan_diffusion.denoisers.formula import FormulaDenoiser
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.files import finite, write_json
from kan_diffusion.formulas.explain import explain_run, influences
from kan_diffusion.formulas.views import default_levels
from kan_diffusion.study.named import single_trial
from kan_diffusion.study.trial import run_trial
from truth_lab.truth import Recovered, recovered_constants


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
    """

    toy: str
    params: int
    question: str
    bound: float | None
    steps: int = 3000
    num_points: int = 200_000
    sparsify: float = 1e-3


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
        outcome: What the explanation says first.
        formula: The score's coordinates in LaTeX; empty where there is no formula.
        constants: Constants recovered, at each noise level.
        has_form: Whether the formula has the form of the truth.
        separate: Whether no edges lead from one coordinate to another's score.
        edges: Number of edges left.
        curves: How many of them stay curves.
        excess: Excess by stage.
        energy_ratio: Energy distance of the formula's samples over that between real samples; None
            where there is no formula, or it cannot be sampled.
        seconds: Wall-clock time of explaining.
    """

    toy: str
    seed: int
    outcome: str
    formula: Sequence[str]
    constants: Sequence[Recovered]
    has_form: bool
    separate: bool
    edges: int
    curves: int
    excess: Mapping[str, float]
    energy_ratio: float | None
    seconds: float

    @property
    def worst(self) -> float:
        """Largest relative error of a constant; infinite where the form was not found."""
        if not self.has_form:
            return math.inf
        return max((constant.error for constant in self.constants), default=0.0)


def run_lab_case(case: LabCase, seed: int, folder: Path) -> LabResult:
    """Trains on a density, explains what came of it and compares with the truth.

    Args:
        case: The density.
        seed: What all draws derive from.
        folder: The lab's folder; a result that is there is read.
    """
    place = folder / "runs" / f"{case.toy}-{seed}"
    if (path := place / "result.json").is_file():
        content = json.loads(path.read_text())
        constants = [Recovered(**constant) for constant in content["constants"]]
        return LabResult(**{**content, "constants": constants})
    torch.set_num_threads(1)
    disable_progress_bar()
    config = single_trial(
        ToyData(toy=case.toy, num_points=case.num_points),
        family="readable-kan",
        params=case.params,
        steps=case.steps,
        seed=seed,
        sparsify=case.sparsify,
    )
    run_trial(config, place / "run", device="cpu")
    started = time.perf_counter()
    explanation = explain_run(place / "run", place / "explanation", command="make lab")
    seconds, stages = time.perf_counter() - started, explanation.stages
    has_form, constants = False, []
    formula = stages.get("formula")
    if isinstance(formula, FormulaDenoiser) and case.bound is not None:
        timesteps = default_levels(config.process)
        has_form, constants = recovered_constants(formula, case.toy, config.process, timesteps)
    metrics, real = explanation.standings[-1].metrics, explanation.standings[-1].real
    networks = [each for each in stages.values() if isinstance(each, ReadableDenoiser)]
    reach = influences(networks[-1])
    result = LabResult(
        toy=case.toy,
        seed=seed,
        outcome=explanation.sentences[0],
        formula=list(explanation.formula or ()),
        constants=constants,
        has_form=has_form,
        separate=not reach[~np.eye(len(reach), dtype=bool)].any(),
        edges=len(networks[-1].edges),
        curves=sum(edge.kind == CURVE for edge in explanation.edges),
        excess={s.name: s.excess for s in explanation.standings if s.excess is not None},
        energy_ratio=metrics["energy"] / real["energy"] if formula and metrics else None,
        seconds=seconds,
    )
    write_json(path, finite(asdict(result)))
    return result


def run_lab(
    folder: Path, *, seeds: int = 5, workers: int = 1, cases: Sequence[str] = tuple(LAB)
) -> list[LabResult]:
    """Runs the lab, or goes on with it.

    Args:
        folder: Where it is kept.
        seeds: Training runs a density.
        workers: How many run side by side, a process and a thread each.
        cases: Densities, of ``LAB``.

    Raises:
        RunFolderError: The folder cannot be written.
        KanDiffusionError: A process died.
    """
    runs = [(LAB[name], seed, folder) for seed in range(seeds) for name in cases]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        with ProcessPoolExecutor(
            max_workers=workers, mp_context=multiprocessing.get_context("spawn")
        ) as pool:
            return list(pool.map(run_lab_case, *zip(*runs, strict=True)))
    except BrokenProcessPool as error:
        raise KanDiffusionError(
            "a process of the lab died; what is finished is kept: give the same command again, "
            "with fewer --workers if memory was short"
        ) from error
