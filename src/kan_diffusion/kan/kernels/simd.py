"""Short vectors of floats inside numba: what a kernel needs to say where it is vectorised.

A loop over a few contiguous numbers is not worth a loop: its bounds and alias checks cost more
than its arithmetic. Here a run of ``lanes`` numbers is one value of a kernel (LLVM's vector type),
loaded, added, multiplied and stored as a whole; LLVM maps it to whatever registers there are.

Indices are plain offsets into one-dimensional arrays, without wrap-around or bounds checks.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

__all__ = [
    "array_at",
    "axpy",
    "dot",
    "floor",
    "fma",
    "get",
    "load",
    "maximum",
    "minimum",
    "nan_or_zero",
    "power_of_two",
    "splat",
    "store",
    "store_as_int",
    "transpose_8x8",
    "zero_where_apart",
    "zeros",
]


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


def _address(context, builder, array_type, array, index):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _suffix(vector_type: ir.VectorType) -> str:
    kind = "f32" if isinstance(vector_type.element, ir.FloatType) else "f64"
    return f"v{vector_type.count}{kind}"


def _call(builder, name: str, operands):
    """A call of LLVM's elementwise ``name`` on vectors."""
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


def _load_element(context, builder, array_type, array, index):
    return builder.load(_address(context, builder, array_type, array, index))


@intrinsic
def array_at(typingctx, address, length, like):
    """The array of ``length`` numbers, of the type of the scalar ``like``, at an address."""
    array_type = types.Array(like, 1, "C")

    def codegen(context, builder, signature, args):
        array = context.make_array(array_type)(context, builder)
        data = builder.inttoptr(args[0], context.get_data_type(like).as_pointer())
        size = context.get_constant(types.intp, context.get_abi_sizeof(data.type.pointee))
        context.populate_array(
            array, data=data, shape=[args[1]], strides=[size], itemsize=size, meminfo=None
        )
        return array._getvalue()

    return array_type(types.intp, types.intp, like), codegen


@intrinsic
def get(typingctx, array, index):
    """``array[index]``."""

    def codegen(context, builder, signature, args):
        return _load_element(context, builder, signature.args[0], *args)

    return array.dtype(array, types.intp), codegen


@intrinsic(prefer_literal=True)
def load(typingctx, array, index, lanes):
    """``array[index : index + lanes]``, with ``lanes`` a constant."""
    if not isinstance(lanes, types.IntegerLiteral):
        return None
    vector = Vector(array.dtype, lanes.literal_value)

    def codegen(context, builder, signature, args):
        address = _address(context, builder, signature.args[0], args[0], args[1])
        pointer = builder.bitcast(address, context.get_value_type(vector).as_pointer())
        value = builder.load(pointer)
        value.align = array.dtype.bitwidth // 8
        return value

    return vector(array, types.intp, lanes), codegen


@intrinsic
def store(typingctx, array, index, value):
    """``array[index : index + lanes] = value``."""

    def codegen(context, builder, signature, args):
        address = _address(context, builder, signature.args[0], args[0], args[1])
        pointer = builder.bitcast(address, args[2].type.as_pointer())
        builder.store(args[2], pointer).align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def store_as_int(typingctx, array, index, value):
    """Stores whole numbers into an int32 array; what is not a number is stored as anything."""

    def codegen(context, builder, signature, args):
        address = _address(context, builder, signature.args[0], args[0], args[1])
        integers = ir.VectorType(ir.IntType(32), args[2].type.count)
        pointer = builder.bitcast(address, integers.as_pointer())
        builder.store(builder.fptosi(args[2], integers), pointer).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic(prefer_literal=True)
def zeros(typingctx, array, lanes):
    """``lanes`` zeros of the array's dtype."""
    if not isinstance(lanes, types.IntegerLiteral):
        return None
    vector = Vector(array.dtype, lanes.literal_value)

    def codegen(context, builder, signature, args):
        return ir.Constant(context.get_value_type(vector), None)

    return vector(array, lanes), codegen


@intrinsic(prefer_literal=True)
def splat(typingctx, scalar, lanes):
    """``lanes`` copies of a float."""
    if not isinstance(lanes, types.IntegerLiteral):
        return None
    vector = Vector(scalar, lanes.literal_value)

    def codegen(context, builder, signature, args):
        return _broadcast(builder, args[0], context.get_value_type(vector))

    return vector(scalar, lanes), codegen


