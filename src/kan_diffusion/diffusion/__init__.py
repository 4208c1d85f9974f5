"""Samplers and pipelines, and the density of a trained denoiser."""
