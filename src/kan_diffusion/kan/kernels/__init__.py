"""Evaluates layers by torch's own operations or by compiled CPU kernels."""

import os

__all__ = ()

# Or numba takes the folder of compiled code, which it runs, from a file of the working folder.
os.environ.setdefault("NUMBA_CACHE_DIR", "")
