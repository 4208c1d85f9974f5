r"""The network of points: one class, of which families are rows of settings.

With p features of the points and the timestep, linear maps or KAN layers :math:`L_k`, functions f,
and scales s and shifts b that are linear in a code of the timestep,

.. math::
    (y_1, q_1) &= L_1\,p(x, \tau), \qquad
    (y_{k+1}, q_{k+1}) = L_{k+1}\big(f(z_k) \odot q_k\big), \\
    z_k &= (1 + s_k(\tau)) \odot y_k + b_k(\tau) + z_{k-1}, \qquad
    \mathrm{prediction} = L_{n+1}\big(f(z_n) \odot q_n\big).

Each part is there or not. *Functions*: SiLU or ReLU make it an MLP; learned functions, one a unit
or a few that the units of a layer share by turns and that start as SiLU, the grouped KAN
(:mod:`kan_diffusion.kan.gated`); with ``edges``, L are KAN layers with a function for each edge and
f is the identity. *Features* are fixed waves of coordinates and timestep
(:mod:`kan_diffusion.denoisers.features`), or learned splines that start as the input and waves of
it. *Gates* q and the *residual* state :math:`z_{k-1}`, cut off or padded with zeros where widths
differ, are optional. The *code* of the timestep has ``rank`` numbers, linear in its waves or
learned; a *modulated* network takes all waves as its code and has no other input of the timestep.
The mask of observed coordinates shifts the first layer's output.

A gated network clamps the coordinates to [-4, 4], where nearly all standardised and noised points
lie: over the layers, products of values and gates grow as a power of the inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import linear

from kan_diffusion.denoisers.base import ModelMixin, PointDenoiser
from kan_diffusion.denoisers.edges import Edge, ReadableLayer, edges_by_layer
from kan_diffusion.denoisers.features import TimeEncoding, TimeFeatures, waves
from kan_diffusion.errors import KanDiffusionError, require_known, require_whole
from kan_diffusion.kan.bases import Extrapolation
from kan_diffusion.kan.functions import LearnedFunctions, draw_linear
from kan_diffusion.kan.gated import GatedLinear, modulate
from kan_diffusion.kan.initialization import Initialization
from kan_diffusion.kan.linear import EdgeLayer, KANLinear, SharedKANLinear

__all__ = ["ModelMixin", "NetworkDenoiser"]

LinearInitialization = Literal["torch", "xavier"]

_NOISE = 0.05
"""Standard deviation of the noise by which functions that units share differ at the start."""

_FEATURES, _MOST_FREQUENCIES = 21, 3
"""Default limits on the features of all inputs and on the frequencies of one input."""

_INPUT_RANGE = -4.0, 4.0
"""Grid of learned features, and what gated networks clamp to."""

_CLASHES: Sequence[tuple[str, str, str]] = (
    ("edges", "learned_inputs learned_functions gated", "edges have functions of their own"),
    (
        "carries_values", "edges gated learned_functions modulated rank",
        "values are carried on by plain MLPs alone",
    ),
    (
        "modulated", "rank learned_inputs",
        "a modulated denoiser takes all waves of the timestep as its code",
    ),
    ("kept_edges", "residual observable", "nothing but kept edges joins their units"),
)  # fmt: skip
"""Settings that do not go together: one, the others, and the reason."""

_NEEDS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("basis", "extrapolation", "edge_scale", "bias"), ("edges",)),
    **dict.fromkeys(("grid_size", "order", "grid_range"), ("edges", "learned_functions")),
    "num_functions": ("learned_functions",),
    "function_rate": ("learned_functions", "learned_inputs"),
    "input_grid_size": ("learned_inputs",),
}
"""Settings that have no effect unless one of the others is set."""


class _Layer(nn.Module):
    """A linear map or KAN layer of modulated units, called as a ``GatedLinear`` is.

    With an activation, the state of units is their values after it.
    """

    def __init__(
        self, linear: nn.Linear | KANLinear, rank: int | None, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.linear = linear
        self.activation = activation
        shape = (rank or 0) + 1, 2, linear.in_features
        self.modulation = None if rank is None else nn.Parameter(torch.zeros(shape))

    @property
    def flops(self) -> int:
        """Operations for one row of input: SiLU counts 4, another activation 1."""
        each = 0 if self.modulation is None else 4 * len(self.modulation) - 1
        if self.activation is not None:
            each += 4 if isinstance(self.activation, nn.SiLU) else 1
        return _flops_of(self.linear) + each * self.linear.in_features

    def forward(
        self, input: Tensor, carried: Tensor | None, code: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        values = input if self.activation is None else self.activation(input)
        state = modulate(values, carried, code, self.modulation)
        return self.linear(state), state


def _flops_of(part: nn.Module | None) -> int:
    """Operations of a part for one row, the bias of a linear map included."""
    if isinstance(part, nn.Linear):
        return 2 * part.weight.numel() + part.out_features * (part.bias is not None)
    return 0 if part is None else int(part.flops)  # type: ignore[arg-type]


@torch.no_grad()
def _draw(part: nn.Module, xavier: bool, generator: torch.Generator | None) -> None:
    """Draws the parameters of a part, those of linear maps as torch or as the notebook did."""
    if isinstance(part, _Layer | GatedLinear) and part.modulation is not None:
        nn.init.zeros_(part.modulation)
    part = part.linear if isinstance(part, _Layer) else part
    if xavier and isinstance(part, nn.Linear | GatedLinear):
        nn.init.xavier_uniform_(part.weight, generator=generator)
        if part.bias is not None:
            part.bias.fill_(0.01)
        if isinstance(part, GatedLinear) and isinstance(part.functions, LearnedFunctions):
            part.functions.reset_parameters(generator)
    elif isinstance(part, nn.Linear):
        draw_linear(part.weight, part.bias, generator)
    else:
        part.reset_parameters(generator)  # type: ignore[operator]


class NetworkDenoiser(PointDenoiser):
    """A network that denoises points.

    Args:
        data_dim: Number d of coordinates of a point.
        hidden: Widths of the hidden layers.
        num_train_timesteps: Number T of steps of the process.
        observable: Whether coordinates may be observed.
        time_encoding: ``"raw"`` or ``"fourier"``, see :mod:`kan_diffusion.denoisers.features`;
            learned features take the timestep itself.
        num_time_frequencies: Number of frequencies of ``"fourier"``.
        num_input_frequencies: Number of frequencies of each coordinate, and of the timestep if
            features are learned, 0 for the coordinates alone; None for at most three, with about
            twenty features, and at least one of learned features if coordinates may be observed.
        learned_inputs: Whether the features of points and timestep are learned.
        input_grid_size: Number of intervals of the grids of learned features.
        learned_functions: Whether the units' functions are learned.
        num_functions: Number of functions that the units of a layer share; None for one a unit.
        function_rate: Learning rate of all learned functions relative to that of other parameters.
        edges: Whether each edge has a function of its own, see :class:`kan_diffusion.KANLinear`.
        basis: Name of the basis of the edges' functions.
        grid_size: Number of intervals of the grids of functions or edges.
        order: Degree of the splines.
        grid_range: Ends of the grids, in standardised units.
        extrapolation: What happens outside the grids of edges.
        edge_scale: Whether every edge has a scale of its own.
        bias: Whether the layers of edges have constants.
        init: Name of the initialisation: of edges, see :mod:`kan_diffusion.kan.initialization`, of
            linear maps ``"torch"`` or ``"xavier"``, uniform Glorot weights with biases of 0.01 as
            in the original notebook; None for what is usual.
        activation: ``"silu"`` or ``"relu"``, where functions are not learned.
        gated: Whether hidden layers have gates.
        residual: Whether hidden layers after the first add the state of the layer before to theirs.
        carries_values: Whether these states are the units' values after their activation, and not
            before; of a plain MLP.
        rank: Size of the code of the timestep that scales and shifts the hidden units; None for no
            such modulation.
        modulated: Whether all features of the timestep scale and shift the hidden units, instead of
            being inputs.
        scaled_inputs: Whether, in a modulated network, the timestep scales the inputs, too.
        kept_edges: The edges there are, ``(layer, input, output, kind, has_slope)`` each, in layers
            with constants and without scales; None for curves everywhere.
        kept_inputs: Numbers of the input features that the first layer takes, in order; all when
            None.

    Raises:
        KanDiffusionError: A size or a name is not usable, or settings do not go together.

    Example:
        >>> from kan_diffusion.denoisers import NetworkDenoiser
        >>> denoiser = NetworkDenoiser(2, [16, 16], edges=True, grid_size=4)
        >>> denoiser(torch.zeros(5, 2), torch.arange(5)).sample.shape
        torch.Size([5, 2])
    """

    @register_to_config
    def __init__(
        self,
        data_dim: int,
        hidden: Sequence[int] = (32, 32, 32),
        num_train_timesteps: int = 1000,
        observable: bool = False,
        time_encoding: TimeEncoding = "fourier",
        num_time_frequencies: int = 4,
        num_input_frequencies: int | None = 0,
        learned_inputs: bool = False,
        input_grid_size: int = 16,
        learned_functions: bool = False,
        num_functions: int | None = 4,
        function_rate: float = 3.0,
        edges: bool = False,
        basis: str = "bspline",
        grid_size: int = 8,
        order: int = 3,
        grid_range: tuple[float, float] = (-4.0, 4.0),
        extrapolation: Extrapolation = "linear",
        edge_scale: bool = False,
        bias: bool = True,
        init: Initialization | LinearInitialization | None = None,
        activation: Literal["silu", "relu"] = "silu",
        gated: bool = False,
        residual: bool = False,
        carries_values: bool = False,
        rank: int | None = None,
        modulated: bool = False,
        scaled_inputs: bool = False,
        kept_edges: Sequence[Edge] | None = None,
        kept_inputs: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self._require_settings()
        if num_input_frequencies is None:
            # Alone, the function of an input of two values learns what takes the noise off it,
            # which is zero at both values, and loses which of them it is.
            least = int(learned_inputs and observable)
            most = min(_MOST_FREQUENCIES, (_FEATURES // (data_dim + 1) - 1) // 2)
            num_input_frequencies = max(least, most)
        self.num_input_frequencies = 0 if learned_inputs else num_input_frequencies
        encoding = "raw" if learned_inputs else time_encoding
        self.time_features = TimeFeatures(encoding, num_train_timesteps, num_time_frequencies)
        num_times = self.time_features.num_features
        num_inputs = data_dim * (1 + 2 * self.num_input_frequencies)
        num_inputs += 0 if modulated else num_times
        if kept_inputs is not None:
            num_inputs = len(kept_inputs)
        grid: dict[str, Any] = {"grid_size": grid_size, "order": order}
        grid["grid_range"] = tuple(grid_range)
        curves = {**grid, "basis": basis, "extrapolation": extrapolation}
        waves: dict[str, Any] = {
            "grid_size": input_grid_size, "grid_range": _INPUT_RANGE, "initial": "waves",
            "noise": 0.0, "rate": function_rate,
        }  # fmt: skip

        def functions(units: int) -> nn.Module | None:
            if not learned_functions:
                return nn.ReLU() if activation == "relu" else None
            shared: dict[str, Any] = {}
            if num_functions is not None:
                shared = {"groups": min(num_functions, units), "noise": _NOISE}
            return LearnedFunctions(units, rate=function_rate, **shared, **grid)

        kept = None
        if kept_edges is not None:
            kept = edges_by_layer(kept_edges, [num_inputs, *hidden, data_dim])

        def edge_layer(number: int, fan_in: int, fan_out: int) -> KANLinear:
            if kept is not None:
                return ReadableLayer(fan_in, fan_out, kept[number], **curves)
            options: dict[str, Any] = {"edge_scale": edge_scale, "init": init}
            return KANLinear(fan_in, fan_out, bias, **options, **curves)

        width, *fan_outs = [*((1 + int(gated)) * units for units in hidden), data_dim]
        self.time_code: nn.Linear | LearnedFunctions | None = None
        if learned_inputs:
            count = 1 + 2 * num_input_frequencies
            self.first: EdgeLayer | nn.Linear = SharedKANLinear(num_inputs, width, count, **waves)
            self.time_code = None if rank is None else LearnedFunctions(1, rank, **waves)
        else:
            self.first = edge_layer(0, num_inputs, width) if edges else nn.Linear(num_inputs, width)
            self.time_code = None if rank is None else nn.Linear(num_times, rank, bias=False)
        codes = num_times if modulated else rank
        self.layers = nn.ModuleList()
        for number, (units, fan_out) in enumerate(zip(hidden, fan_outs, strict=True), start=1):
            if edges:
                self.layers.append(_Layer(edge_layer(number, units, fan_out), codes))
            elif carries_values:
                function = nn.ReLU() if activation == "relu" else nn.SiLU()
                self.layers.append(_Layer(nn.Linear(units, fan_out), None, function))
            else:
                own = functions(units)
                layer = GatedLinear(units, fan_out, gated=gated, rank=codes, functions=own)
                self.layers.append(layer)
        self.given = nn.Parameter(torch.zeros(width, data_dim)) if observable else None
        shape = num_times + 1, num_inputs
        self.input_scale = nn.Parameter(torch.zeros(shape)) if scaled_inputs else None
        if init == "xavier":  # each layer started as torch's
            self.reset_parameters()

    def _require_settings(self) -> None:
        """Checks settings that no layer checks."""
        c = self.config
        require_known("activation", c.activation, ("silu", "relu"))
        for name, least in (
            ("data_dim", 1), ("num_functions", 1), ("rank", 1), ("num_input_frequencies", 0),
        ):  # fmt: skip
            if c[name] is not None:
                require_whole(name, c[name], least)
        for width in c.hidden:
            require_whole("a width of hidden", width)
        if not c.edges:
            require_known("init", c.init or "torch", get_args(LinearInitialization))
        for name, others, why in _CLASHES:
            if c[name] and (clashing := [other for other in others.split() if c[other]]):
                raise KanDiffusionError(f"{why}; leave out {name}, or {' and '.join(clashing)}")
        for name, needed in (("scaled_inputs", "modulated"), ("kept_edges", "edges")):
            if c[name] and not c[needed]:
                raise KanDiffusionError(f"{name} needs {needed}; set it, too, or leave out {name}")

    @classmethod
    def without_effect(cls, settings: Mapping[str, object]) -> dict[str, str]:
        """Says which settings have no effect, see :meth:`.Denoiser.without_effect`."""
        return {
            name: " or ".join(needed)
            for name, needed in _NEEDS.items()
            if name in settings and not any(settings.get(other) for other in needed)
        }

    def _inputs(self, points: Tensor, steps: Tensor) -> tuple[Tensor, Tensor | None]:
        """Inputs (n, in) of the first layer, and the code of the timestep if there is one."""
        if self.config.gated:
            points = points.clamp(*_INPUT_RANGE)
        if count := self.num_input_frequencies:
            points = torch.cat([points, waves(points, count, 0.25).to(points)], dim=-1)
        time = self.time_features(steps, points.dtype)
        if self.config.learned_inputs:
            low, high = _INPUT_RANGE
            time = low + (high - low) * time
        # One timestep for all points is modulated once; any other number must be that of points.
        each = time.expand(points.shape[0], -1)
        inputs = points if self.config.modulated else torch.cat([points, each], dim=-1)
        if self.config.kept_inputs is not None:
            inputs = inputs[:, self.config.kept_inputs]
        if self.input_scale is not None:
            scale = self.input_scale
            inputs = inputs * (1 + scale[-1] + time @ scale[:-1])
        if self.config.modulated:
            return inputs, each
        return inputs, None if self.time_code is None else self.time_code(time)

    def _predict(self, points: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        inputs, code = self._inputs(points, steps)
        output: Tensor = self.first(inputs)
        if self.given is not None and mask is not None:
            output = output + linear(mask, self.given)
        codes: Sequence[Tensor | None] = [None] * len(self.layers)
        if code is not None:
            codes = code.expand(len(self.layers), points.shape[0], -1).unbind()
        state: Tensor | None = None
        for layer, code_of_layer in zip(self.layers, codes, strict=True):
            output, state = layer(output, state if self.config.residual else None, code_of_layer)
        return output

    @property
    def kan_layers(self) -> list[KANLinear]:
        """The layers whose edges have functions of their own, inputs first."""
        parts = [self.first, *(layer.linear for layer in self.layers if isinstance(layer, _Layer))]
        return [part for part in parts if isinstance(part, KANLinear)]

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one point."""
        parts = self.first, self.time_code, *self.layers
        # An angle of each wave's two features of a coordinate, and four for each of these.
        waves_of_points = 9 * self.data_dim * self.num_input_frequencies
        total = waves_of_points + sum(map(_flops_of, parts))
        hidden = self.config.hidden
        if self.config.residual:
            total += sum(map(min, hidden, hidden[1:]))
        if self.given is not None:
            total += 2 * self.given.numel() + len(self.given)
        if self.input_scale is not None:
            total += (2 * self.input_scale.shape[0] + 1) * self.input_scale.shape[1]
        return total

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters from ``generator`` (torch's default one when None)."""
        for part in (self.first, self.time_code, *self.layers):
            if part is not None:
                _draw(part, self.config.init == "xavier", generator)
        for parameter in (self.input_scale, self.given):
            if parameter is not None:
                nn.init.zeros_(parameter)
