r"""The functions that edges are made of, on a uniform grid for each input.

A basis expands an input x into functions :math:`B_0(x), B_1(x), \dots`; an edge is a weighted sum
of them (and of a base activation, see :mod:`kan_diffusion.kan.linear`). A grid places the functions
by :math:`u = (x - x_0) / h`, which runs from 0 to G over the grid. Outside it,

* ``"linear"`` continues every function by its tangent at the nearer end,
  :math:`B(u_e) + B'(u_e)\,(u - u_e)`: continuous with a continuous first derivative;
* ``"zero"`` evaluates functions that run out to zero by themselves.

To add a basis, write a class beside those here and list it in ``BASES``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cache, reduce
from math import comb, factorial, perm
from typing import ClassVar, Literal, Self, SupportsFloat

import numpy as np
import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError, look_up, require_known, require_whole
from kan_diffusion.limits import MOST_INTERVALS

Extrapolation = Literal["linear", "zero"]
"""Ways to continue functions outside the grid."""
Grid = tuple[Tensor, Tensor]
"""Left ends and widths of an interval of the grids of inputs, (in,) each."""


class Constants(nn.Module):
    """A module with constant tensors that follow it and are no part of its state.

    ``to_empty``, after a start on the meta device, would leave plain buffers without values.
    """

    def constant(self, name: str, value: Tensor, device: torch.device | None = None) -> None:
        """Registers a constant, which is on the CPU, on a device; torch's default when None."""
        self.__dict__.setdefault("_constants", {})[name] = value
        value = value.to(device or torch.get_default_device())
        self.register_buffer(name, value, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for name, value in self.__dict__.get("_constants", {}).items():
            self._buffers[name] = value.to(self._buffers[name])
        return self


class Basis(Constants, ABC):
    """Functions on a uniform grid for each input: (N, in) -> (N, in, num_functions).

    Your own basis defines ``name``, ``sizes``, ``values`` and ``slopes``, and the class is passed
    to ``KANLinear(..., basis=...)``. If its functions do not run out to zero faster than any power,
    its ``extrapolations`` leave out ``"zero"`` (the tests of all bases look as far as a million
    intervals away).

    Args:
        in_features: Number of inputs.
        num_intervals: Number G of intervals, 1 to 10,000.
        order: Degree k of splines; other bases have none.
        grid_range: Ends of the grid, the same for every input at the start.
        extrapolation: What happens outside the grid.
        device: Device of the grid.
        dtype: Floating dtype of the grid.

    Attributes:
        name: Name in options and configurations.
        local: Whether each function vanishes away from its centre. An edge then has SiLU as well.
        in_features: Number of inputs.
        num_functions: Number of functions per input, and so of parameters per edge.
        num_active: Largest number of an input's functions that differ from zero at once.
        flops_per_input: Floating-point operations to evaluate the functions of one input; an
            elementary function (exp, sin, a division) counts as four.
        grid_origin: Buffer with shape (in,): left end of each input's grid.
        grid_step: Buffer with shape (in,): width of an interval of each input's grid, positive.

    Raises:
        KanDiffusionError: A size or range is not usable, or the extrapolation is not one of
            ``extrapolations``.

    Example:
        >>> from kan_diffusion.kan import Basis, BSpline
        >>> basis: Basis = BSpline(1, num_intervals=4)  # functions of one input
        >>> basis(torch.zeros(1, 1)).sum().item()  # which sum to one
        1.0
    """

    name: ClassVar[str] = "custom"
    local: ClassVar[bool] = False
    extrapolations: ClassVar[tuple[Extrapolation, ...]] = ("linear", "zero")
    grid_origin: Tensor
    grid_step: Tensor

    def __init__(
        self,
        in_features: int,
        num_intervals: int = 5,
        order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        extrapolation: Extrapolation = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require_known(f"extrapolation of basis '{self.name}'", extrapolation, self.extrapolations)
        require_whole("in_features", in_features)
        require_whole("grid_size", num_intervals, 1, MOST_INTERVALS)
        ends = tuple(grid_range) if isinstance(grid_range, Iterable) else ()
        are_numbers = len(ends) == 2 and all(isinstance(end, SupportsFloat) for end in ends)
        if not are_numbers or not (float("-inf") < ends[0] < ends[1] < float("inf")):
            raise KanDiffusionError(
                f"grid_range must be two finite numbers, the lower first, not {grid_range}"
            )
        low, high = ends
        self.in_features = in_features
        self.num_intervals = num_intervals
        self.order = order
        self.extrapolation: Extrapolation = extrapolation
        self.grid_range = float(low), float(high)
        for buffer in ("grid_origin", "grid_step"):
            self.register_buffer(buffer, torch.empty(in_features, device=device, dtype=dtype))
        self.num_functions, self.num_active, self.flops_per_input = self.sizes()
        self.reset_parameters()

    @property
    def grid_end(self) -> Tensor:
        """Right end of each input's grid, with shape (in,)."""
        return self.grid_origin + self.num_intervals * self.grid_step

    @abstractmethod
    def sizes(self) -> tuple[int, int, int]:
        """Returns ``num_functions``, ``num_active`` and ``flops_per_input``."""

    @abstractmethod
    def values(self, u: Tensor) -> Tensor:
        """Evaluates the functions (*, num_functions) at grid coordinates u (*).

        u is from 0 to G; with ``"zero"`` it may be any number.
        """

    @abstractmethod
    def slopes(self, u: Tensor) -> Tensor:
        """Computes the derivatives of the functions with respect to u, (*, num_functions)."""

    @property
    def grid(self) -> Grid:
        """``grid_origin`` and ``grid_step``."""
        return self.grid_origin, self.grid_step

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Evaluates the functions (N, in, num_functions) at inputs (N, in).

        Args:
            x: The inputs.
            grid: Left ends and widths of an interval of other grids, one for each input.
        """
        origin, step = grid or self.grid
        u = (x - origin) / step
        if self.extrapolation == "zero":
            return self.values(u)
        inside = u.clamp(0, self.num_intervals)
        return self.values(inside) + (u - inside).unsqueeze(-1) * self.slopes(inside)

    def expand(self, x: Tensor, grid: Grid, features: Tensor) -> Callable[[Tensor], Tensor]:
        """Writes the functions into the last columns of zeros (N, in, ...), where no autograd is.

        Returns:
            Makes the gradient of x of one of the features.
        """
        features[..., -self.num_functions :] = self(x, grid)

        def gradient(grad: Tensor) -> Tensor:
            origin, step = grid
            u = (x - origin) / step
            u = u if self.extrapolation == "zero" else u.clamp(0, self.num_intervals)
            return (grad[..., -self.num_functions :] * self.slopes(u)).sum(-1) / step

        return gradient

    def with_intervals(self, num_intervals: int) -> Self:
        """Copies the basis with another number of intervals over the same range.

        Raises:
            KanDiffusionError: ``num_intervals`` is less than 1.
        """
        grid, settings = self.grid_origin, (self.order, self.grid_range, self.extrapolation)
        other = type(self)(self.in_features, num_intervals, *settings, grid.device, grid.dtype)
        other.grid_origin.copy_(grid)
        other.grid_step.copy_(self.grid_step * (self.num_intervals / num_intervals))
        return other

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Resets every grid to ``grid_range``."""
        low, high = self.grid_range
        self.grid_origin.fill_(low)
        self.grid_step.fill_((high - low) / self.num_intervals)

    def exact_refinement(self, num_intervals: int) -> Tensor | None:
        """Finds the matrix that carries coefficients over to more intervals exactly.

        Returns:
            Matrix (new functions, old functions) in float64, or None if no such matrix exists and
            coefficients have to be fitted.
        """
        return None

    def extra_repr(self) -> str:
        """The settings that differ between layers, for ``print``."""
        low, high = self.grid_range
        if not self.grid_origin.is_meta:
            low, high = self.grid_origin.min().item(), self.grid_end.max().item()
        grid = f"num_intervals={self.num_intervals}, from {low:.4g} to {high:.4g}"
        return f"{grid}, extrapolation={self.extrapolation!r}"


MAX_ORDER = 5
"""The highest spline order supported; degree 5 is four times continuously differentiable."""


@cache
def piece_coefficients(order: int, derivative: int = 0) -> tuple[tuple[float, ...], ...]:
    """Coefficients of the polynomial pieces of a uniform B-spline, or of their derivatives.

    Args:
        order: Degree k of the spline, 1 to ``MAX_ORDER``.
        derivative: How often to differentiate with respect to f (in units of the grid step).

    Returns:
        k + 1 rows, one per piece j, each with the coefficients of 1, f, ..., f^(k - derivative),
        whole numbers divided by k!.
    """

    def numerator(piece: int, degree: int) -> int:
        jumps = (
            (-1) ** i * comb(order + 1, i) * (order - piece - i) ** (order - degree)
            for i in range(order - piece + 1)
        )
        return perm(degree, derivative) * comb(order, degree) * sum(jumps)

    degrees = range(derivative, order + 1)
    rows = ([numerator(piece, degree) for degree in degrees] for piece in range(order + 1))
    return tuple(tuple(number / factorial(order) for number in row) for row in rows)


def horner(coefficients: Sequence[Tensor], x: Tensor) -> Tensor:
    """Evaluates a polynomial with the coefficients of 1, x, ..., which broadcast with x."""
    value = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        value = torch.addcmul(coefficient, value, x)
    return value


class BSpline(Basis):
    r"""B-splines of one order k, 1 to ``MAX_ORDER`` (the KAN of Liu et al. 2024, arXiv:2404.19756).

    All B-splines of order k are one function, shifted. With u the grid coordinate, in the cell
    :math:`c = \lfloor u \rfloor` at the place :math:`f = u - c \in [0, 1)`, only
    :math:`B_c, \dots, B_{c+k}` differ from zero, and

    .. math:: B_{c+j} = p_{k,j}(f), \qquad
        p_{k,j}(f) = \frac{1}{k!} \sum_{i=0}^{k-j} (-1)^i \binom{k+1}{i} (f + k - j - i)^k,

    polynomials of degree :math:`k` (the truncated powers of Schoenberg 1946; the Cox-de Boor
    recursion on uniform knots, solved once here instead of at every evaluation). Their coefficients
    times k! are whole numbers, which every floating dtype holds exactly.

    Parameters per edge: G + k. Operations per input: 2k for each of k + 1 pieces and 3 to find the
    cell; an edge costs 2 (k + 1) whatever G is, as only k + 1 functions differ from zero. With
    ``"zero"`` the functions run out to zero over k intervals as on the classical extended knot
    vector.

    A spline on G intervals is also one on mG: its coefficients are spaced m apart and convolved
    with the mask :math:`m^{-k} (1 + z + \dots + z^{m-1})^{k+1}` (knot insertion on uniform knots;
    for m = 2 the two-scale relation of Lane and Riesenfeld 1980).

    Arguments are those of :class:`Basis`.

    Example:
        >>> from kan_diffusion.kan import BSpline
        >>> BSpline(2, num_intervals=4, order=3)(torch.zeros(10, 2)).shape
        torch.Size([10, 2, 7])
    """

    name: ClassVar[str] = "bspline"
    local: ClassVar[bool] = True
    numerators: Tensor
    functions: Tensor

    def sizes(self) -> tuple[int, int, int]:
        """Returns ``num_functions``, ``num_active`` and ``flops_per_input``."""
        order = self.order
        require_whole("order", order, 1, MAX_ORDER)
        return self.num_intervals + order, order + 1, (order + 1) * 2 * order + 3

    def reset_parameters(self) -> None:
        """Resets the grids, and the polynomials of all cells.

        There are two more cells, the first and the last: those of the tangents left and right of
        the grid. ``functions`` are the functions there are in each cell, (G + 2, 8), and
        ``numerators`` their coefficients of 1, f, ... times k!, (G + 2, 8, k + 1). What is beyond
        k + 1 of the eight is zero: a sum of fewer torch.compile would unroll, and repeat for every
        number that looks a cell up.
        """
        super().reset_parameters()
        count, last = self.order + 1, self.num_intervals - 1
        inside = np.rint(np.array(piece_coefficients(self.order)) * factorial(self.order))
        numerators = np.zeros((self.num_intervals + 2, 8, count))
        numerators[1:-1, :count] = inside
        numerators[0, :count, :2] = inside[:, :2]
        numerators[-1, :count, 0] = inside.sum(1)
        numerators[-1, :count, 1] = inside @ np.arange(count)
        cells = np.arange(-1, self.num_intervals + 1).clip(0, last)
        functions = (cells[:, None] + np.arange(8)).clip(max=last + self.order)
        device = self.grid_step.device
        numbers = torch.from_numpy(numerators).to(self.grid_step.dtype)
        self.constant("numerators", numbers, device)
        self.constant("functions", torch.from_numpy(functions), device)

    def pieces(self, dtype: torch.dtype) -> Tensor:
        """Coefficients of the pieces, (piece, degree), on the device."""
        return self.numerators[1, : self.order + 1].to(dtype) / factorial(self.order)

    def _active(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Finds what is not zero at places u (*): functions, values and slopes, (k + 1, *) each.

        With ``"linear"`` u may be beyond the grid, where functions go on by their tangents.
        """
        # With "zero", functions that lie beyond the grid have cells, too.
        reach = self.order if self.extrapolation == "zero" else 0
        inside = u.clamp(-reach, self.num_intervals + reach)
        cell = inside.detach().floor().nan_to_num(0).clamp(max=self.num_intervals + reach - 1)
        f, pieces, column = inside - cell, self.pieces(u.dtype), (-1, *(1,) * u.ndim)
        values = horner([row.view(column) for row in pieces.unbind(1)], f)
        rising = [d * pieces[:, d].view(column) for d in range(1, self.order + 1)]
        slopes = horner(rising, f).expand_as(values)
        functions = self.functions[1, : self.order + 1].view(column) + cell.long()
        if not reach:
            return functions, torch.addcmul(values, slopes, u - inside), slopes
        known = (functions >= 0) & (functions < self.num_functions)
        within = known & ~((u < inside) | (u > inside))  # a NaN is, and stays one
        values, slopes = torch.where(known, values, 0), torch.where(within, slopes, 0)
        return functions.clamp(0, self.num_functions - 1), values, slopes

    def _index(self, functions: Tensor, width: int) -> Tensor:
        """Finds the columns of functions (k + 1, *), the last of ``width``, in one row of them all.

        A scatter into one row is several times as fast as into rows of a few.
        """
        rows = torch.arange(functions[0].numel(), device=functions.device)
        index = functions + rows.view(functions.shape[1:]) * width + (width - self.num_functions)
        return index.flatten()

    def _spread(self, functions: Tensor, numbers: Tensor) -> Tensor:
        """Puts numbers (k + 1, *) of functions into their columns (*, num_functions)."""
        columns = numbers.new_zeros(*numbers.shape[1:], self.num_functions)
        # With "zero", zeros of functions beyond the grid meet others.
        put = torch.scatter_add if self.extrapolation == "zero" else torch.scatter
        index = self._index(functions, self.num_functions)
        return put(columns.flatten(), 0, index, numbers.flatten()).view(columns.shape)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Evaluates the B-splines (N, in, G + k), together with their tangents."""
        if type(self) is not BSpline:  # whose values and slopes may be others
            return super().forward(x, grid)
        origin, step = grid or self.grid
        return self.values((x - origin) / step)

    def expand(self, x: Tensor, grid: Grid, features: Tensor) -> Callable[[Tensor], Tensor]:
        """Does it with one scatter, whose index also finds the gradients of what is not zero."""
        origin, step = grid
        functions, values, slopes = self._active((x - origin) / step)
        index = self._index(functions, features.shape[-1])
        features.view(-1).scatter_add_(0, index, values.flatten())

        def gradient(grad: Tensor) -> Tensor:
            of_values = grad.flatten().index_select(0, index).view(slopes.shape)
            return (of_values * slopes).sum(0) / step

        return gradient

    def values(self, u: Tensor) -> Tensor:
        """Evaluates the B-splines (*, G + k) at u (*)."""
        functions, values, _ = self._active(u)
        return self._spread(functions, values)

    def slopes(self, u: Tensor) -> Tensor:
        """Computes the derivatives of the B-splines with respect to u."""
        functions, _, slopes = self._active(u)
        return self._spread(functions, slopes)

    def exact_refinement(self, num_intervals: int) -> Tensor | None:
        """Inserts knots, if each interval is split into the same number of parts."""
        parts, rest = divmod(num_intervals, self.num_intervals)
        if rest:
            return None
        powers = reduce(np.convolve, [np.ones(parts)] * (self.order + 1))
        mask = torch.from_numpy(powers / parts**self.order)
        # Old function g begins at new knot parts * (g - k), new function n at new knot n - k.
        new = torch.arange(num_intervals + self.order).unsqueeze(1) - self.order
        old = parts * (torch.arange(self.num_functions) - self.order)
        shift = new - old
        inside = (shift >= 0) & (shift < len(mask))
        return torch.where(inside, mask[shift.clamp(0, len(mask) - 1)], 0.0)

    def extra_repr(self) -> str:
        """The settings that differ between layers, for ``print``."""
        return f"order={self.order}, {super().extra_repr()}"


class RBF(Basis):
    r"""Gaussians at the knots (the basis of FastKAN, Li 2024, arXiv:2405.06721).

    .. math:: B_g(u) = e^{-(u - g)^2}, \qquad g = 0, \dots, G,

    with a width of one interval. Parameters per edge: G + 1. Operations per input: 7 (G + 1), with
    4 for an exponential; an edge costs 2 (G + 1). With ``"zero"`` the Gaussians decay by
    themselves. Arguments are those of :class:`Basis`.

    Example:
        >>> from kan_diffusion.kan import KANLinear, RBF
        >>> KANLinear(3, 2, basis=RBF).basis.num_functions
        6
    """

    name: ClassVar[str] = "rbf"
    local: ClassVar[bool] = True

    def sizes(self) -> tuple[int, int, int]:
        """Returns ``num_functions``, ``num_active`` and ``flops_per_input``."""
        functions = self.num_intervals + 1
        return functions, functions, 7 * functions

    def _distances(self, u: Tensor) -> Tensor:
        centres = torch.arange(self.num_functions, device=u.device, dtype=u.dtype)
        return u.unsqueeze(-1) - centres

    def values(self, u: Tensor) -> Tensor:
        """Evaluates the Gaussians (*, G + 1) at u (*)."""
        return torch.exp(-self._distances(u).square())

    def slopes(self, u: Tensor) -> Tensor:
        """Computes the derivatives of the Gaussians with respect to u."""
        distances = self._distances(u)
        return -2 * distances * torch.exp(-distances.square())


class Chebyshev(Basis):
    r"""Chebyshev polynomials of the first kind (as in ChebyKAN, SS et al. 2024, arXiv:2405.07200).

    .. math:: B_g(u) = T_g(z), \quad z = 2u/G - 1, \quad
        T_0 = 1,\; T_1 = z,\; T_{g+1} = 2 z\, T_g - T_{g-1}, \qquad g = 0, \dots, G,

    with the ends of the grid at z = -1 and 1; G is the degree, and inner knots have no meaning.
    Where ChebyKAN squashes inputs with tanh, the functions are continued: polynomials do not run
    out to zero. Parameters per edge: G + 1. Operations per input: 3 G + 2; an edge costs 2 (G + 1).
    The slopes are :math:`T_g' = g\, U_{g-1}`, with U the polynomials of the second kind. Arguments
    are those of :class:`Basis`.

    Example:
        >>> from kan_diffusion.kan import Chebyshev
        >>> Chebyshev(1, num_intervals=2)(torch.tensor([[0.5]]))  # 1, x and 2 x^2 - 1
        tensor([[[ 1.0000,  0.5000, -0.5000]]])
    """

    name: ClassVar[str] = "chebyshev"
    extrapolations: ClassVar[tuple[Extrapolation, ...]] = ("linear",)

    def sizes(self) -> tuple[int, int, int]:
        """Returns ``num_functions``, ``num_active`` and ``flops_per_input``."""
        functions = self.num_intervals + 1
        return functions, functions, 3 * self.num_intervals + 2

    def _recursion(self, first: Tensor, second: Tensor, z: Tensor, count: int) -> list[Tensor]:
        terms = [first, second]
        for _ in range(count - 2):
            terms.append(2 * z * terms[-1] - terms[-2])
        return terms[:count]

    def values(self, u: Tensor) -> Tensor:
        """Evaluates the polynomials (*, G + 1) at u (*)."""
        z = 2 * u / self.num_intervals - 1
        return torch.stack(self._recursion(torch.ones_like(z), z, z, self.num_functions), dim=-1)

    def slopes(self, u: Tensor) -> Tensor:
        """Computes the derivatives of the polynomials with respect to u."""
        z = 2 * u / self.num_intervals - 1
        second_kind = self._recursion(torch.ones_like(z), 2 * z, z, self.num_intervals)
        slopes = [2 / self.num_intervals * g * term for g, term in enumerate(second_kind, start=1)]
        return torch.stack([torch.zeros_like(z), *slopes], dim=-1)


BASES: dict[str, type[Basis]] = {basis.name: basis for basis in (BSpline, RBF, Chebyshev)}
"""Bases by name."""

BasisKind = str | type[Basis]
"""A name in ``BASES``, or a class of one's own."""


def basis_class(kind: BasisKind) -> type[Basis]:
    """Returns the class of a basis.

    Raises:
        KanDiffusionError: There is no such basis.
    """
    basis = look_up("basis", kind, BASES) if isinstance(kind, str) else kind
    if not (isinstance(basis, type) and issubclass(basis, Basis)):
        raise KanDiffusionError(
            f"basis must be a name or a class of Basis, not {kind!r}; known: {', '.join(BASES)}"
        )
    return basis
