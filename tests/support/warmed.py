"""What the server that tests fork from imports and does once, so that no command waits for it."""

# ruff: noqa: F401

import diffusers.pipelines.pipeline_utils
import ot
import pyarrow.parquet
import sklearn.ensemble
import torch

import kan_diffusion.cli.app
import kan_diffusion.report.explanation
import kan_diffusion.report.study
import kan_diffusion.study.tuning
import kan_diffusion.symbolic.explain
from kan_diffusion.kan import KAN

KAN([1, 1])(torch.zeros(1, 1))  # the first call of a kernel
