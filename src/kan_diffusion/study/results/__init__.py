"""Results of a study: rows, statistics, verdicts and words.

Only this package reads rows. It normalises them (`rows`), compares models by paired tests
(`statistics`), decides which are better (`verdicts`) and puts that into words (`wording`), each
once; the terminal, the report and the documentation show these words.
"""

from kan_diffusion.study.results.rows import Results, read_results
from kan_diffusion.study.results.verdicts import Comparison, Lead, Verdict, compare, decide
from kan_diffusion.study.results.wording import say, say_lead

__all__ = [
    "Comparison",
    "Lead",
    "Results",
    "Verdict",
    "compare",
    "decide",
    "read_results",
    "say",
    "say_lead",
]
