"""Figures, tables and one page that say how a study went."""

from kan_diffusion.report.contents import ReportContents
from kan_diffusion.report.study import write_report
from kan_diffusion.report.tables import summary_table, trial_table

__all__ = ["ReportContents", "summary_table", "trial_table", "write_report"]
