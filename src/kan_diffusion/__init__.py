"""Diffusion models whose denoiser is a Kolmogorov-Arnold network.

The public names are those of ``__init__.pyi``; each is imported when it is first used, so that
importing the package costs nothing.
"""

from __future__ import annotations

import lazy_loader

from kan_diffusion._version import __version__
from kan_diffusion.registration import offer

__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]  # the stub's

offer([name for name in _names if name.endswith("DiffusionPipeline")], __getattr__)
