import json

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import refused
from kan_diffusion.denoisers.trees import check_tree, evaluate, to_sympy, to_tree

X, Y = sympy.symbols("x0 alpha", real=True)
C = sympy.symbols("c0:3", real=True)
VALUES = (0.7, -1.3, 2.1)

leaves = (
    st.sampled_from([X, Y, *C])
    | st.integers(-4, 4).map(sympy.Integer)
    | st.floats(-3, 3, allow_subnormal=False).map(lambda value: sympy.Float(round(value, 3)))
)
FUNCTIONS = (
    *(sympy.tanh, sympy.sin, sympy.cos, sympy.Abs, sympy.atan, sympy.erf),
    *(lambda z: sympy.exp(-(z**2)), lambda z: 1 / (1 + z**2), lambda z: z**3),
    *(lambda z: sympy.log(1 + z**2), lambda z: sympy.sqrt(2 + sympy.sin(z))),
)
OPERATIONS = (
    *(sympy.Add, sympy.Mul, sympy.Max, sympy.Min, lambda a, b: a - b),
    *(lambda a, b: a / (2 + b**2), lambda a, b: (1 + a**2) ** sympy.tanh(b)),
)
of_one, of_two = st.sampled_from(FUNCTIONS), st.sampled_from(OPERATIONS)
expressions = st.recursive(
    leaves,
    lambda inner: (
        st.tuples(of_one, inner).map(lambda p: p[0](p[1]))
        | st.tuples(of_two, inner, inner).map(lambda p: p[0](p[1], p[2]))
    ),
    max_leaves=8,
)


def _points():
    generator = np.random.default_rng(0)
    return generator.uniform(-2, 2, 40), generator.uniform(0.1, 1, 40)


def _evaluated(tree):
    x, y = (torch.from_numpy(values) for values in _points())
    constants = torch.tensor(VALUES, dtype=torch.float64)
    return evaluate(tree, {"x0": x, "alpha": y}, constants).expand(40).numpy()


def _by_sympy(expression):
    function = sympy.lambdify([X, Y, *C], expression, modules=["scipy", "numpy"])
    return np.broadcast_to(function(*_points(), *VALUES), 40)


@given(expressions)
def test_trees_are_the_expression_and_come_back(expression):
    tree = json.loads(json.dumps(to_tree(expression, C)))
    expected = _by_sympy(expression)
    np.testing.assert_allclose(_evaluated(tree), expected, rtol=1e-9, atol=1e-9)
    back = to_sympy(tree, C)
    assert back.free_symbols <= {X, Y, *C}
    np.testing.assert_allclose(_by_sympy(back), expected, rtol=1e-9, atol=1e-9)
    numbers = to_sympy(tree, [sympy.Float(value) for value in VALUES])
    assert not numbers.free_symbols & set(C)
    np.testing.assert_allclose(_by_sympy(numbers), expected, rtol=1e-9, atol=1e-9)


def test_an_expression_survives_unchanged_and_other_functions_are_those_of_sympy():
    expression = C[0] * X + sympy.tanh(C[1] * X - C[2] * Y**2) / (1 + C[1] * Y**2) - sympy.exp(-X)
    assert to_sympy(to_tree(expression, C), C) == expression
    for name in ("Abs", "sign", "tan", "sinh", "cosh", "acos", "asin"):
        expression = getattr(sympy, name)(X / 2)
        np.testing.assert_allclose(_evaluated(to_tree(expression, C)), _by_sympy(expression))


def test_gradients_reach_constants_and_points():
    expression = C[0] * sympy.tanh(C[1] * X) / (1 + C[2] * Y**2)
    x = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor([0.5, 0.9], dtype=torch.float64)
    constants = torch.tensor([0.7, 1.3, 2.1], dtype=torch.float64, requires_grad=True)
    tree = to_tree(expression, C)
    assert torch.autograd.gradcheck(
        lambda x, c: evaluate(tree, {"x0": x, "alpha": alpha}, c), (x, constants)
    )


def test_what_a_formula_cannot_have_is_refused():
    for expression, what in (
        (sympy.gamma(X), "function 'gamma'"),
        (sympy.Piecewise((X, X > 0), (0, True)), "function 'Piecewise'"),
        (sympy.I * X, "number I"),
        (sympy.oo, "number oo"),
        (sympy.nan, "number nan"),
        (sympy.zoo, "number zoo"),
    ):
        with refused(f"cannot have the {what}"):
            to_tree(expression, C)


def _nested(depth):
    tree = ["symbol", "x0"]
    for _ in range(depth):
        tree = ["call", "tanh", tree]
    return tree


DAMAGED = [
    ["call", "__import__", ["symbol", "os"]],
    ["call", "eval", ["symbol", "__import__('os').system('true')"]],
    ["call", "tanh"],
    ["call", "log", ["symbol", "x0"], ["number", 2.0]],
    ["call", ["symbol", "tanh"], ["symbol", "x0"]],
    ["add"],
    ["pow", ["symbol", "x0"]],
    ["number", "1"],
    ["number", None],
    ["number", float("nan")],
    ["number", 10**400],
    ["constant", 3],
    ["constant", -1],
    ["symbol", 3],
    ["lambda", ["symbol", "x0"]],
    "__import__('os')",
    [],
    None,
    _nested(200),
    _nested(50_000),
]


@pytest.mark.parametrize(
    "use",
    [
        lambda tree: check_tree(tree, ("x0", "alpha"), 3),
        lambda tree: _evaluated(tree),
        lambda tree: to_sympy(tree, C),
    ],
    ids=["check", "evaluate", "sympy"],
)
def test_damaged_trees_are_refused_in_one_line(use):
    for tree in DAMAGED:
        with refused("its file is damaged") as caught:
            use(tree)
        assert len(str(caught.value)) < 200


def test_another_symbol_is_refused_where_it_has_no_value_and_deep_trees_are_evaluated():
    tree = ["add", ["symbol", "x0"], ["symbol", "x7"]]
    assert to_sympy(tree, C) == X + sympy.Symbol("x7", real=True)
    with refused("'x7'"):
        _evaluated(tree)
    x = torch.from_numpy(_points()[0])
    deep = _nested(140)
    for _ in range(140):
        x = x.tanh()
    np.testing.assert_allclose(_evaluated(deep), x.numpy())
    assert to_sympy(deep, C).has(sympy.tanh)
