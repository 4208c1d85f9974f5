"""Results of a study: rows, statistics, verdicts and words.

This is the only place that reads rows. They are normalised once (`rows`), compared by paired tests
(`statistics`), decided upon (`verdicts`) and put into words (`wording`); the terminal, the report
and the documentation show these words.
"""

from kan_diffusion.study.results.rows import Results, Setting, read_results
from kan_diffusion.study.results.verdicts import Comparison, Lead, Verdict, compare, decide
from kan_diffusion.study.results.wording import say, say_lead

__all__ = [
    "Comparison",
    "Lead",
    "Results",
    "Setting",
    "Verdict",
    "compare",
    "decide",
    "read_results",
    "say",
    "say_lead",
]
