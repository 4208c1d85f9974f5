"""A trained KAN denoiser opened up: its layers as edges, each a curve that can be replaced."""

from __future__ import annotations

import torch
from torch import nn

from kan_diffusion.denoisers.edges import CURVE
from kan_diffusion.denoisers.kan import KANDenoiser
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.denoisers.stacks import Stack
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.bases import GridBasis
from kan_diffusion.kan.linear import KANLinear
from kan_diffusion.kan.network import KAN

__all__ = ["readable"]


def _require_readable(denoiser: KANDenoiser) -> None:
    config: dict[str, object] = {**denoiser.config}  # type: ignore[dict-item]
    if config["residual"]:
        raise KanDiffusionError(
            "a residual KAN cannot be taken apart edge by edge: what passes its layers by is no "
            "edge; train family 'kan' or 'modulated-kan'"
        )
    if config["num_classes"]:
        raise KanDiffusionError(
            "a denoiser with classes cannot be taken apart yet; train one without"
        )
    for layer in denoiser.network.modules():
        if isinstance(layer, KANLinear) and not isinstance(layer.basis, GridBasis):
            raise KanDiffusionError(
                f"curves on basis '{layer.basis.name}' cannot be taken apart: edges share their "
                "coefficients; train with basis 'bspline', 'rbf', 'chebyshev' or 'fourier'"
            )


@torch.no_grad()
def readable(denoiser: KANDenoiser) -> ReadableDenoiser:
    """A KAN denoiser taken apart: the same function, all of its edges curves.

    Args:
        denoiser: The denoiser, which is left as it is.

    Raises:
        KanDiffusionError: It is not a KAN denoiser, or residual, or of classes, or its basis has no
            grid.
    """
    if isinstance(denoiser, ReadableDenoiser):
        return denoiser
    if not isinstance(denoiser, KANDenoiser):
        raise KanDiffusionError(
            f"only KANs have edges to read, and this is a {type(denoiser).__name__}; train family "
            "'kan' or 'modulated-kan'"
        )
    _require_readable(denoiser)
    assert isinstance(denoiser.network, KAN | Stack)
    layers = [layer for layer in denoiser.network.layers if isinstance(layer, KANLinear)]
    config = denoiser.config
    shared = (
        "data_dim",
        "num_train_timesteps",
        "time_encoding",
        "num_time_frequencies",
        "num_input_frequencies",
        "modulated",
        "scaled_inputs",
        "basis",
        "grid_size",
        "order",
        "extrapolation",
        "base_activation",
    )
    made = ReadableDenoiser(
        hidden=list(config["hidden"]),
        grid_range=tuple(config["grid_range"]),
        edges=[
            [
                (i, o, CURVE, False)
                for o in range(layer.out_features)
                for i in range(layer.in_features)
            ]
            for layer in layers
        ],
        **{key: config[key] for key in shared},
    )
    # nn.Module's own: diffusers' warns of what float32 modules it might have.
    nn.Module.to(made, device=denoiser.device, dtype=denoiser.dtype)
    stack = denoiser.stack
    if stack is not None and stack.modulation is not None and made.modulation is not None:
        made.modulation.load_state_dict(stack.modulation.state_dict())
    for mine, theirs in zip(made.layers, layers, strict=True):
        assert mine.curves is not None
        mine.curves.weight.copy_(theirs._packed_weight())
        for name in ("grid_origin", "grid_step"):
            getattr(mine.curves.grid, name).copy_(getattr(theirs.grid, name))
        if theirs.bias is not None:
            mine.bias.copy_(theirs.bias)
    return made.eval()
