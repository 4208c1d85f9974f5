"""A result of the truth lab made by hand."""

from __future__ import annotations

import math

from truth_lab.lab import LabResult
from truth_lab.truth import Recovered


def make_result(toy: str = "two-modes", seed: int = 3, **changes: object) -> LabResult:
    """A result whose worst constant is 5 % off; ``changes`` are fields to set."""
    fields: dict[str, object] = {
        "formula": ("- x",),
        "constants": (Recovered("m", 0.5, 2.0, 2.1), Recovered("v", 0.5, -1.0, -1.01)),
        "has_form": True,
        "separate": toy != "correlated-gaussian",
        "edges": 7,
        "curves": 0,
        "best_r2": math.nan,
        "excess": {"network": 0.0123, "formula": 0.00456},
        "energy": {"network": 0.002, "formula": 0.003},
        "energy_real": 0.002,
        "pykan": {},
        "seconds": 12.5,
    }
    return LabResult(**{"toy": toy, "seed": seed, **fields, **changes})
