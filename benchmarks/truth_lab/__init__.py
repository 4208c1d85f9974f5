"""Scores that are known exactly, and what of them is recovered: a benchmark of `explain`."""
