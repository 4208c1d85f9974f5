"""Counts memory and operations of KAN feed-forwards in a network of Stable Diffusion's size.

    python benchmarks/kanified_size.py

The U-Net of Stable Diffusion 1.5 is built on torch's meta device and called there with one latent
of 64 x 64, which shows how many tokens reach each feed-forward. Plain and kanified versions are
compared. The table has, for all feed-forwards together: parameters; floating-point operations of a
forward pass, two for each weight and token plus those of learned functions, without GELU; and the
numbers kept for a backward pass, in MiB of float32, with our CPU kernels and with torch's own
operations, which a GPU uses.

Then follow, for the whole plain network, operations as torch counts them and what is kept for a
backward pass, with the attention maps, which fused attention does not keep, as a separate number;
and the parameters of the text encoder and the autoencoder beside it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from kan_diffusion.kan import KANLinear
from kan_diffusion.kanified import ActivatedLinear, find_blocks, kanify

_LATENT = (1, 4, 64, 64)
_PROMPT = (1, 77, 768)
_HEADS = 8


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
    _call(network)
    return seen


def _call(network: nn.Module) -> None:
    network(
        torch.empty(_LATENT, device="meta"),
        torch.zeros((), device="meta"),
        torch.empty(_PROMPT, device="meta"),
    )


def _whole(network: nn.Module) -> tuple[int, int, int]:
    """Operations of a forward pass, and bytes kept for a backward one: attention maps, others.

    On the meta device torch uses the attention that keeps its maps, heads x tokens x tokens.
    """
    parameters = {one.untyped_storage()._cdata for one in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage()._cdata
        if place not in parameters:
            kept.setdefault(place, tensor)
        return tensor

    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        _call(network)
    maps = others = 0
    for tensor in kept.values():
        is_map = tensor.ndim == 4 and tensor.shape[1] == _HEADS
        size = tensor.untyped_storage().nbytes()
        maps, others = maps + is_map * size, others + (not is_map) * size
    return counter.get_total_flops(), maps, others


def _millions(make: Callable[[], nn.Module]) -> float:
    """Parameters of a network, in millions."""
    with torch.device("meta"):
        return sum(one.numel() for one in make().parameters()) / 1e6


def _per_token(block: nn.Module) -> tuple[int, int, int]:
    """Operations per token, and numbers kept for the backward pass by our kernels and by torch."""
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
    flops, maps, others = _whole(_unet())
    print(f"\nthe whole of {_millions(_unet):,.1f} M parameters: {flops / 1e9:,.1f} G operations,")
    print(f"kept {others / 2**20:,.0f} MiB and {maps / 2**20:,.0f} MiB of maps of attention")
    clip = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    text = _millions(lambda: CLIPTextModel(CLIPTextConfig(**clip)))
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "layers_per_block": 2}
    blocks |= {
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
    }
    autoencoder = _millions(lambda: AutoencoderKL(**blocks))
    print(f"text encoder {text:,.1f} M, autoencoder {autoencoder:,.1f} M\n{len(tokens)} blocks:")
    for path, count in tokens.items():
        print(path, count, _unet().get_submodule(path).net[2].in_features)


if __name__ == "__main__":
    main()