@intrinsic
def axpy(typingctx, array, index, x, y):
    """``array[index] * x + y``, rounded once."""

    def codegen(context, builder, signature, args):
        scalar = _load_element(context, builder, signature.args[0], args[0], args[1])
        factor = _broadcast(builder, scalar, args[3].type)
        return _call(builder, "fma", [factor, args[2], args[3]])

    return y(array, types.intp, x, y), codegen


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


@intrinsic
def nan_or_zero(typingctx, a):
    """NaN where ``a`` is NaN, zero elsewhere."""

    def codegen(context, builder, signature, args):
        is_nan = builder.fcmp_unordered("uno", args[0], args[0])
        return builder.select(is_nan, args[0], ir.Constant(args[0].type, None))

    return a(a), codegen


@intrinsic
def zero_where_apart(typingctx, value, a, b):
    """``value``, but zero where ``a`` and ``b`` differ; where one is NaN they do not."""

    def codegen(context, builder, signature, args):
        apart = builder.fcmp_ordered("!=", args[1], args[2])
        return builder.select(apart, ir.Constant(args[0].type, None), args[0])

    return value(value, a, b), codegen


@intrinsic
def power_of_two(typingctx, a):
    """``2**a`` for whole numbers within the exponents of normal floats."""

    def codegen(context, builder, signature, args):
        double = isinstance(args[0].type.element, ir.DoubleType)
        bits, fraction, bias = (64, 52, 1023) if double else (32, 23, 127)
        integers = ir.VectorType(ir.IntType(bits), args[0].type.count)

        def constant(value: int):
            return ir.Constant(integers, [value] * integers.count)

        exponent = builder.add(builder.fptosi(args[0], integers), constant(bias))
        return builder.bitcast(builder.shl(exponent, constant(fraction)), args[0].type)

    return a(a), codegen


@intrinsic
def transpose_8x8(typingctx, source, at, source_stride, target, to, target_stride):
    """``target[to + c * target_stride + r] = source[at + r * source_stride + c]``, r and c < 8."""

    def codegen(context, builder, signature, args):
        source, at, source_stride, target, to, target_stride = args
        vector_type = ir.VectorType(context.get_data_type(signature.args[0].dtype), 8)
        align = signature.args[0].dtype.bitwidth // 8

        def pointer(array_type, array, start, stride, row: int):
            step = builder.mul(stride, ir.Constant(stride.type, row))
            address = _address(context, builder, array_type, array, builder.add(start, step))
            return builder.bitcast(address, vector_type.as_pointer())

        rows = []
        for row in range(8):
            value = builder.load(pointer(signature.args[0], source, at, source_stride, row))
            value.align = align
            rows.append(value)
        # Swaps one bit of the row's number with the same bit of the column's, bit by bit.
        for bit in (1, 2, 4):
            for row in range(8):
                if row & bit:
                    continue
                a, b = rows[row], rows[row | bit]
                low = [x if not x & bit else 8 + (x ^ bit) for x in range(8)]
                high = [x | bit if not x & bit else 8 + x for x in range(8)]
                rows[row], rows[row | bit] = (
                    builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), 8), m))
                    for m in (low, high)
                )
        for row in range(8):
            place = pointer(signature.args[3], target, to, target_stride, row)
            builder.store(rows[row], place).align = align
        return context.get_dummy_value()

    signature_ = types.void(source, types.intp, types.intp, target, types.intp, types.intp)
    return signature_, codegen


def _elementwise(name: str, arity: int, doc: str):
    def codegen(context, builder, signature, args):
        return _call(builder, name, args)

    def typing_unary(typingctx, a):
        return a(a), codegen

    def typing_binary(typingctx, a, b):
        return a(a, b), codegen

    def typing_ternary(typingctx, a, b, c):
        return a(a, b, c), codegen

    function = {1: typing_unary, 2: typing_binary, 3: typing_ternary}[arity]
    function.__doc__ = doc
    return intrinsic(function)


floor = _elementwise("floor", 1, "The largest whole numbers that are not above ``a``.")
minimum = _elementwise("minnum", 2, "The smaller of two; the other where one is NaN.")
maximum = _elementwise("maxnum", 2, "The larger of two; the other where one is NaN.")
fma = _elementwise("fma", 3, "``a * b + c``, rounded once.")


def _define_operator(operation: Callable[[object, object], object], instruction: str) -> None:
    class Typing(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    infer_global(operation)(Typing)

    @lower_builtin(operation, Vector, Vector)
    def apply(context, builder, signature, args):
        return getattr(builder, instruction)(*args)


_define_operator(operator.add, "fadd")
_define_operator(operator.sub, "fsub")
_define_operator(operator.mul, "fmul")
_define_operator(operator.truediv, "fdiv")
