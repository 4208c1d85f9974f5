"""Makes calls of a kernel in parallel, on the threads that torch's own operations use.

OpenMP's threads wait for their next task in a loop before they sleep, and the threads of any other
pool would compete with them for the cores. So torch's OpenMP makes the calls: n calls have the
numbers 0 to n - 1, and each thread of a team takes the next number until none is left. All calls
are made, however many threads there are: inside another team it is one, under a limit fewer than
asked for.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache

import numba
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

__all__ = ["run_together"]

_NEXT, _CALLS, _KERNEL, _FAILURES, _HEAD = range(5)
"""Places, of eight bytes each, of the data of a team; the arguments of its calls follow."""

_process = os.getpid()


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

            def entry(place):
                return builder.load(builder.gep(args[0], [place]))

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


def run_together(kernel: Callable[..., None], calls: Sequence[tuple[int, ...]]) -> None:
    """Makes calls of a kernel in parallel, or one after another without OpenMP.

    Args:
        kernel: The compiled kernel, which does the same if a call is repeated.
        calls: Arguments of each call.
    """
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
