"""How every kernel is compiled and run: numba's options, the cache on disk, and threads.

A batch is split over ``torch.get_num_threads`` threads if there is enough to do. A result depends
on the number of threads only through the order of sums over the batch. OpenMP's threads wait for
their next task in a loop before they sleep, and the threads of any other pool would compete with
them for the cores (a step of 64 x 64 edges on 8,192 rows then takes as long on two threads as on
one). So torch's OpenMP calls the kernel: n calls have the numbers 0 to n - 1, and each thread of a
team takes the next number until none is left. All calls are made, however many threads there are:
inside another team it is one, under a limit fewer than asked for.

Compiled code is cached on disk, so that the seconds of compilation are paid once per installation
for each kernel, order and dtype.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numba
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.ccallback import CFunc
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from torch import Tensor

logger = logging.getLogger(__name__)

# A NaN must stay NaN and must not decide where a row is written, so values are not assumed to be
# finite. A division is not replaced by a multiplication, which would move the place on a grid.
OPTIONS = {
    "nogil": True,
    "fastmath": {"contract", "nsz"},
    "error_model": "numpy",
    "no_cfunc_wrapper": True,
}
"""Numba's options of a kernel."""
INNER = {**OPTIONS, "no_cpython_wrapper": True}
"""Numba's options of functions that only kernels call.

``njit`` compiles such a function for each constant that it is called with, ``register_jitable``
once for all of them.
"""

PARALLEL_WORK = 2**20
"""Multiplications below which a second thread costs more than it saves."""

_NEXT, _CALLS, _KERNEL, _FAILURES, _HEAD = range(5)
"""Places, of eight bytes each, of the data of a team; the arguments of its calls follow."""

_process = os.getpid()


