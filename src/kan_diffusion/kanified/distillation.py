r"""``distill`` fits replaced blocks to the originals, one after another.

Each block g of the student is fitted to the block f of the teacher on the inputs x that reach f,

.. math:: \min_g \; \frac{E\,|g(x) - f(x)|^2}{E\,|f(x) - \bar f|^2},

the share of the block's variance that is missed (block-wise distillation, Hinton et al. 2015,
arXiv:1503.02531, with activations in place of labels). Adam minimises it over rows drawn from those
that the samples give, with a learning rate that falls to zero along a cosine.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.grids import EdgeLayer
from kan_diffusion.kanified.blocks import Block, find_blocks
from kan_diffusion.kanified.calls import Samples, run_calls, watched
from kan_diffusion.kanified.layers import ActivatedLinear
from kan_diffusion.kanified.tables import aligned

__all__ = ["BlockFit", "DistillReport", "distill"]

_MOST_ROWS = 262_144
"""Once this many rows of a block are kept, later ones are left out."""


@dataclass(frozen=True)
class BlockFit:
    """Error of a replaced block before and after its fit.

    Attributes:
        path: Path of the block.
        before: Share of the variance of the original's outputs that is missed before the fit.
        after: The same after the fit.
    """

    path: str
    before: float
    after: float


@dataclass(frozen=True)
class DistillReport:
    """The fits of all replaced blocks, in the order of the network; ``str()`` is a table."""

    fits: tuple[BlockFit, ...]

    def __str__(self) -> str:
        head = ("path", "missed before", "missed after")
        rows = [(fit.path or ".", f"{fit.before:.2e}", f"{fit.after:.2e}") for fit in self.fits]
        return "\n".join(aligned([head, *rows], words=1))


def distill(
    teacher: nn.Module,
    student: nn.Module,
    samples: Samples,
    *,
    steps: int = 500,
    batch_size: int = 1024,
    learning_rate: float = 1e-2,
    generator: torch.Generator | None = None,
) -> DistillReport:
    """Fits each block that was replaced in a network to the original, one after another.

    A block is fitted in float32 and changed only where that makes its error smaller. A linear map
    that is part of two blocks, as in a chain of them, stays as it is.

    Args:
        teacher: The network before it was kanified.
        student: A kanified copy of the teacher, changed in place.
        samples: Calls of the teacher: a tensor, a tuple of arguments, a dictionary of them by name,
            or a list of such calls.
        steps: Steps of Adam per block.
        batch_size: Rows, such as tokens, per step.
        learning_rate: Learning rate of the first step.
        generator: Where the choice of rows comes from, on the CPU; torch's default generator when
            None.

    Returns:
        The error of each block before and after.

    Raises:
        KanDiffusionError: The student has no block that replaces one of the teacher's, the samples
            do not reach one, or a setting is not usable.
    """
    if steps < 1 or batch_size < 1 or not 0 < learning_rate < math.inf:
        raise KanDiffusionError(
            "distill needs steps and batch_size of at least 1 and a learning_rate above 0, not "
            f"{steps}, {batch_size} and {learning_rate}"
        )
    paths = {id(owner): path for path, owner in teacher.named_modules()}
    pairs = [
        (block, own)
        for block in find_blocks(teacher).values()
        if (own := _counterpart(block, student, paths)) is not None
    ]
    uses = Counter(parameter for _, own in pairs for parameter in own.parameters())
    fits: list[BlockFit] = []
    for block, own in pairs:
        rows = _rows(teacher, block, samples)
        fits.append(_fit(block, own, uses, rows, steps, batch_size, learning_rate, generator))
    if not fits:
        raise KanDiffusionError(
            "student has no block that replaces one of teacher's; make it with student = "
            "copy.deepcopy(teacher) and kanify(student)"
        )
    return DistillReport(tuple(fits))


def _counterpart(block: Block, student: nn.Module, paths: dict[int, str]) -> nn.Sequential | None:
    """Returns the parts of a student in place of a block, in order; None if it is the same."""
    try:
        owner = student.get_submodule(paths[id(block.owner)])
        names = dict.fromkeys([block.entry, block.slot, block.last])
        parts = {name: owner.get_submodule(name) for name in names}
    except AttributeError:  # the student lacks the part, or its activation is a plain function
        return None
    if not isinstance(parts[block.slot], EdgeLayer | ActivatedLinear | nn.Identity):
        return None  # its maps may belong to a block beside it
    return nn.Sequential(*parts.values())


def _rows(teacher: nn.Module, block: Block, samples: Samples) -> tuple[Tensor, Tensor]:
    """Collects inputs and outputs of a block of the teacher, as rows in float32."""
    given: list[Tensor] = []
    made: list[Tensor] = []

    def see(input: Tensor, output: Tensor) -> None:
        if sum(map(len, given)) < _MOST_ROWS:
            hidden = output if block.joined else block.activation(output.clone())
            # Not read off a call of the last map, which may also be the first, or of other blocks.
            found = block.down.forward(hidden.to(block.down.weight.dtype))
            given.append(input.flatten(0, -2).float())
            made.append(found.flatten(0, -2).float())

    with watched([(block.owner.get_submodule(block.entry), see)]):
        run_calls(teacher, samples)
    if not given:
        raise KanDiffusionError(f"the samples do not reach block '{block.path}'; give others")
    return torch.cat(given), torch.cat(made)


def _fit(
    block: Block,
    own: nn.Sequential,
    uses: Mapping[nn.Parameter, int],
    rows: tuple[Tensor, Tensor],
    steps: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator | None,
) -> BlockFit:
    x, y = rows
    variance = float((y - y.mean(0)).square().mean()) or 1.0
    fitted = copy.deepcopy(own).float()
    for parameter, new in zip(own.parameters(), fitted.parameters(), strict=True):
        new.requires_grad_(uses[parameter] == 1)
    before = _missed(fitted, x, y, batch_size) / variance
    optimizer = torch.optim.Adam(fitted.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(x), (batch_size,), generator=generator).to(x.device)
        with torch.enable_grad():
            loss = (fitted(x[chosen]) - y[chosen]).square().mean() / variance
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        schedule.step()
    after = _missed(fitted, x, y, batch_size) / variance
    if not after < before:
        return BlockFit(block.path, before, before)
    own.load_state_dict(fitted.state_dict())
    return BlockFit(block.path, before, after)


@torch.no_grad()
def _missed(part: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> float:
    """Computes the mean squared error."""
    total = sum(
        float((part(a) - b).square().sum())
        for a, b in zip(x.split(batch_size), y.split(batch_size), strict=True)
    )
    return total / y.numel()
