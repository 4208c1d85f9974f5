"""Networks whose feed-forward blocks were replaced by KAN layers."""

from kan_diffusion.kanified.blocks import Block, find_blocks
from kan_diffusion.kanified.conversion import KanifyReport, Replacement, kanify
from kan_diffusion.kanified.recipe import (
    ActivatedLinear,
    LearnedActivation,
    Recipe,
    load_kanified,
    rebuild,
    save_kanified,
)

__all__ = [
    "ActivatedLinear",
    "Block",
    "KanifyReport",
    "LearnedActivation",
    "Recipe",
    "Replacement",
    "find_blocks",
    "kanify",
    "load_kanified",
    "rebuild",
    "save_kanified",
]
