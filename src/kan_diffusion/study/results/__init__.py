"""Intervals, tests and verdicts over the rows of a study."""
