"""SymPy expressions as nested lists, and such lists as functions of tensors.

A file with a formula must not be able to run anything, and SymPy's own parser evaluates what it
reads. So a formula is kept as a tree of a few known operations: ``["add", ...]``, ``["mul", ...]``,
``["pow", base, exponent]``, ``["call", function, ...]``, ``["symbol", name]``, ``["constant",
number of the constant]`` and ``["number", value]``.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kan_diffusion.errors import KanDiffusionError

if TYPE_CHECKING:
    import sympy

__all__ = ["Tree", "check_tree", "evaluate", "to_sympy", "to_tree"]

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
_OF_MANY = ("Max", "Min")

_DEEPEST = 150
"""Levels of a tree; Python itself goes only so deep."""


def to_tree(expression: sympy.Expr, constants: Sequence[sympy.Symbol]) -> Tree:
    """Turns a SymPy expression into a tree.

    Args:
        expression: The expression.
        constants: Symbols that stand for constants, in order.

    Raises:
        KanDiffusionError: It has a function or a number that formulas may not have.
    """
    if expression.is_Symbol:
        if expression in constants:
            return ["constant", list(constants).index(expression)]
        return ["symbol", expression.name]
    if expression.is_number and not expression.args:
        if not (expression.is_real and expression.is_finite):
            raise KanDiffusionError(
                f"a formula cannot have the number {expression}; it can have finite real ones"
            )
        return ["number", float(expression)]
    kinds = {"add": expression.is_Add, "mul": expression.is_Mul, "pow": expression.is_Pow}
    head = [kind for kind, is_it in kinds.items() if is_it]
    name = type(expression).__name__
    if not head and name not in _CALLS:
        raise KanDiffusionError(
            f"a formula cannot have the function '{name}'; it can have {', '.join(_CALLS)}"
        )
    parts = [to_tree(part, constants) for part in expression.args]
    return [*(head or ["call", name]), *parts]


def _damaged(tree: object) -> KanDiffusionError:
    shown = reprlib.repr(tree)[:80]
    return KanDiffusionError(f"'{shown}' is not part of a formula; its file is damaged")


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False


def _parts(tree: object, symbols: Collection[str] | None, num_constants: int) -> Sequence[object]:
    """The parts of a tree that are trees, where the rest of it is right."""
    match tree:
        case ["number", value] if _is_number(value):
            return ()
        case ["constant", int() as index] if 0 <= index < num_constants:
            return ()
        case ["symbol", str() as name] if symbols is None or name in symbols:
            return ()
        case ["add" | "mul", *parts] if parts:
            return parts
        case ["pow", base, exponent]:
            return base, exponent
        case ["call", str() as name, *parts] if name in _CALLS:
            if len(parts) == 1 or (parts and name in _OF_MANY):
                return parts
    raise _damaged(tree)


def check_tree(tree: object, symbols: Collection[str] | None, num_constants: int) -> None:
    """Checks a tree from end to end, without evaluating anything.

    Args:
        tree: What may be a tree.
        symbols: Names of the symbols it may have; any when None.
        num_constants: Number of constants.

    Raises:
        KanDiffusionError: It is not a tree of a formula, or a deeper one than can be evaluated.
    """
    level: list[object] = [tree]
    for _ in range(_DEEPEST):
        level = [part for one in level for part in _parts(one, symbols, num_constants)]
        if not level:
            return
    raise KanDiffusionError(
        f"a formula is nested more than {_DEEPEST} levels deep; its file is damaged"
    )


def evaluate(tree: Tree, symbols: Mapping[str, Tensor], constants: Tensor) -> Tensor:
    """Evaluates a tree.

    Args:
        tree: The tree.
        symbols: Values of the symbols, of shapes that broadcast.
        constants: Values of the constants with shape (n,).

    Raises:
        KanDiffusionError: It is not a tree of a formula, or has another symbol.
    """
    check_tree(tree, symbols, len(constants))
    return _evaluate(tree, symbols, constants)


def _evaluate(tree: object, symbols: Mapping[str, Tensor], constants: Tensor) -> Tensor:
    """Evaluates a tree that was checked."""
    match tree:
        case ["number", int() | float() as value]:
            return constants.new_tensor(float(value))
        case ["constant", int() as index]:
            return constants[index]
        case ["symbol", str() as name]:
            return symbols[name]
        case ["add", *parts]:
            return reduce(torch.add, [_evaluate(part, symbols, constants) for part in parts])
        case ["mul", *parts]:
            return reduce(torch.mul, [_evaluate(part, symbols, constants) for part in parts])
        case ["pow", base, ["number", int() | float() as power]]:
            return torch.pow(_evaluate(base, symbols, constants), float(power))
        case ["pow", base, exponent]:
            return torch.pow(
                _evaluate(base, symbols, constants), _evaluate(exponent, symbols, constants)
            )
        case ["call", str() as name, *parts]:
            values = [_evaluate(part, symbols, constants) for part in parts]
            if name in _OF_MANY:
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
    check_tree(tree, None, len(constants))
    return _to_sympy(tree, constants)


def _to_sympy(tree: object, constants: Sequence[object]) -> sympy.Expr:
    """Turns a tree that was checked into a SymPy expression."""
    import sympy

    match tree:
        case ["number", int() | float() as value]:
            return sympy.Integer(int(value)) if int(value) == value else sympy.Float(value)
        case ["constant", int() as index]:
            return sympy.sympify(constants[index])
        case ["symbol", str() as name]:
            return sympy.Symbol(name, real=True)
        case ["add" | "mul" | "pow" as kind, *parts]:
            made = {"add": sympy.Add, "mul": sympy.Mul, "pow": sympy.Pow}[kind]
            return made(*[_to_sympy(part, constants) for part in parts])
        case ["call", str() as name, *parts]:
            return getattr(sympy, name)(*[_to_sympy(part, constants) for part in parts])
    raise _damaged(tree)
