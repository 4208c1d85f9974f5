"""Short vectors of floats in numba, which make the vectorisation of kernels explicit.

In a loop over a few contiguous numbers, bounds and alias checks cost more than the arithmetic. Here
``lanes`` contiguous numbers are one value of a kernel (LLVM's vector type), which is loaded, added,
multiplied and stored as a whole; LLVM maps it to whatever registers there are. A plain number among
the operands stands for a vector of copies of it.

Indices are plain offsets into one-dimensional arrays, without wrap-around or bounds checks.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial, wraps

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import (
    intrinsic,
    lower_builtin,
    models,
    overload,
    register_jitable,
    register_model,
)

from kan_diffusion.kan.kernels.runtime import INNER


def compiled_by_type(**options):
    """Decorates a function that takes types and returns the code that kernels call in its place.

    With ``prefer_literal`` constant arguments come as ``IntegerLiteral``, and the code is compiled
    anew for each. Arguments whose ``literal_value`` it takes have to be constants.
    """

    def decorate(code):
        @wraps(code)
        def called(*arguments):
            raise NotImplementedError

        overload(called, **options)(code)
        return called

    return decorate


class Vector(types.Type):
    """The type of ``lanes`` floats."""

    def __init__(self, dtype: types.Float, lanes: int) -> None:
        self.dtype = dtype
        self.lanes = lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type: Vector) -> None:
        element = dmm.lookup(fe_type.dtype).get_data_type()
        super().__init__(dmm, fe_type, ir.VectorType(element, fe_type.lanes))


def _pointer(context, builder, array_type, array, index, pointee=None):
    """The address of a number of an array, or of a vector that begins there."""
    address = builder.gep(context.make_array(array_type)(context, builder, array).data, [index])
    return address if pointee is None else builder.bitcast(address, pointee.as_pointer())


def _suffix(vector_type: ir.VectorType) -> str:
    kind = "f32" if isinstance(vector_type.element, ir.FloatType) else "f64"
    return f"v{vector_type.count}{kind}"


def _call(name: str, builder, *operands):
    """Calls LLVM's elementwise ``name`` on vectors."""
    vector_type = operands[0].type
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector_type, [vector_type] * len(operands)),
        f"llvm.{name}.{_suffix(vector_type)}",
    )
    return builder.call(function, operands)


def _broadcast(builder, scalar, vector_type: ir.VectorType):
    undefined = ir.Constant(vector_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), vector_type.count), [0] * vector_type.count)
    return builder.shuffle_vector(first, undefined, mask)


def _vectors(context, builder, signature, args):
    """Turns operands into vectors: numbers among them are cast and copied into every lane."""
    vector = signature.return_type
    vector_type = context.get_value_type(vector)
    return [
        value
        if isinstance(kind, Vector)
        else _broadcast(builder, context.cast(builder, value, kind, vector.dtype), vector_type)
        for value, kind in zip(args, signature.args, strict=True)
    ]


def _common(*kinds):
    """Returns the one type of the vectors among vectors and numbers, or None."""
    vectors = {kind for kind in kinds if isinstance(kind, Vector)}
    fits = all(isinstance(kind, (Vector, types.Number)) for kind in kinds)
    return vectors.pop() if fits and len(vectors) == 1 else None


@intrinsic
def arrays_at(typingctx, addresses, like):
    """Arrays of numbers of the type of the scalar ``like`` at addresses, without a length."""
    array_type = types.Array(like, 1, "C")

    def codegen(context, builder, signature, args):
        size = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(like)))
        arrays = []
        for address in cgutils.unpack_tuple(builder, args[0]):
            array = context.make_array(array_type)(context, builder)
            data = builder.inttoptr(address, context.get_data_type(like).as_pointer())
            none = context.get_constant(types.intp, 0)
            context.populate_array(
                array, data=data, shape=[none], strides=[size], itemsize=size, meminfo=None
            )
            arrays.append(array._getvalue())
        return context.make_tuple(builder, signature.return_type, arrays)

    return types.UniTuple(array_type, len(addresses))(addresses, like), codegen


@intrinsic
def get(typingctx, array, index):
    """``array[index]``."""

    def codegen(context, builder, signature, args):
        return builder.load(_pointer(context, builder, signature.args[0], *args))

    return array.dtype(array, types.intp), codegen


