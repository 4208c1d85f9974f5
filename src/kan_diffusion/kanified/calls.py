"""Runs a network on samples, and watches the inputs and outputs of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError

__all__ = ["Call", "Samples", "outputs", "run_calls", "watched"]

Call = Tensor | tuple[object, ...] | Mapping[str, object]
"""Arguments of a call of a network: the first alone, all by position, or all by name."""

Samples = Call | Sequence[Call]
"""One call, or a list of them."""


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Switches to evaluation mode without gradients; each part then goes back to its own mode.

    torch's encoders hand padded rows on as nested tensors, which cannot be measured; this is
    switched off.
    """
    training = [part for part in module.modules() if part.training]
    nested = [
        part
        for part in module.modules()
        if isinstance(part, nn.TransformerEncoder) and part.use_nested_tensor
    ]
    module.eval()
    try:
        for encoder in nested:
            encoder.use_nested_tensor = False
        with torch.no_grad():
            yield
    finally:
        for encoder in nested:
            encoder.use_nested_tensor = True
        for part in training:
            part.training = True


def run_calls(module: nn.Module, samples: Samples) -> list[object]:
    """Runs a network in evaluation mode and returns one output per call.

    Raises:
        KanDiffusionError: There is no call, or one is neither a tensor, a tuple nor a mapping.
    """
    calls = list(samples) if isinstance(samples, list) else [samples]
    if not calls:
        raise KanDiffusionError("samples has no call of the network; give at least one")
    with _evaluating(module):
        return [_call(module, call) for call in calls]


def _call(module: nn.Module, call: object) -> object:
    if isinstance(call, Mapping):
        return module(**call)
    if isinstance(call, tuple):
        return module(*call)
    if isinstance(call, Tensor):
        return module(call)
    raise KanDiffusionError(
        "samples must be a tensor, a tuple of arguments, a dictionary of them by name, or a list "
        f"of such calls, not {type(call).__name__}"
    )


def outputs(found: object) -> list[Tensor]:
    """Collects the floating-point tensors in the output of a network, or in a list of outputs."""
    if isinstance(found, Tensor):
        return [found] if found.is_floating_point() else []
    if isinstance(found, Mapping):
        found = list(found.values())
    if isinstance(found, list | tuple):
        return [tensor for part in found for tensor in outputs(part)]
    return []


@contextmanager
def watched(
    parts: Iterable[tuple[nn.Module, Callable[[Tensor, Tensor], None]]],
) -> Iterator[None]:
    """Passes the input and the output of each call of a part to its functions."""

    def watch(see: Callable[[Tensor, Tensor], None]) -> Callable[..., None]:
        return lambda _, given, named, output: see(
            (*given, *named.values())[0].detach(), output.detach()
        )

    handles = [part.register_forward_hook(watch(see), with_kwargs=True) for part, see in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
