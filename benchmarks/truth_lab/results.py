"""The densities of the truth lab, and what came of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["LAB", "LabCase", "LabResult", "LabResults", "Recovered"]


@dataclass(frozen=True)
class LabCase:
    """A density of the lab.

    Attributes:
        toy: Its name among the toys.
        params: Parameters of the network that learns it.
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
        LabCase("two-modes", 150, "is the tanh found, with its constants?", 0.03),
        LabCase("four-modes", 450, "does no edge lead from one coordinate to the other?", 0.03),
        LabCase("swiss-roll", 590, "is it said that there is no short formula?", None),
        LabCase("narrow-modes", 150, "is a sharper tanh found, too?", 0.03),
        LabCase("uneven-modes", 150, "are the offsets of unequal weights found?", 0.03),
        LabCase("oblique-modes", 450, "is the tanh of a sum of coordinates found?", 0.03),
    )
}
"""The densities of the lab."""


@dataclass(frozen=True)
class Recovered:
    """A constant at one noise level.

    Attributes:
        name: What it is.
        sigma: The noise level.
        true: What it is in truth.
        found: What was recovered.
    """

    name: str
    sigma: float
    true: float
    found: float

    @property
    def error(self) -> float:
        """Relative error."""
        return abs(self.found - self.true) / abs(self.true)


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
        pykan: What pykan's own search made of the network at one level; empty where not asked.
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
    pykan: dict[str, object]
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
