r"""The training loop.

Each step draws a batch of clean samples :math:`x_0`, timesteps t and noise :math:`\varepsilon`, and
takes one optimiser step on

.. math:: \mathrm{loss}\big(\mathrm{denoiser}(\alpha_t x_0 + \sigma_t \varepsilon, t),\;
    \mathrm{target}(x_0, \varepsilon, t)\big),

without the coordinates that the denoiser observes. The learning rate has a linear warm-up and a
cosine decay, and the gradient's norm is clipped. The trained denoiser keeps an exponential moving
average (EMA) of the parameters; with held-out points, the average whose loss on them was lowest.

The draws of step k are a function of the seed and k alone (:mod:`kan_diffusion.training.batches`).
A run that is killed and resumed from its checkpoint therefore ends, on a CPU, with exactly the
parameters of an uninterrupted run. Processes that train together (:mod:`.parallel`) take equal
parts of each batch and sum their gradients, so that they train the same model as one process. The
parts of a step and the checkpoint are in :mod:`kan_diffusion.training.run`, the updates of the
parameters in :mod:`kan_diffusion.training.optimization`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.devices import resolve_device
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.files import require_free_space
from kan_diffusion.imports import from_extra
from kan_diffusion.processes import Process
from kan_diffusion.randomness import stream_seed
from kan_diffusion.ranks import is_main_process
from kan_diffusion.training import parallel
from kan_diffusion.training.batches import Batches
from kan_diffusion.training.run import (
    BYTES_A_PARAMETER,
    Ending,
    MomentCallback,
    TrainingConfig,
    TrainingRun,
)

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Callback", "ProgressCallback", "TrainingResult", "train"]

logger = logging.getLogger(__name__)

_FINITE_CHECK_EVERY = 50
_PROGRESS_SECONDS = 0.25
_LOGGED_ROWS = 1024
"""Samples on which the log counts out-of-range inputs: few, so that it costs next to nothing."""

ProgressCallback = Callable[[int, float], None]
"""Called now and then with the number of finished steps and the latest loss."""

Callback = Callable[[TrainingRun], object]
"""Called now and then with the run, which has its ``step``, ``losses()`` and, in ``validation``,
steps with held-out losses; ``run.stop()`` ends training."""


@dataclass(frozen=True)
class TrainingResult:
    """Results of training beside the denoiser.

    Attributes:
        losses: Training loss of every step taken, with shape (steps,).
        learning_rates: Learning rate of every step taken, with shape (steps,).
        heldout_losses: Step and loss of every evaluation on held-out points, some 40 in a run;
            empty without held-out points.
        best_step: Step whose weights the denoiser keeps.
        ending: ``"finished"``: all steps were taken; ``"early"``: the held-out loss had not
            improved for long; ``"time"``: a time limit set the number of steps, or ran out;
            ``"stopped"``: a callback stopped it.
        seconds: Wall-clock seconds of steps and held-out evaluations, without checkpoints and
            callbacks, over all parts of a resumed run.
        cpu_seconds: Processor seconds of the same, over all threads of this process.
        resumed_from: Step the run was resumed from, 0 when it was not.
        out_of_range: Fraction of the inputs of each KAN layer, by name, that fall outside its grid,
            for the trained denoiser on a fresh batch; empty without KAN layers.
    """

    losses: np.ndarray
    learning_rates: np.ndarray
    heldout_losses: tuple[tuple[int, float], ...]
    best_step: int
    ending: Ending
    seconds: float
    cpu_seconds: float
    resumed_from: int
    out_of_range: dict[str, float]


def _writer(folder: Path) -> SummaryWriter | None:
    """Opens TensorBoard's log in the main process.

    Raises:
        KanDiffusionError: TensorBoard is not installed.
    """
    with from_extra("tensorboard", "logs of training"):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(str(folder)) if is_main_process() else None


def _write(log: SummaryWriter, values: Mapping[str, float], step: int) -> None:
    for name, value in values.items():
        log.add_scalar(name, value, step)


def _prefixed(fractions: dict[str, float]) -> dict[str, float]:
    return {f"out_of_range/{name}": fraction for name, fraction in fractions.items()}


def train(
    denoiser: Denoiser,
    process: Process,
    samples: Tensor,
    config: TrainingConfig,
    *,
    seed: int,
    conditions: Mapping[str, Tensor] = MappingProxyType({}),
    heldout: Tensor | None = None,
    heldout_conditions: Mapping[str, Tensor] = MappingProxyType({}),
    device: str = "auto",
    checkpoint: Path | None = None,
    identity: str = "",
    resume: bool = False,
    reserved: float = 0.0,
    on_progress: ProgressCallback | None = None,
    callbacks: Sequence[Callback] = (),
    moments: Collection[int] = (),
    on_moment: MomentCallback | None = None,
    log_folder: Path | None = None,
) -> TrainingResult:
    """Trains a denoiser in place and leaves it on ``device``, in eval mode, with its EMA weights.

    With held-out points, these are the EMA weights with the lowest held-out loss.

    Args:
        denoiser: The denoiser, with its initial parameters.
        process: Noising process.
        samples: Standardised clean samples with shape (N, *shape), the denoiser's shape.
        config: How to train.
        seed: Seed of all draws of the run.
        conditions: Conditions of the samples, each with shape (N, ...), by the names of
            ``denoiser.absent``, such as ``input_ids``; those of a tenth of the samples are
            dropped at random so that the unconditional model is trained too.
        heldout: Standardised clean samples with shape (M, *shape) that are not trained on; their
            loss is computed some 40 times. None for none.
        heldout_conditions: Conditions of ``heldout``, named and dropped like ``conditions``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ... Inside :func:`.parallel.joined`, the
            processes that it joined train the denoiser together.
        checkpoint: File to keep the state in; None keeps none.
        identity: Identity of the run; a checkpoint with another identity is refused.
        resume: Whether to continue from ``checkpoint`` if it exists.
        reserved: Seconds of ``config.max_seconds`` that are not for training.
        on_progress: Called a few times a second with the number of finished steps and the loss.
            Steps are scaled to end at ``config.steps`` where a clock settles their number, and
            whoever ends training, the last ones are ``config.steps``.
        callbacks: Called with the run a few times a second, and after each look at the held-out
            loss.
        moments: Steps (0 is before training) at which ``on_moment`` is called; with
            ``processor_seconds`` they are scaled likewise. If training ends before some of them,
            it is called once more at the end.
        on_moment: Called with the step and the denoiser at these moments; at the end it has the
            weights that are kept.
        log_folder: Folder for TensorBoard's event files; None logs nothing.

    Returns:
        Losses, learning rates, why and when training ended, the time taken, and the fraction of
        inputs outside the grids of KAN layers.

    Raises:
        NonFiniteLossError: The loss became NaN or infinite; the last good checkpoint is kept.
        RunFolderError: The checkpoint cannot be written, has no room or belongs to another run.
        KanDiffusionError: The device, samples, conditions or parameters cannot be used.
    """
    for name, given in {"samples": samples, "held-out samples": heldout}.items():
        if given is not None and (len(given) == 0 or given.shape[1:] != denoiser.sample_shape):
            wanted = ", ".join(["N", *map(str, denoiser.sample_shape)])
            raise KanDiffusionError(
                f"{name} must have shape ({wanted}), N > 0, not {tuple(given.shape)}"
            )
    if config.patience is not None and heldout is None:
        raise KanDiffusionError(
            "patience is about the loss on held-out points; give heldout or leave patience out"
        )
    denoiser.require_conditions(conditions, len(samples))
    if heldout is not None:
        denoiser.require_conditions(heldout_conditions, len(heldout))
    where = resolve_device(device)
    make = partial(
        Batches,
        process=process,
        batch_size=config.batch_size,
        device=where,
        observable=denoiser.observable,
        absent=denoiser.absent,
        timesteps=config.timesteps,
    )
    batches = make(samples, conditions, batches=config.batches, seed=seed)
    heldout_batches = None
    if heldout is not None:
        fixed = stream_seed("held-out", seed)
        heldout_batches = make(heldout, heldout_conditions, batches="replacement", seed=fixed).at
    if (parts := parallel.num_processes()) > config.batch_size:
        raise KanDiffusionError(
            f"a batch of {config.batch_size} cannot be divided among {parts} processes; raise "
            "batch_size or start fewer"
        )
    if checkpoint is not None:
        require_free_space(checkpoint.parent, BYTES_A_PARAMETER * denoiser.num_trainable)
    log = None if log_folder is None else _writer(log_folder)
    run = TrainingRun(denoiser, process, config, where, reserved)
    last_report = 0.0
    waiting = sorted(set(moments)) if on_moment is not None else []

    def finished_steps(before: int = 0) -> float:
        """Number of steps taken, scaled to ``config.steps`` if the clock settles their number."""
        if config.processor_seconds is None:
            return run.step - before
        return config.steps * (run.step - before) / run.steps

    def moment_has_come() -> bool:
        """Whether a moment is due; all moments that are due are dropped."""
        due = [moment for moment in waiting if moment <= finished_steps()]
        del waiting[: len(due)]
        return bool(due)

    try:
        if resume and checkpoint is not None and run.load(checkpoint, identity):
            logger.info("resuming at step %d of %d", run.step, run.steps)
            # The run may have been stopped before it showed those that came with its last step.
            waiting = [moment for moment in waiting if moment > finished_steps(before=1)]
        resumed_from = run.step
        parallel.wait()  # until all have read the file that the first replaces
        if checkpoint is not None and run.step == 0:
            run.save(checkpoint, identity)  # shows from the start whose folder this is
        while True:
            num_validations = len(run.validation)
            run.pause(heldout_batches)
            if len(run.validation) > num_validations:
                for callback in callbacks:
                    callback(run)
            if (ending := run.ending) is not None:
                break
            if on_moment is not None and moment_has_come():
                run.require_finite(checkpoint)
                run.show(on_moment)
            # A state from elsewhere may be read and yet not fit the first step.
            with run.resuming(checkpoint if run.step == resumed_from > 0 else None), run.timed():
                batch = batches.at(run.step)
                run.advance(batch)
            last = run.step == run.steps
            saving = checkpoint is not None and run.step % config.checkpoint_every == 0
            if saving or last or run.step % _FINITE_CHECK_EVERY == 0:
                run.require_finite(checkpoint)
            if saving and checkpoint is not None:
                run.save(checkpoint, identity)
            if time.perf_counter() - last_report > _PROGRESS_SECONDS or last:
                last_report = time.perf_counter()
                loss = float(run.losses()[-1])
                if on_progress is not None:
                    on_progress(config.steps * run.step // run.steps, loss)
                for callback in callbacks:
                    callback(run)
                if log is not None:
                    rate = float(run.learning_rates[run.step - 1])
                    outside = {} if last else run.out_of_range(batch, _LOGGED_ROWS)
                    values = {"loss": loss, "learning_rate": rate, **_prefixed(outside)}
                    _write(log, values, run.step)
        run.require_finite(checkpoint)
        if on_progress is not None and 0 < run.step < run.steps:  # it ends before its last step
            on_progress(config.steps, float(run.losses()[-1]))
        run.conclude(heldout_batches)
        if on_moment is not None and waiting:  # those that never come are the end
            run.show(on_moment, kept=True)
        run.settle()
        outside = run.out_of_range(batches.at(run.step))
        if outside:
            shares = ", ".join(f"{name} {share:.2%}" for name, share in outside.items())
            logger.info("inputs outside the grid of each KAN layer: %s", shares)
        if log is not None:
            _write(log, _prefixed(outside), run.step)
    except KeyboardInterrupt:
        # In the middle of a step there is no state worth keeping: the last checkpoint stands.
        if checkpoint is not None and run.whole and run.fault() is None:
            run.save(checkpoint, identity)
        raise
    finally:
        run.release()
        if log is not None:
            log.close()
    return TrainingResult(
        losses=run.losses().cpu().numpy(),
        learning_rates=run.learning_rates,
        heldout_losses=tuple(run.validation),
        best_step=run.step if heldout is None else run.best_step,
        ending=ending,
        seconds=run.seconds,
        cpu_seconds=run.cpu_seconds,
        resumed_from=resumed_from,
        out_of_range=outside,
    )
