"""What a contender is: a name and a way to build its training workload for a case.

A workload's ``forward_backward`` leaves fresh gradients in its parameters; the optimiser's step
that follows is the benchmark's and the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["ORDER", "Case", "Contender", "NetworkWorkload", "Workload"]

ORDER = 3
"""Degree of everybody's splines."""


@dataclass(frozen=True)
class Case:
    """A size to measure at.

    Attributes:
        widths: Sizes of the input, the hidden layers and the output.
        batch: Number of rows.
        grid_size: Number G of intervals of the grid.
        parameters: Number of parameters by which the widths between are chosen; 0 where they are
            given.
    """

    widths: tuple[int, ...]
    batch: int
    grid_size: int
    parameters: int = 0

    @classmethod
    def of(cls, widths: Sequence[int], *others: int) -> Case:
        """A case from any sequence of widths (JSON has lists only)."""
        return cls(tuple(widths), *others)

    @property
    def layers(self) -> str:
        """The sizes as they are written in tables: 3-32-32-32-2, or 2,300 parameters."""
        if self.parameters:
            return f"{self.parameters:,} parameters"
        return "-".join(map(str, self.widths))

    def with_batch(self, batch: int) -> Case:
        """The same networks at another batch size."""
        return replace(self, batch=batch)


class Workload(Protocol):
    """A built contender with its data."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """What the optimiser trains."""

    def load(self, batch: int) -> None:
        """Prepares data with another number of rows; what is trained stays."""

    def forward_backward(self) -> None:
        """One forward and one backward pass; gradients of the parameters are theirs alone."""


class NetworkWorkload:
    """A network (N, widths[0]) -> (N, widths[-1]) trained on the squared error to noise.

    Args:
        network: What to train, on its device already.
        case: Sizes.
        device: Where the data lives.
        call: How the network is called, when not as it is (a compiled version of it, say).
    """

    def __init__(
        self,
        network: nn.Module,
        case: Case,
        device: torch.device,
        call: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.network = network
        self._call = network if call is None else call
        self._sizes = case.widths[0], case.widths[-1]
        self._device = device
        self.load(case.batch)

    def parameters(self) -> Iterable[nn.Parameter]:
        """The network's trainable parameters."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def load(self, batch: int) -> None:
        """Draws points and noise, both standard normal."""
        generator = torch.Generator().manual_seed(batch)
        self._input, self._wanted = (
            torch.randn(batch, size, generator=generator).to(self._device) for size in self._sizes
        )

    def forward_backward(self) -> None:
        """Predicts, compares and goes back."""
        nn.functional.mse_loss(self._call(self._input), self._wanted).backward()


@dataclass(frozen=True)
class Contender:
    """Something to measure.

    Attributes:
        name: Key in the results and on the command line.
        label: Name in tables and figures.
        what: One sentence for the reader of a table.
        build: Makes its workload; may raise, which is then the reason why it was not measured.
        package: Distribution whose version belongs to the result, when it is not ours.
        compiled: Whether ``torch.compile`` works in it, so that its first step compiles.
        patient: Whether its repeats are kept up longer, because targets compare it closely.
        try_small: Whether a small part of a large batch is tried first, to see from its time and
            memory whether the whole can be afforded.
    """

    name: str
    label: str
    what: str
    build: Callable[[Case, torch.device], Workload]
    package: str | None = None
    compiled: bool = False
    patient: bool = False
    try_small: bool = False
