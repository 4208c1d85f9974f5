"""Counts memory and operations of KAN feed-forwards in a network of Stable Diffusion's size.

    python benchmarks/kanified_size.py

The U-Net of Stable Diffusion 1.5 is built on torch's meta device, kanified, and called there with
one latent of 64 x 64, which tells how many tokens reach each feed-forward. Printed are, of all
feed-forwards together: parameters; floating-point operations of a forward pass, two for each weight
and token and those of learned functions, GELU itself not counted; and the numbers that a backward
pass needs, in MiB of float32, by our CPU kernels and by torch's own operations, as a GPU has them.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from kan_diffusion.kan import KANLinear
from kan_diffusion.kanified import ActivatedLinear, find_blocks, kanify

_LATENT = (1, 4, 64, 64)
_PROMPT = (1, 77, 768)


def _unet() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=768)


def _tokens(network: nn.Module) -> dict[str, int]:
    """Tokens that reach each feed-forward."""
    seen: dict[str, int] = {}
    for path, block in find_blocks(network).items():
        if not block.embedding:

            def see(_: nn.Module, given: tuple[Tensor, ...], path: str = path) -> None:
                seen[path] = given[0].shape[:-1].numel()

            block.owner.register_forward_pre_hook(see)
    network(
        torch.empty(_LATENT, device="meta"),
        torch.zeros((), device="meta"),
        torch.empty(_PROMPT, device="meta"),
    )
    return seen


def _per_token(block: nn.Module) -> tuple[int, int, int]:
    """Operations a token, and numbers kept for the backward pass: by our kernels, by torch."""
    first, last = block.net[0], block.net[2]
    width = last.in_features
    if isinstance(first, KANLinear):
        weights = first.weight.numel() + last.weight.numel()
        features = first.features_per_input * (first.in_features + width)
        return 2 * weights, first.in_features + width, features
    flops = 2 * (first.proj.weight.numel() + last.weight.numel())
    kept = first.proj.in_features + 4 * width  # input; values, gates; f(gates), and their product
    if isinstance(first, ActivatedLinear):
        flops += first.functions.flops
    return flops, kept, kept


def main() -> None:
    """Prints a table of Markdown."""
    tokens = _tokens(_unet())
    print("| feed-forwards | parameters | operations | kept by our kernels | kept by torch |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, settings in (
        ("GEGLU, as they are", None),
        ("`keep_function=True`", {"keep_function": True}),
        ('`kind="grouped"`', {"kind": "grouped"}),
        ('`kind="full"`', {"kind": "full"}),
    ):
        network = _unet()
        if settings is not None:
            kanify(network, **settings)
        blocks = {path: network.get_submodule(path) for path in tokens}
        parameters = sum(p.numel() for block in blocks.values() for p in block.parameters())
        flops, own, torch_kept = (
            sum(_per_token(blocks[path])[place] * count for path, count in tokens.items())
            for place in range(3)
        )
        kept = " | ".join(f"{4 * number / 2**20:,.0f} MiB" for number in (own, torch_kept))
        print(f"| {name} | {parameters / 1e6:,.1f} M | {flops / 1e9:,.1f} G | {kept} |")
    print(f"\n{len(tokens)} blocks; {sum(p.numel() for p in _unet().parameters()) / 1e6:,.0f} M")
    for path, count in tokens.items():
        print(path, count, _unet().get_submodule(path).net[2].in_features)


if __name__ == "__main__":
    main()
