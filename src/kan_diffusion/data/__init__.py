"""Data: toy densities with exact oracles, sources of points, standardisation."""
