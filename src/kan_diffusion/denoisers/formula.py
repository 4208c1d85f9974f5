r"""A formula as a denoiser.

Each coordinate of the score is an expression in :math:`x_i`, :math:`\alpha`, :math:`\sigma` and
constants :math:`c_k`. The predicted noise is :math:`-\sigma` times the score, and the process turns
it into a prediction of its type. The constants are the denoiser's parameters, so a formula is
trained, saved, sampled and judged like a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from kan_diffusion.denoisers.points import ModelMixin, PointDenoiser
from kan_diffusion.denoisers.trees import Tree, check_tree, evaluate, fold, to_sympy, to_tree
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.processes import Process

if TYPE_CHECKING:
    import sympy

__all__ = ["FormulaDenoiser", "ModelMixin", "formula_denoiser"]

SMALLEST_SIGNAL = 1e-4
"""Smallest signal level that predictions of v and of clean points are divided by."""


class FormulaDenoiser(PointDenoiser):
    """A denoiser whose score is a formula.

    Args:
        data_dim: Number d of coordinates.
        score: A tree (:mod:`kan_diffusion.denoisers.trees`) for each coordinate of the score.
        process: Fields of the :class:`kan_diffusion.processes.Process`.
        num_constants: Number of constants.

    Raises:
        KanDiffusionError: There is not one expression per coordinate, or an expression is not a
            valid tree.
    """

    @register_to_config
    def __init__(
        self,
        data_dim: int,
        score: Sequence[Tree],
        process: Mapping[str, str | int | float],
        num_constants: int,
    ) -> None:
        super().__init__()
        self._set_inputs()
        if len(score) != data_dim:
            raise KanDiffusionError(
                f"a formula needs one expression for each of {data_dim} coordinates, not "
                f"{len(score)}"
            )
        known = {f"x{i}" for i in range(data_dim)} | {"alpha", "sigma"}
        for tree in score:
            check_tree(tree, known, num_constants)
        self.process = Process.model_validate(dict(process))
        self.constants = nn.Parameter(torch.zeros(num_constants))
        with torch.device("cpu"):  # even if the formula is built on the meta device
            alpha, sigma = self.process.levels()
        self.register_buffer("alphas", alpha.clamp(min=SMALLEST_SIGNAL), persistent=False)
        self.register_buffer("sigmas", sigma, persistent=False)

    alphas: Tensor
    sigmas: Tensor

    @property
    def flops(self) -> int:
        """Number of operations of the expressions; a function or a power counts four."""

        def operation(name: str, parts: list[int]) -> int:
            return sum(parts) + (len(parts) - 1 if name in ("add", "mul") else 4)

        return sum(fold(tree, lambda *_: 0, operation) for tree in self.config.score)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Does nothing: a formula always starts from the constants that it was made with."""

    def _levels(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        last = self.process.num_timesteps - 1
        place = steps.double().clamp(0, last)
        low = place.floor().long()
        share = place - low
        high = (low + 1).clamp(max=last)
        alpha = torch.lerp(self.alphas.double()[low], self.alphas.double()[high], share)
        return alpha, torch.lerp(self.sigmas.double()[low], self.sigmas.double()[high], share)

    def score(self, points: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Evaluates the score in double precision.

        Args:
            points: Noised points with shape (n, d).
            alpha: Signal levels with shape (n,) or (1,).
            sigma: Noise levels with shape (n,) or (1,).

        Returns:
            The score with shape (n, d), float64.
        """
        symbols = {f"x{i}": points[:, i].double() for i in range(self.data_dim)}
        symbols |= {"alpha": alpha.double(), "sigma": sigma.double()}
        constants = self.constants.double()
        parts = [evaluate(tree, symbols, constants) for tree in self.config.score]
        return torch.stack([part.expand(len(points)) for part in parts], dim=-1)

    def _predict(self, points: Tensor, steps: Tensor, given: Tensor | None) -> Tensor:
        alpha, sigma = self._levels(steps)
        noise = -sigma.unsqueeze(-1) * self.score(points, alpha, sigma)
        a, b = self.process.noise_coefficients(alpha.unsqueeze(-1), sigma.unsqueeze(-1))
        return ((noise - b * points.double()) / a).to(points.dtype)

    def expressions(self, digits: int | None = None) -> list[sympy.Expr]:
        """Writes the coordinates of the score as SymPy expressions.

        Args:
            digits: Significant digits of the constants; all of them when None.
        """
        import sympy

        values = [
            sympy.Float(value) if digits is None else sympy.Float(f"{value:.{digits}g}", digits)
            for value in self.constants.tolist()
        ]
        return [to_sympy(tree, values) for tree in self.config.score]


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
    known = {f"x{i}" for i in range(len(score))} | {"alpha", "sigma"}
    for expression in score:
        for symbol in expression.free_symbols:
            if symbol not in constants and symbol.name not in known:
                raise KanDiffusionError(
                    f"the formula has the symbol '{symbol}', which is neither a constant nor one "
                    f"of {', '.join(sorted(known))}"
                )
    names = list(constants)
    made = FormulaDenoiser(
        data_dim=len(score),
        score=[to_tree(expression, names) for expression in score],
        process=process.model_dump(mode="json"),
        num_constants=len(names),
    )
    with torch.no_grad():
        made.constants.copy_(torch.tensor(list(constants.values()), dtype=torch.float64))
    return made
