"""``python -m kan_diffusion``: the command line."""

from __future__ import annotations

import sys

if __name__ == "__main__":  # trials run in processes that import this module
    if not sys.flags.safe_path:
        del sys.path[0]  # the working folder, from which nobody asked for a module
    from kan_diffusion.cli import main

    main()
