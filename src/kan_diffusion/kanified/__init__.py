"""Networks whose feed-forward blocks were replaced by KAN layers."""

from kan_diffusion.kanified.blocks import Block, find_blocks
from kan_diffusion.kanified.conversion import KanifyReport, kanify
from kan_diffusion.kanified.recipe import Recipe, load_kanified, rebuild, save_kanified

__all__ = [
    "Block",
    "KanifyReport",
    "Recipe",
    "find_blocks",
    "kanify",
    "load_kanified",
    "rebuild",
    "save_kanified",
]
