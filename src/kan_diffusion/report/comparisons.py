"""What a report concludes: verdicts, differences and ranks, from models that are comparable.

Models are compared within a setting. Where a study held nothing equal, those of its models that
happen to be equal in parameters (or in what `ReportContents.budget` names) are compared, if there
are a KAN and an MLP among them; else the setting has no verdict.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from kan_diffusion.report.contents import ReportContents
from kan_diffusion.report.tables import budget_groups, headline, listed
from kan_diffusion.study.results.comparison import (
    PairedDifference,
    Ranking,
    SettingVerdict,
    differences_to_best_mlp,
    overall_sentence,
    rankings,
    verdicts,
)

__all__ = ["Conclusions", "conclude"]


@dataclass(frozen=True)
class Conclusions:
    """What a study's rows say.

    Attributes:
        overall: All verdicts in a sentence a budget; empty without a verdict.
        verdicts: Label of a setting to its verdict, where it has one.
        notes: Label of a setting to what to say of its verdict.
        answers: What to say, in words, of the settings without a verdict.
        differences: Every comparable model against the best MLP of its setting.
        rankings: Mean ranks over the data sets of each budget.
    """

    overall: str = ""
    verdicts: dict[str, SettingVerdict] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    differences: list[PairedDifference] = field(default_factory=list)
    rankings: list[Ranking] = field(default_factory=list)

    def differences_of(self, label: str) -> dict[str, PairedDifference]:
        """The differences of one setting, by model."""
        return {d.model: d for d in self.differences if d.setting.label == label}

    def baseline(self, label: str) -> str | None:
        """The MLP that the models of a setting are compared with."""
        return next((d.baseline for d in self.differences if d.setting.label == label), None)


def conclude(contents: ReportContents) -> Conclusions:
    """Draws the conclusions of a study."""
    rows = contents.complete_rows()
    parts, notes = [], {}
    for label, of_setting in rows.groupby("setting", sort=False):
        chosen = _comparable(of_setting, contents.budget)
        parts.append(chosen)
        names = list(dict.fromkeys(chosen["name"]))
        if 0 < len(names) < of_setting["name"].nunique():
            notes[str(label)] = f"Compared are the models of equal size: {listed(names)}."
    compared = pd.concat(parts) if parts else rows
    found = {verdict.setting.label: verdict for verdict in verdicts(compared)}
    without = [label for label in dict.fromkeys(rows["setting"]) if label not in found]
    return Conclusions(
        overall=overall_sentence(list(found.values())) if found else "",
        verdicts=found,
        notes=notes,
        answers=headline(contents, without),
        differences=differences_to_best_mlp(compared),
        rankings=rankings(compared),
    )


def _comparable(rows: pd.DataFrame, budget: str) -> pd.DataFrame:
    """The rows of one setting whose models are held equal, or happen to be."""
    if rows["match"].notna().any():
        return rows
    kinds = rows.drop_duplicates("name").set_index("name")["kind"]
    mixed = [
        group
        for group in budget_groups(rows, budget)
        if {"kan", "mlp"} <= {kinds[name] for name in group}
    ]
    largest: list[str] = []
    for group in mixed:
        largest = group if len(group) > len(largest) else largest
    return rows[rows["name"].isin(largest)]
