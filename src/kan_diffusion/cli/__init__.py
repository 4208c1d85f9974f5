"""The command `kan-diffusion`: arguments in, library calls, tables and files out."""

from kan_diffusion.cli.app import main

__all__ = ["main"]
