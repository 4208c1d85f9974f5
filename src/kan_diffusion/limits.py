"""Upper bounds of settings and options, far above what one machine does in a week.

Without them a typo such as ``--steps 10000000000`` would train for years or fill the memory; with
them it is an error at once.
"""

from __future__ import annotations

__all__ = [
    "LARGEST_SETTING",
    "LONGEST_NAME",
    "MOST_BYTES",
    "MOST_COLUMNS",
    "MOST_GUIDANCE",
    "MOST_LAYERS",
    "MOST_MOMENTS",
    "MOST_OPERATIONS",
    "MOST_PARAMETERS",
    "MOST_POINTS",
    "MOST_SECONDS",
    "MOST_SIDE",
    "MOST_STEPS",
    "MOST_TIMESTEPS",
    "MOST_TRIALS",
    "MOST_UNITS",
    "MOST_VALUES",
    "MOST_WORKERS",
]

LONGEST_NAME = 100
"""Characters of a name; with an extension it is still a valid file name."""

LARGEST_SETTING = 10_000_000
"""A number among the settings of a saved denoiser: widths, timesteps, intervals of a grid."""

MOST_TIMESTEPS = 100_000
"""Steps of a noising process, and of a sampler."""

MOST_STEPS = 10_000_000
"""Optimiser steps of a training run; hours for a small network on one core."""

MOST_UNITS = 1_000_000
"""Units of a hidden layer."""

MOST_PARAMETERS = 100_000_000
"""Parameters of a denoiser; their training takes 2 GB."""

MOST_OPERATIONS = 1_000_000_000_000
"""Floating-point operations of one forward pass of one point."""

MOST_LAYERS = 100
"""Hidden layers of a denoiser."""

MOST_POINTS = 10_000_000
"""Points of a batch, of a toy's training set and of an evaluation."""

MOST_VALUES = 200_000_000
"""Numbers, rows times columns, that are read from a file or sampled at once; 1.6 GB."""

MOST_BYTES = 2_000_000_000
"""Bytes that a packed file may hold."""

MOST_SIDE = 1_024
"""Pixels of a side of a sample."""

MOST_COLUMNS = 10_000
"""Columns of a table."""

MOST_GUIDANCE = 1_000
"""Strength of classifier-free guidance."""

MOST_MOMENTS = 100
"""Moments of training that a trial records."""

MOST_SECONDS = 10_000_000
"""Seconds of a budget of time, nearly four months."""

MOST_TRIALS = 10_000
"""Seeds of a model, and tries of a search."""

MOST_WORKERS = 1_024
"""Trials side by side."""