@intrinsic(prefer_literal=True)
def load(typingctx, array, index, lanes):
    """``array[index : index + lanes]``, with ``lanes`` a constant."""
    vector = Vector(array.dtype, lanes.literal_value)

    def codegen(context, builder, signature, args):
        kind = context.get_value_type(vector)
        value = builder.load(_pointer(context, builder, signature.args[0], *args[:2], kind))
        value.align = array.dtype.bitwidth // 8
        return value

    return vector(array, types.intp, lanes), codegen


@intrinsic
def store(typingctx, array, index, value):
    """``array[index : index + lanes] = value``."""

    def codegen(context, builder, signature, args):
        address = _pointer(context, builder, signature.args[0], *args[:2], args[2].type)
        builder.store(args[2], address).align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def store_as_int(typingctx, array, index, value):
    """Stores whole numbers into an int32 array; NaN is stored as an arbitrary number."""

    def codegen(context, builder, signature, args):
        integers = ir.VectorType(ir.IntType(32), args[2].type.count)
        address = _pointer(context, builder, signature.args[0], *args[:2], integers)
        builder.store(builder.fptosi(args[2], integers), address).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic(prefer_literal=True)
def splat(typingctx, scalar, lanes):
    """``lanes`` copies of a float."""
    vector = Vector(scalar, lanes.literal_value)

    def codegen(context, builder, signature, args):
        return _broadcast(builder, args[0], context.get_value_type(vector))

    return vector(scalar, lanes), codegen


@intrinsic
def pack(typingctx, numbers):
    """A vector of the floats of a tuple."""
    vector = Vector(numbers.dtype, len(numbers))

    def codegen(context, builder, signature, args):
        packed = ir.Constant(context.get_value_type(vector), ir.Undefined)
        for lane, number in enumerate(cgutils.unpack_tuple(builder, args[0])):
            packed = builder.insert_element(packed, number, ir.Constant(ir.IntType(32), lane))
        return packed

    return vector(numbers), codegen


@intrinsic
def dot(typingctx, a, b):
    """The sum of ``a * b``, in an order of LLVM's choosing."""

    def codegen(context, builder, signature, args):
        product = builder.fmul(*args)
        element = product.type.element
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(element, [element, product.type]),
            f"llvm.vector.reduce.fadd.{_suffix(product.type)}",
        )
        return builder.call(function, [ir.Constant(element, -0.0), product], fastmath=("reassoc",))

    return a.dtype(a, b), codegen


def _elementwise(build: Callable[..., ir.Value], arity: int, doc: str):
    """Makes a function of vectors from one that builds its code of their LLVM values."""

    def codegen(context, builder, signature, args):
        return build(builder, *_vectors(context, builder, signature, args))

    def typed(*operands):
        vector = _common(*operands)
        return None if vector is None else (vector(*operands), codegen)

    def typing_unary(typingctx, a):
        return typed(a)

    def typing_binary(typingctx, a, b):
        return typed(a, b)

    def typing_ternary(typingctx, a, b, c):
        return typed(a, b, c)

    function = {1: typing_unary, 2: typing_binary, 3: typing_ternary}[arity]
    function.__doc__ = doc
    return intrinsic(function)


def _nan_or_zero(builder, a):
    is_nan = builder.fcmp_unordered("uno", a, a)
    return builder.select(is_nan, a, ir.Constant(a.type, None))


def _zero_where_apart(builder, value, a, b):
    apart = builder.fcmp_ordered("!=", a, b)
    return builder.select(apart, ir.Constant(value.type, None), value)


def _power_of_two(builder, a):
    double = isinstance(a.type.element, ir.DoubleType)
    bits, fraction, bias = (64, 52, 1023) if double else (32, 23, 127)
    integers = ir.VectorType(ir.IntType(bits), a.type.count)
    bias, fraction = (ir.Constant(integers, [n] * integers.count) for n in (bias, fraction))
    exponent = builder.add(builder.fptosi(a, integers), bias)
    return builder.bitcast(builder.shl(exponent, fraction), a.type)


floor = _elementwise(partial(_call, "floor"), 1, "The largest whole numbers not above ``a``.")
minimum = _elementwise(partial(_call, "minnum"), 2, "The smaller; the other where one is NaN.")
maximum = _elementwise(partial(_call, "maxnum"), 2, "The larger; the other where one is NaN.")
fma = _elementwise(partial(_call, "fma"), 3, "``a * b + c``, rounded once.")
nan_or_zero = _elementwise(_nan_or_zero, 1, "NaN where ``a`` is NaN, zero elsewhere.")
zero_where_apart = _elementwise(
    _zero_where_apart, 3, "``a``, but zero where ``b`` and ``c`` differ; a NaN does not."
)
power_of_two = _elementwise(
    _power_of_two, 1, "``2**a`` for whole numbers within the exponents of normal floats."
)


