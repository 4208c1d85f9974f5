"""Evaluation: oracles, denoising losses against them, and sample metrics."""
