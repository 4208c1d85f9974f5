"""Evaluates layers by torch's own operations or by compiled CPU kernels."""