def _define_operator(operation: Callable[[object, object], object], instruction: str) -> None:
    class Typing(AbstractTemplate):
        def generic(self, args, kws):
            vector = _common(*args)
            return None if vector is None else signature(vector, *args)

    infer_global(operation)(Typing)

    def apply(context, builder, signature, args):
        return getattr(builder, instruction)(*_vectors(context, builder, signature, args))

    for kinds in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(operation, *kinds)(apply)


_define_operator(operator.add, "fadd")
_define_operator(operator.sub, "fsub")
_define_operator(operator.mul, "fmul")
_define_operator(operator.truediv, "fdiv")


@register_jitable(**INNER)
def transpose(source, at, source_stride, target, to, target_stride, rows, columns):
    """Writes the rows of a matrix as columns."""
    for block in range(0, rows, 8):  # whose beginnings stay in the cache
        for c in range(columns):
            for r in range(block, min(block + 8, rows)):
                number = get(source, at + r * source_stride + c)
                store(target, to + c * target_stride + r, number)


@register_jitable(**INNER)
def copy_rows(source, at, source_stride, target, to, target_stride, rows, count):
    """Copies ``count`` numbers of each row."""
    if source_stride == count and target_stride == count:  # there is no gap between rows
        rows, count = 1, rows * count
    for r in range(rows):
        o = 0
        while o + 8 <= count:
            store(target, to + r * target_stride + o, load(source, at + r * source_stride + o, 8))
            o += 8
        if o < count and count > 8:  # the last eight, some of them again
            o = count - 8
            store(target, to + r * target_stride + o, load(source, at + r * source_stride + o, 8))
            o = count
        while o < count:
            store(target, to + r * target_stride + o, get(source, at + r * source_stride + o))
            o += 1


@numba.njit(**INNER)
def add_product(left, at, stride, step, right, width, result, rows, inner):
    """Adds the product of two small matrices to a third.

    In the left one, rows are ``stride`` apart and columns ``step``. The rows of the other two lie
    side by side, each of ``width`` numbers, a multiple of 16.
    """
    fours = rows // 4 * 4
    for column in range(0, width, 16):
        for r in range(0, fours, 4):
            to, entry = r * width + column, at + r * stride
            first, second = load(result, to, 16), load(result, to + width, 16)
            third, fourth = load(result, to + 2 * width, 16), load(result, to + 3 * width, 16)
            for k in range(inner):
                row = load(right, k * width + column, 16)
                first = fma(get(left, entry), row, first)
                second = fma(get(left, entry + stride), row, second)
                third = fma(get(left, entry + 2 * stride), row, third)
                fourth = fma(get(left, entry + 3 * stride), row, fourth)
                entry += step
            store(result, to, first)
            store(result, to + width, second)
            store(result, to + 2 * width, third)
            store(result, to + 3 * width, fourth)
        for r in range(fours, rows):
            total = load(result, r * width + column, 16)
            for k in range(inner):
                entry = at + r * stride + k * step
                total = fma(get(left, entry), load(right, k * width + column, 16), total)
            store(result, r * width + column, total)


@compiled_by_type(inline="always")
def sigmoid_and_silu(x):
    """The logistic function and its product with x."""
    double = x.dtype.bitwidth == 64
    end = 1022 if double else 126  # exponents of normal numbers
    terms = 14 if double else 8  # of the series of a power of two, exact to rounding
    series = tuple(math.log(2) ** n / math.factorial(n) for n in range(terms))
    factor, lowest = -1 / math.log(2), -end * math.log(2)

    def implementation(x):
        log2 = minimum(maximum(x * factor, -end), end)
        whole = floor(log2 + 0.5)
        rest = log2 - whole  # from -1/2 to 1/2
        power = fma(series[terms - 1], rest, series[terms - 2])
        for n in range(terms - 3, -1, -1):
            power = fma(power, rest, series[n])
        sigmoid = 1 / (1 + power * power_of_two(whole))
        # As in torch: zero for the most negative numbers, NaN for minus infinity.
        special = minimum(x, 0) * 0
        return sigmoid, maximum(x, lowest) * sigmoid + special + nan_or_zero(x)

    return implementation
