"""Formulas as nested lists, converted from and to SymPy and evaluated on tensors.

A file with a formula must not be able to run code, and SymPy's own parser evaluates what it reads.
So a formula is stored as a tree of a few known operations: ``["add", ...]``, ``["mul", ...]``,
``["pow", base, exponent]``, ``["call", function, ...]``, ``["symbol", name]``, ``["constant",
number of the constant]`` and ``["number", value]``.
"""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from kan_diffusion.errors import KanDiffusionError

if TYPE_CHECKING:
    import sympy

__all__ = ["Tree", "check_tree", "evaluate", "fold", "to_sympy", "to_tree"]

T = TypeVar("T")

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
_SYMPY = {"add": "Add", "mul": "Mul", "pow": "Pow"}

_DEEPEST = 150
"""Largest number of levels of a tree, which is evaluated by recursion."""


def to_tree(expression: sympy.Expr, constants: Sequence[sympy.Symbol]) -> Tree:
    """Turns a SymPy expression into a tree.

    Args:
        expression: The expression.
        constants: Symbols that stand for constants, in order.

    Raises:
        KanDiffusionError: The expression has an unsupported function or number.
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
    name = type(expression).__name__
    head = [kind for kind, of_sympy in _SYMPY.items() if of_sympy == name] or ["call", name]
    if head[0] == "call" and name not in _CALLS:
        raise KanDiffusionError(
            f"a formula cannot have the function '{name}'; it can have {', '.join(_CALLS)}"
        )
    return [*head, *(to_tree(part, constants) for part in expression.args)]


def _damaged(tree: object) -> KanDiffusionError:
    shown = reprlib.repr(tree)[:80]
    return KanDiffusionError(f"'{shown}' is not part of a formula; its file is damaged")


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False


def _parts(tree: object, symbols: Collection[str] | None, num_constants: int) -> Sequence[object]:
    """Checks the root of a tree and returns its subtrees."""
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
    """Checks a whole tree without evaluating it.

    Args:
        tree: The object to check.
        symbols: Names of the allowed symbols; any when None.
        num_constants: Number of constants.

    Raises:
        KanDiffusionError: The object is not a tree of a formula, or is too deep to be evaluated.
    """
    level: list[object] = [tree]
    for _ in range(_DEEPEST):
        level = [part for one in level for part in _parts(one, symbols, num_constants)]
        if not level:
            return
    raise KanDiffusionError(
        f"a formula is nested more than {_DEEPEST} levels deep; its file is damaged"
    )


def fold(
    tree: object, leaf: Callable[[str, object], T], operation: Callable[[str, list[T]], T]
) -> T:
    """Computes a value of a checked tree, from its leaves upwards.

    Args:
        tree: The tree.
        leaf: Gives the value of a number, a constant or a symbol.
        operation: Gives the value of a sum, product, power or function from its parts' values.
    """
    match tree:
        case ["number" | "constant" | "symbol" as kind, content]:
            return leaf(kind, content)
        case ["call", str() as name, *parts] | [str() as name, *parts]:
            return operation(name, [fold(part, leaf, operation) for part in parts])
    raise _damaged(tree)


def evaluate(tree: Tree, symbols: Mapping[str, Tensor], constants: Tensor) -> Tensor:
    """Evaluates a tree.

    Args:
        tree: The tree.
        symbols: Values of the symbols, of shapes that broadcast.
        constants: Values of the constants with shape (n,).

    Raises:
        KanDiffusionError: It is not a tree of a formula, or has an unknown symbol.
    """
    check_tree(tree, symbols, len(constants))

    def as_tensor(value: Tensor | float) -> Tensor:
        return value if isinstance(value, Tensor) else constants.new_tensor(value)

    def leaf(kind: str, content: object) -> Tensor | float:
        match kind, content:
            case "number", int() | float() as value:
                return float(value)
            case "constant", int() as index:
                return constants[index]
        return symbols[str(content)]

    def operation(name: str, parts: list[Tensor | float]) -> Tensor | float:
        if name in ("add", "mul"):
            return reduce(operator.add if name == "add" else operator.mul, parts)
        if name == "pow":
            return torch.pow(as_tensor(parts[0]), parts[1])
        values = [as_tensor(part) for part in parts]
        if name in _OF_MANY:
            return reduce(_CALLS[name], torch.broadcast_tensors(*values))
        return _CALLS[name](*values)

    return as_tensor(fold(tree, leaf, operation))


def to_sympy(tree: Tree, constants: Sequence[object]) -> sympy.Expr:
    """Turns a tree into a SymPy expression.

    Args:
        tree: The tree.
        constants: Numbers or symbols that replace the constants.

    Raises:
        KanDiffusionError: It is not a tree of a formula.
    """
    import sympy

    check_tree(tree, None, len(constants))

    def leaf(kind: str, content: object) -> sympy.Expr:
        match kind, content:
            case "number", int() | float() as value:
                return sympy.Integer(int(value)) if int(value) == value else sympy.Float(value)
            case "constant", int() as index:
                return sympy.sympify(constants[index])
        return sympy.Symbol(str(content), real=True)

    return fold(tree, leaf, lambda name, parts: getattr(sympy, _SYMPY.get(name, name))(*parts))