@cache
def _source_digest() -> str:
    """Hashes all source files that compiled code is made of; numba knows the kernel's own alone."""
    folder = Path(__file__).parent
    sources = folder.with_name("bases.py"), *sorted(folder.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def compiled(function: Callable[..., None], **options: object) -> Callable[..., None]:
    """Compiles a kernel at its first call, or reads it from the cache.

    A kernel takes addresses and numbers, because unpacking arrays costs more than a small layer.
    Its free variables are numbers and strings, and each set of them has a file of its own in the
    cache, for each version of the sources and of numba and each kind of processor. Numba would keep
    all that share a name in one file, where of two processes that compile at the same time, on
    machines that share the folder, too, one could be given the code of the other.

    Args:
        function: The kernel in Python.
        options: Numba's options where they differ from ``OPTIONS``.
    """
    options = {**OPTIONS, **options}
    machine = numba.__version__, *cpu_target.target_context.codegen().magic_tuple()
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    variables = repr([_source_digest(), machine, *cells])
    function.__qualname__ += "-" + hashlib.sha256(variables.encode()).hexdigest()[:16]
    try:
        kernel: Callable[..., None] = numba.njit(function, cache=True, **options)
    except RuntimeError:  # no folder that numba may cache in
        logger.warning("compiled KAN kernels cannot be cached; set NUMBA_CACHE_DIR to a folder")
        kernel = numba.njit(function, **options)
    return kernel


def chunks(rows: int, multiplications: int) -> list[tuple[int, int]]:
    """Splits rows, each with so many multiplications, into one part (first, number) per thread."""
    threads = min(torch.get_num_threads(), 1 + rows * multiplications // PARALLEL_WORK, rows)
    if threads <= 1:
        return [(0, rows)]
    ends = [rows * part // threads for part in range(threads + 1)]
    return [(start, end - start) for start, end in itertools.pairwise(ends)]


@cache
def _parallel() -> Callable[..., None] | None:
    """Finds OpenMP's function that runs another on every thread of a team, or None.

    GNU's library, which torch comes with on Linux, has it; LLVM's and Intel's have it, too.
    """
    try:
        function: Callable[..., None] = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # Windows has no handle of all loaded libraries
        return None
    return function


@cache
def _entries(kernel: Callable[..., None], size: int) -> tuple[ctypes.c_void_p, int]:
    """Returns the addresses of what each thread runs, and of the kernel."""
    kinds = (types.int64,) * size
    kernel.compile(kinds)  # type: ignore[attr-defined]
    compiled = kernel.overloads[kinds]  # type: ignore[attr-defined]
    address: int = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    return ctypes.c_void_p(_member(size).address), address


@cache
def _member(size: int) -> CFunc:
    """Compiles the function with which a thread makes calls, of so many arguments each."""

    @intrinsic
    def take(typingctx, work):
        """The number of the next call."""

        def codegen(context, builder, signature, args):
            return builder.atomic_rmw("add", args[0], ir.Constant(ir.IntType(64), 1), "monotonic")

        return types.int64(work), codegen

    @intrinsic
    def call(typingctx, work, at):
        """Calls the kernel with the arguments from ``work[at]`` on; gives 0 unless it fails."""

        def codegen(context, builder, signature, args):
            integer, address = ir.IntType(64), ir.IntType(8).as_pointer()

            def entry(index):
                return builder.load(builder.gep(args[0], [index]))

            # Compiled functions first take two addresses: for the result, and for an error.
            arguments = [cgutils.alloca_once(builder, address) for _ in range(2)]
            places = (builder.add(args[1], ir.Constant(integer, place)) for place in range(size))
            arguments.extend(map(entry, places))
            function = ir.FunctionType(ir.IntType(32), [value.type for value in arguments])
            kernel = entry(ir.Constant(integer, _KERNEL))
            return builder.call(builder.inttoptr(kernel, function.as_pointer()), arguments)

        return types.int32(work, types.int64), codegen

    def member(work):
        number = take(work)
        while number < work[_CALLS]:
            if call(work, _HEAD + number * size) != 0:
                work[_FAILURES] = 1
            number = take(work)

    # Not cached on disk: it takes a tenth of a second.
    return numba.cfunc(types.void(types.CPointer(types.int64)))(member)


def _run_together(kernel: Callable[..., None], calls: Sequence[tuple[int, ...]]) -> None:
    """Makes calls of a kernel, which may be repeated, in parallel; without OpenMP in a row."""
    parallel = _parallel()
    # A forked process lacks the threads that its OpenMP counts on.
    if parallel is not None and os.getpid() == _process:
        member, address = _entries(kernel, len(calls[0]))
        head = 0, len(calls), address, 0
        numbers = [*head, *(value for call in calls for value in call)]
        work = (ctypes.c_int64 * len(numbers))(*numbers)
        # As many threads as torch uses: OpenMP ends those that a smaller team leaves out.
        parallel(member, work, torch.get_num_threads(), 0)
        if not work[_FAILURES]:
            return
    for call in calls:  # also after a failure: the reason is raised here
        kernel(*call)


def launch(
    kernel: Callable[..., None],
    parts: list[tuple[int, int]],
    operands: Sequence[tuple[Tensor | None, int]],
    settings: Sequence[int],
    shared: Sequence[Tensor | None] = (),
) -> list[Tensor | None]:
    """Runs a kernel on the parts of a batch in parallel.

    Args:
        kernel: Takes addresses of operands and of sums over the batch, a number of rows, and
            settings.
        parts: First row and number of rows of each part.
        operands: Tensors, each with its size per row, 0 if all rows share it. Those that the kernel
            writes are contiguous. The address of None is 0.
        settings: The other arguments.
        shared: Tensors with the shapes of the sums; None for a sum that is not wanted.

    Returns:
        The sums, those of the parts added up in the order of the rows.
    """
    held = [None if tensor is None else tensor.contiguous() for tensor, _ in operands]
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in held]
    each = (len(parts),) if len(parts) > 1 else ()
    sums = [None if one is None else one.new_empty(*each, *one.shape) for one in shared]
    at_sums = [0 if total is None else total.data_ptr() for total in sums]
    if not each:
        kernel(*addresses, *at_sums, parts[0][1], *settings)
        return sums
    steps = [0 if tensor is None else row * tensor.element_size() for tensor, row in operands]
    entries = [0 if one is None else one.numel() * one.element_size() for one in shared]
    calls = [
        (
            *[at + start * step for at, step in zip(addresses, steps, strict=True)],
            *[at + part * step for at, step in zip(at_sums, entries, strict=True)],
            count,
            *settings,
        )
        for part, (start, count) in enumerate(parts)
    ]
    _run_together(kernel, calls)
    return [None if total is None else total.sum(0) for total in sums]
