r"""The first denoiser of the swiss roll: a normalised RBF network with a readout for each timestep.

Sohl-Dickstein et al. 2015 (arXiv:1503.03585, appendix on the swiss roll) used 16 hidden units and
40 timesteps. Each timestep has its own readout; everything below the readout is shared. With
centres :math:`c_j` and widths :math:`s_j` for U units,

.. math:: \varphi_j(x) = \frac{e^{-|x - c_j|^2 / (2 s_j^2)}}
        {\sum_i e^{-|x - c_i|^2 / (2 s_i^2)}}, \qquad
    \mathrm{net}(x, t) = W_t^\top \varphi(x) + b_t.

There are K readouts, evenly spread over the timesteps; between two of them :math:`W_t` and
:math:`b_t` are interpolated linearly in t. With as many readouts as timesteps, each timestep has
its own, as in the paper. The paper's network predicts the mean and the variance of a reverse step;
this one predicts what every denoiser here does. One-hot labels are further coordinates of a point.

One matrix product computes all K readouts of every point, and the two that are needed are selected
afterwards: gathering weights for each point would move many more numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from kan_diffusion.denoisers.family import Family, Range
from kan_diffusion.denoisers.points import ModelMixin, PointDenoiser
from kan_diffusion.errors import KanDiffusionError

__all__ = ["RBF_2015", "ModelMixin", "RBF2015Denoiser", "RBFNetwork"]

_CENTRE_SPREAD = 1.5
_READOUT_SPREAD = 0.1


class RBFNetwork(nn.Module):
    """Normalised Gaussian units and K linear readouts of them.

    Args:
        num_inputs: Size p of an input.
        num_outputs: Size d of an output.
        num_units: Number U of units.
        num_readouts: Number K of readouts.

    Attributes:
        centres: With shape (U, p).
        log_widths: Logarithms of the widths s, with shape (U,).
        weight: Weights of the readouts, with shape (U, K, d).
        bias: Biases of the readouts, with shape (K, d).
    """

    def __init__(
        self, num_inputs: int, num_outputs: int, num_units: int, num_readouts: int
    ) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.empty(num_units, num_inputs))
        self.log_widths = nn.Parameter(torch.empty(num_units))
        self.weight = nn.Parameter(torch.empty(num_units, num_readouts, num_outputs))
        self.bias = nn.Parameter(torch.empty(num_readouts, num_outputs))

    @property
    def flops(self) -> int:
        """Floating-point operations for one point.

        Each unit counts 3 p for its distance and 7 to normalise it (the largest logit subtracted,
        an exponential of 4, a sum, a product); a division 4; each weight of all K readouts 2; each
        output 3 to interpolate; and the sums with the biases are added.
        """
        num_units, num_readouts, num_outputs = self.weight.shape
        units = num_units * (3 * self.centres.shape[1] + 7) + 4
        readouts = num_readouts * num_outputs * (2 * num_units + 1)
        return units + readouts + 3 * num_outputs

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws centres and readouts; the widths start where a unit reaches its neighbours."""
        self.centres.normal_(0, _CENTRE_SPREAD, generator=generator)
        self.log_widths.fill_(math.log(self.centres.shape[1] / 2) / 2)
        self.weight.normal_(0, _READOUT_SPREAD, generator=generator)
        self.bias.zero_()

    def units(self, points: Tensor) -> Tensor:
        """The units' values (B, U), positive and with sum 1, of points (B, p)."""
        # Coordinates come first, because a sum over the first dimension is fast.
        differences = points.T.unsqueeze(-1) - self.centres.T.unsqueeze(1)
        distances = differences.square().sum(0)
        return (distances * (-0.5 * (-2 * self.log_widths).exp())).softmax(dim=-1)

    def forward(self, points: Tensor, place: Tensor) -> Tensor:
        """Maps points to outputs.

        Args:
            points: With shape (B, p).
            place: Number of the readout, from 0 to K - 1 with fractions between readouts, with
                shape (B,), or (1,) if all points share one.

        Returns:
            Outputs with shape (B, d).
        """
        num_units, num_readouts, _ = self.weight.shape
        readouts = torch.addmm(
            self.bias.flatten(), self.units(points), self.weight.view(num_units, -1)
        ).unflatten(1, (num_readouts, -1))
        below = place.floor().clamp(0, max(num_readouts - 2, 0))
        share = (place - below).to(readouts.dtype).unsqueeze(-1)
        index = below.long().view(-1, 1, 1).expand(len(points), 1, readouts.shape[-1])
        first = readouts.gather(1, index).squeeze(1)
        if num_readouts == 1:
            return first
        return torch.lerp(first, readouts.gather(1, index + 1).squeeze(1), share)


class RBF2015Denoiser(PointDenoiser):
    """A normalised radial basis function network whose readout changes with the timestep.

    Args:
        data_dim: Number d of coordinates of a point.
        hidden: Number of units and number K of readouts, (16, 40) in the paper.
        num_train_timesteps: Number T of steps of the process.
        num_classes: Number of class labels, 0 for an unconditional model.
        num_input_frequencies: Number of frequencies of the points' own Fourier features
            (:mod:`kan_diffusion.denoisers.features`), 0 for the points alone.
        blocks: Widths of the blocks of coordinates that it may be told; empty for none.

    Raises:
        KanDiffusionError: ``hidden`` is not two numbers of at least 1.
    """

    network: RBFNetwork

    @register_to_config
    def __init__(
        self,
        data_dim: int,
        hidden: Sequence[int] = (16, 40),
        num_train_timesteps: int = 1000,
        num_classes: int = 0,
        num_input_frequencies: int = 0,
        blocks: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if len(hidden) != 2 or min(hidden) < 1:
            raise KanDiffusionError(
                "an rbf-2015 denoiser has two sizes, its units and its readouts, such as (16, 40), "
                f"not {tuple(hidden)}; leave its depth at 2"
            )
        if num_train_timesteps < 1:
            raise KanDiffusionError(
                f"num_train_timesteps must be at least 1, not {num_train_timesteps}"
            )
        num_inputs = self._setup_points(data_dim, num_classes, num_input_frequencies, blocks)
        self.num_train_timesteps = num_train_timesteps
        num_units, num_readouts = hidden
        self.num_readouts = num_readouts
        self.network = RBFNetwork(num_inputs, data_dim, num_units, num_readouts)
        self.reset_parameters()

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one point."""
        return self.network.flops + self._input_flops

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters from ``generator`` (torch's default one when None)."""
        self.network.reset_parameters(generator)

    def _predict(self, points: Tensor, steps: Tensor, labels: Tensor | None) -> Tensor:
        inputs = points if labels is None else torch.cat([points, labels], dim=-1)
        last = self.num_train_timesteps - 1
        # A timestep outside the process counts as the nearest inside.
        fraction = steps.to(torch.float32).clamp(0, last) / max(last, 1)
        place = fraction * (self.num_readouts - 1)
        return self.network(inputs, place if len(place) == 1 else place.expand(len(points)))


RBF_2015 = Family(
    "rbf-2015",
    RBF2015Denoiser,
    depth=2,
    learning_rate=3e-2,
    kind="other",
    title="RBF 2015",
    space={"learning_rate": Range(5e-3, 1e-1, log=True)},
)
"""The network of 2015; its two "hidden layers" are its units and its readouts."""
