"""SymPy expressions as nested lists, and such lists as functions of tensors.

A file with a formula must not be able to run anything, and SymPy's own parser evaluates what it
reads. So a formula is kept as a tree of a few known operations: ``["add", ...]``, ``["mul", ...]``,
``["pow", base, exponent]``, ``["call", function, ...]``, ``["symbol", name]``, ``["constant",
number of the constant]`` and ``["number", value]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kan_diffusion.errors import KanDiffusionError

if TYPE_CHECKING:
    import sympy

__all__ = ["Tree", "evaluate", "to_sympy", "to_tree"]

Tree = Sequence[object]
"""A nested list as described above."""

_CALLS: Mapping[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Max": torch.maximum,
    "Min": torch.minimum,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "log": torch.log,
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "tan": torch.tan,
    "tanh": torch.tanh,
}
"""Functions a formula may have, by SymPy's name."""


def to_tree(expression: sympy.Expr, constants: Sequence[sympy.Symbol]) -> Tree:
    """Turns a SymPy expression into a tree.

    Args:
        expression: The expression.
        constants: Symbols that stand for constants, in order.

    Raises:
        KanDiffusionError: It has a function that formulas may not have.
    """
    if expression.is_Symbol:
        if expression in constants:
            return ["constant", list(constants).index(expression)]
        return ["symbol", expression.name]
    if expression.is_number and not expression.args:
        return ["number", float(expression)]
    parts = [to_tree(part, constants) for part in expression.args]
    name = type(expression).__name__
    if expression.is_Add:
        return ["add", *parts]
    if expression.is_Mul:
        return ["mul", *parts]
    if expression.is_Pow:
        return ["pow", *parts]
    if name not in _CALLS:
        raise KanDiffusionError(
            f"a formula cannot have the function '{name}'; it can have {', '.join(_CALLS)}"
        )
    return ["call", name, *parts]


def _damaged(tree: object) -> KanDiffusionError:
    return KanDiffusionError(f"'{str(tree)[:60]}' is not part of a formula; its file is damaged")


def evaluate(tree: Tree, symbols: Mapping[str, Tensor], constants: Tensor) -> Tensor:
    """Evaluates a tree.

    Args:
        tree: The tree.
        symbols: Values of the symbols, of shapes that broadcast.
        constants: Values of the constants with shape (n,).

    Raises:
        KanDiffusionError: It is not a tree of a formula, or has another symbol.
    """
    match tree:
        case ["number", int() | float() as value]:
            return constants.new_tensor(float(value))
        case ["constant", int() as index] if 0 <= index < len(constants):
            return constants[index]
        case ["symbol", str() as name] if name in symbols:
            return symbols[name]
        case ["add", *parts] if parts:
            return reduce(torch.add, (evaluate(p, symbols, constants) for p in parts))  # type: ignore[arg-type]
        case ["mul", *parts] if parts:
            return reduce(torch.mul, (evaluate(p, symbols, constants) for p in parts))  # type: ignore[arg-type]
        case ["pow", base, ["number", int() | float() as power]]:
            return evaluate(base, symbols, constants) ** float(power)  # type: ignore[arg-type]
        case ["pow", base, exponent]:
            return torch.pow(
                evaluate(base, symbols, constants),  # type: ignore[arg-type]
                evaluate(exponent, symbols, constants),  # type: ignore[arg-type]
            )
        case ["call", str() as name, *parts] if name in _CALLS and parts:
            values = [evaluate(p, symbols, constants) for p in parts]  # type: ignore[arg-type]
            if name in ("Max", "Min"):
                return reduce(_CALLS[name], torch.broadcast_tensors(*values))
            return _CALLS[name](*values)
    raise _damaged(tree)


def to_sympy(tree: Tree, constants: Sequence[object]) -> sympy.Expr:
    """Turns a tree into a SymPy expression.

    Args:
        tree: The tree.
        constants: What to put for the constants: numbers or symbols.

    Raises:
        KanDiffusionError: It is not a tree of a formula.
    """
    import sympy

    match tree:
        case ["number", int() | float() as value]:
            return sympy.nsimplify(value) if float(value).is_integer() else sympy.Float(value)
        case ["constant", int() as index] if 0 <= index < len(constants):
            return sympy.sympify(constants[index])
        case ["symbol", str() as name]:
            return sympy.Symbol(name, real=True)
        case ["add" | "mul" | "pow" as kind, *parts]:
            made = {"add": sympy.Add, "mul": sympy.Mul, "pow": sympy.Pow}[kind]
            return made(*(to_sympy(part, constants) for part in parts))  # type: ignore[arg-type]
        case ["call", str() as name, *parts] if name in _CALLS:
            return getattr(sympy, name)(*(to_sympy(p, constants) for p in parts))  # type: ignore[arg-type]
    raise _damaged(tree)
