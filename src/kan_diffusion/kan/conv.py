r"""``KANConv2d``: a convolution in which every weight of ``nn.Conv2d`` is a learned function.

.. math:: y_{o,p} = \beta_o + \sum_{c,t} \phi_{o,c,t}\big(x_{c,\,s p + d t}\big)

over channels c and places t of the kernel, with stride s and dilation d. It is a
:class:`~kan_diffusion.kan.linear.KANLinear` of the patches of ``torch.nn.functional.unfold``, which
hold each number as often as the kernel has places. Padding is with zeros, whose functions count.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.linear import EdgeSettings, KANLinear

Pair = int | tuple[int, int]


class KANConv2d(nn.Module):
    """A convolution of learned functions: (B, in, H, W) or (in, H, W), as ``nn.Conv2d`` takes.

    Arguments up to ``bias`` are those of ``nn.Conv2d``, padding in numbers, and settings those of
    :class:`~kan_diffusion.kan.linear.KANLinear`, of which ``kernels`` has one for each group.

    Raises:
        KanDiffusionError: The groups do not divide the channels, a window is not one or two whole
            numbers, or a layer refuses a setting.

    Example:
        >>> from kan_diffusion.kan import KANConv2d
        >>> KANConv2d(3, 8, 3, stride=2, padding=1)(torch.zeros(4, 3, 28, 28)).shape
        torch.Size([4, 8, 14, 14])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        **settings: Unpack[EdgeSettings],
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise KanDiffusionError(
                f"groups must divide {in_channels} and {out_channels} channels, not be {groups}"
            )
        self.in_channels = in_channels
        self.window = (
            _pair("kernel_size", kernel_size, 1),
            _pair("dilation", dilation, 1),
            _pair("padding", padding, 0),
            _pair("stride", stride, 1),
        )
        height, width = self.window[0]
        sizes = in_channels // groups * height * width, out_channels // groups
        self.kernels = nn.ModuleList(KANLinear(*sizes, bias, **settings) for _ in range(groups))

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, in, H, W) to (B, out, H', W'); H' and W' are those of ``nn.Conv2d``."""
        if input.ndim not in (3, 4) or input.shape[-3] != self.in_channels:
            raise KanDiffusionError(
                f"this KANConv2d takes inputs with shape (B, {self.in_channels}, H, W), not "
                f"{tuple(input.shape)}"
            )
        if input.ndim == 3:
            return self(input.unsqueeze(0)).squeeze(0)
        patches = unfold(input, *self.window).transpose(1, 2).chunk(len(self.kernels), dim=-1)
        parts = [kernel(part) for kernel, part in zip(self.kernels, patches, strict=True)]
        sizes = zip(input.shape[2:], *self.window, strict=True)
        shape = [
            (n + 2 * pad - dilation * (k - 1) - 1) // step + 1
            for n, k, dilation, pad, step in sizes
        ]
        return torch.cat(parts, dim=-1).transpose(1, 2).unflatten(2, shape)


def _pair(name: str, given: Pair, least: int) -> tuple[int, int]:
    """Returns the numbers of rows and columns.

    Raises:
        KanDiffusionError: They are not one or two whole numbers from ``least`` on.
    """
    pair = (given, given) if isinstance(given, int) else given
    match pair:
        case int(rows), int(columns) if min(rows, columns) >= least:
            return rows, columns
    raise KanDiffusionError(
        f"{name} must be one or two whole numbers, at least {least}, not {given!r}"
    )
