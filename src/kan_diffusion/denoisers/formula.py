r"""A formula as a denoiser.

Each coordinate of the score is an expression in :math:`x_i`, :math:`\alpha`, :math:`\sigma` and
constants :math:`c_k`. The predicted noise is :math:`-\sigma` times the score, and the process turns
it into a prediction of its type. The constants are the denoiser's parameters, so a formula is
trained, saved, sampled and judged like a network.

A file with a formula must not be able to run code, and SymPy's own parser evaluates what it reads.
So an expression is stored as a tree: a number, the name of a symbol, ``["constant", k]``, or
``[function, argument, ...]`` with SymPy's name of the function, such as ``["Add", "x0", 2.0]``.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, TypeVar

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from kan_diffusion.denoisers.base import ModelMixin, PointDenoiser
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.processes import Process

if TYPE_CHECKING:
    import sympy

__all__ = ["FormulaDenoiser", "ModelMixin", "formula_denoiser"]

T = TypeVar("T")

Tree = str | float | Sequence[object]
"""An expression as described above."""

_FUNCTIONS: Mapping[str, tuple[int, Callable[..., Tensor]]] = {
    "Add": (0, torch.add), "Mul": (0, torch.mul), "Max": (0, torch.maximum),
    "Min": (0, torch.minimum), "Pow": (2, torch.pow), "Abs": (1, torch.abs),
    **{
        name: (1, getattr(torch, name))
        for name in (
            "acos", "asin", "atan", "cos", "cosh", "erf", "exp", "log", "sign", "sin", "sinh",
            "tan", "tanh",
        )
    },
}  # fmt: skip
"""Functions that a formula may have, by SymPy's name, with their numbers of arguments; 0 for one or
more."""

_DEEPEST = 150
"""Largest number of levels of a tree, through which Python goes by recursion."""

SMALLEST_SIGNAL = 1e-4
"""Smallest signal level that predictions of v and of clean points are divided by."""


def _to_tree(expression: sympy.Expr, constants: Sequence[sympy.Symbol]) -> Tree:
    if expression in constants:
        return ["constant", constants.index(expression)]
    if expression.args:
        return [type(expression).__name__, *(_to_tree(part, constants) for part in expression.args)]
    is_number = expression.is_number and expression.is_real and expression.is_finite
    return float(expression) if is_number else str(expression)


class FormulaDenoiser(PointDenoiser):
    """A denoiser whose score is a formula.

    Args:
        data_dim: Number d of coordinates.
        score: A tree for each coordinate of the score.
        process: Fields of the :class:`kan_diffusion.processes.Process`.
        num_constants: Number of constants.

    Raises:
        KanDiffusionError: There is not one expression per coordinate, or an expression has what a
            formula cannot have.

    Example:
        >>> from kan_diffusion.denoisers import FormulaDenoiser
        >>> from kan_diffusion.processes import get_process
        >>> process = get_process("cosine").model_dump(mode="json")
        >>> normal = FormulaDenoiser(1, [["Mul", -1.0, "x0"]], process, num_constants=0)  # score -x
        >>> normal(torch.ones(3, 1), 999).sample.shape
        torch.Size([3, 1])
    """

    levels: Tensor

    @register_to_config
    def __init__(
        self,
        data_dim: int,
        score: Sequence[Tree],
        process: Mapping[str, str | int | float],
        num_constants: int,
    ) -> None:
        super().__init__()
        if len(score) != data_dim:
            raise KanDiffusionError(
                f"a formula needs one expression for each of {data_dim} coordinates, not "
                f"{len(score)}"
            )
        self.process = Process.model_validate(dict(process))
        self.constants = nn.Parameter(torch.zeros(num_constants))
        with torch.device("cpu"):  # even if the formula is built on the meta device
            alpha, sigma = self.process.levels()
        alpha = alpha.clamp(min=SMALLEST_SIGNAL)
        sigma = 1 - alpha if self.process.is_flow else sigma  # as predictions assume
        levels = torch.stack([alpha, sigma])
        self.register_buffer("levels", levels, persistent=False)

        def operations(name: str, parts: list[int]) -> int:
            return sum(parts) + (len(parts) - 1 if name in ("Add", "Mul") else 4)

        self._flops = sum(self._fold(lambda _: 0, lambda _: 0, lambda _: 0, operations))

    @property
    def flops(self) -> int:
        """Number of operations of the expressions; a function or a power counts four."""
        return self._flops

    def _fold(
        self,
        number: Callable[[float], T],
        symbol: Callable[[str], T],
        constant: Callable[[int], T],
        operation: Callable[[str, list[T]], T],
    ) -> list[T]:
        """Computes a value of each expression, from those of its leaves upwards."""
        symbols = {*(f"x{i}" for i in range(self.data_dim)), "alpha", "sigma"}

        def value(tree: object, levels: int = _DEEPEST) -> T:
            match tree:
                case int() | float() if -math.inf < tree < math.inf:
                    return number(tree)
                case str() if tree in symbols:
                    return symbol(tree)
                case ["constant", int() as index] if 0 <= index < len(self.constants):
                    return constant(index)
                case [str() as name, _, *_] if levels and name in _FUNCTIONS:
                    if _FUNCTIONS[name][0] in (0, len(tree) - 1):
                        return operation(name, [value(part, levels - 1) for part in tree[1:]])
            raise KanDiffusionError(
                f"a formula cannot have {reprlib.repr(tree)[:80]}; it can have finite numbers, "
                f"{', '.join(sorted(symbols))}, {len(self.constants)} constants, and at most "
                f"{_DEEPEST} levels of {', '.join(_FUNCTIONS)}"
            )

        return [value(tree) for tree in self.config.score]

    def score(self, points: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Evaluates the score in double precision.

        Args:
            points: Noised points with shape (n, d).
            alpha: Signal levels with shape (n,) or (1,).
            sigma: Noise levels with shape (n,) or (1,).

        Returns:
            The score with shape (n, d), float64.
        """
        symbols = {f"x{i}": x for i, x in enumerate(points.double().unbind(1))}
        symbols |= {"alpha": alpha.double(), "sigma": sigma.double()}
        constants = self.constants.double()

        def operation(name: str, parts: list[Tensor]) -> Tensor:
            count, function = _FUNCTIONS[name]
            return function(*parts) if count else reduce(function, parts)

        components = self._fold(
            constants.new_tensor, symbols.__getitem__, constants.__getitem__, operation
        )
        return torch.stack([part.expand(len(points)) for part in components], dim=-1)

    def _predict(self, points: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        levels = self.levels.double()
        last = levels.shape[1] - 1
        position = steps.double().clamp(0, last)
        low = position.floor().long()
        high = (low + 1).clamp(max=last)
        alpha, sigma = torch.lerp(levels[:, low], levels[:, high], position - low)
        noise = -sigma.unsqueeze(-1) * self.score(points, alpha, sigma)
        a, b = self.process.noise_coefficients(alpha.unsqueeze(-1), sigma.unsqueeze(-1))
        return ((noise - b * points.double()) / a).to(points.dtype)

    def expressions(self) -> list[sympy.Expr]:
        """Writes the coordinates of the score as SymPy expressions, with all digits."""
        import sympy

        constants = self.constants.tolist()
        return self._fold(
            lambda number: (sympy.Integer if number == int(number) else sympy.Float)(number),
            lambda name: sympy.Symbol(name, real=True),
            lambda index: sympy.Float(constants[index]),
            lambda name, parts: getattr(sympy, name)(*parts),
        )


def formula_denoiser(
    score: Sequence[sympy.Expr],
    constants: Mapping[sympy.Symbol, float],
    process: Process,
) -> FormulaDenoiser:
    """Makes a denoiser of a formula.

    Args:
        score: Coordinates of the score in ``x0``, ``x1``, ..., ``alpha``, ``sigma`` and constants.
        constants: Values of the constants.
        process: The noising process.

    Raises:
        KanDiffusionError: The formula has an unsupported function or number, or an unknown symbol.
    """
    denoiser = FormulaDenoiser(
        data_dim=len(score),
        score=[_to_tree(expression, list(constants)) for expression in score],
        process=process.model_dump(mode="json"),
        num_constants=len(constants),
    )
    for name, value in constants.items():
        if not abs(value) <= torch.finfo(denoiser.constants.dtype).max:
            raise KanDiffusionError(f"constant {name} of a formula is {value:g}; scale the formula")
    with torch.no_grad():
        denoiser.constants.copy_(torch.tensor(list(constants.values()), dtype=torch.float64))
    return denoiser
