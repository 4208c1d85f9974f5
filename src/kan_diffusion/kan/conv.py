r"""``KANConv2d``: a convolution in which every weight of ``nn.Conv2d`` is a learned function.

.. math:: y_{o,p} = \beta_o + \sum_{c,t} \phi_{o,c,t}\big(x_{c,\,s p + d t}\big)

over channels c and places t of the kernel, with stride s and dilation d. It is a
:class:`~kan_diffusion.kan.linear.KANLinear` of the patches of ``torch.nn.functional.unfold``, which
hold each number as often as the kernel has places. The functions of what is padded count, also
those of zeros.
"""

from __future__ import annotations

import math
from typing import Literal, Unpack, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, unfold

from kan_diffusion.errors import KanDiffusionError, require_known, require_whole
from kan_diffusion.kan.linear import EdgeSettings, KANLinear

Pair = int | tuple[int, int]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class KANConv2d(nn.Module):
    """A convolution of learned functions: (B, in, H, W) or (in, H, W), as ``nn.Conv2d`` takes.

    Arguments up to ``padding_mode`` are those of ``nn.Conv2d``, and settings those of
    :class:`~kan_diffusion.kan.linear.KANLinear`, of which ``kernels`` has one for each group.

    Raises:
        KanDiffusionError: The groups do not divide the channels, a window is not one or two whole
            numbers, there is no such padding, ``"same"`` is asked for with a stride, or a layer
            refuses a setting.

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
        padding: Pair | Literal["same", "valid"] = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        **settings: Unpack[EdgeSettings],
    ) -> None:
        super().__init__()
        require_known("padding_mode", padding_mode, get_args(PaddingMode))
        require_whole("in_channels", in_channels)
        require_whole("out_channels", out_channels)
        require_whole("groups", groups)
        if in_channels % groups or out_channels % groups:
            raise KanDiffusionError(
                f"groups must divide {in_channels} and {out_channels} channels, not be {groups}"
            )
        self.in_channels = in_channels
        self.kernel_size = _pair("kernel_size", kernel_size, 1)
        self.stride = _pair("stride", stride, 1)
        self.dilation, self.padding_mode = _pair("dilation", dilation, 1), padding_mode
        # Rows and columns from the first place of the kernel to its last.
        self._reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        self.padding: tuple[int, int] | str = "same"
        if padding == "same":
            if self.stride != (1, 1):
                raise KanDiffusionError(
                    f"padding 'same' goes with a stride of 1, not {stride}; give numbers"
                )
            height, width = self._reach
        else:
            self.padding = _pair("padding", 0 if padding == "valid" else padding, 0)
            height, width = (2 * number for number in self.padding)
        self._margins = width // 2, width - width // 2, height // 2, height - height // 2
        sizes = in_channels // groups * math.prod(self.kernel_size), out_channels // groups
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
        if any(self._margins):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input = pad(input, self._margins, mode)
        columns = unfold(input, self.kernel_size, self.dilation, stride=self.stride)
        patches = columns.transpose(1, 2).chunk(len(self.kernels), dim=-1)
        parts = [kernel(part) for kernel, part in zip(self.kernels, patches, strict=True)]
        height = (input.shape[2] - self._reach[0] - 1) // self.stride[0] + 1
        return torch.cat(parts, dim=-1).transpose(1, 2).unflatten(2, (height, -1))


def _pair(name: str, given: Pair, least: int) -> tuple[int, int]:
    """Returns the numbers of rows and columns.

    Raises:
        KanDiffusionError: They are not one or two whole numbers from ``least`` on.
    """
    pair = given if isinstance(given, tuple | list) else (given, given)
    try:
        for number in pair:
            require_whole(name, number, least)
        rows, columns = map(int, pair)
    except (KanDiffusionError, ValueError) as error:
        raise KanDiffusionError(
            f"{name} must be one or two whole numbers, at least {least}, not {given!r}"
        ) from error
    return rows, columns
