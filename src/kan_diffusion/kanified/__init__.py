"""Networks whose feed-forward blocks were replaced by KAN layers.

This module has the classes of kanified models of diffusers and transformers by name, such as
``KanifiedUNet2DConditionModel``, and makes them on demand. It also has ``ModelMixin`` and
``PreTrainedModel``, because a pipeline's ``from_pretrained`` looks here for the class that tells
how to load a component.
"""

from __future__ import annotations

from kan_diffusion.kanified.blocks import Block, find_blocks
from kan_diffusion.kanified.conversion import KanifyReport, Replacement, kanify
from kan_diffusion.kanified.distillation import BlockFit, DistillReport, distill
from kan_diffusion.kanified.layers import ActivatedLinear, LearnedActivation
from kan_diffusion.kanified.recipe import Recipe
from kan_diffusion.kanified.saving import class_of_name, load_kanified, rebuild

__all__ = [
    "ActivatedLinear",
    "Block",
    "BlockFit",
    "DistillReport",
    "KanifyReport",
    "LearnedActivation",
    "Recipe",
    "Replacement",
    "distill",
    "find_blocks",
    "kanify",
    "load_kanified",
    "rebuild",
]


def __getattr__(name: str) -> object:
    if name == "ModelMixin":
        from diffusers import ModelMixin

        return ModelMixin
    if name == "PreTrainedModel":
        from transformers import PreTrainedModel

        return PreTrainedModel
    found = class_of_name(name)
    if found is None:
        raise AttributeError(f"module 'kan_diffusion.kanified' has no attribute '{name}'")
    return found
