"""``python -m kan_diffusion``: the command line."""

from __future__ import annotations

from kan_diffusion.cli import main

if __name__ == "__main__":  # trials run in processes that import this module
    main()
