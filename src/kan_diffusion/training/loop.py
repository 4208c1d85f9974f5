r"""The training loop.

Each step draws a batch of clean samples :math:`x_0`, timesteps t and noise :math:`\varepsilon`, and
takes one optimiser step on

.. math:: \mathrm{loss}\big(\mathrm{denoiser}(\alpha_t x_0 + \sigma_t \varepsilon, t),\;
    \mathrm{target}(x_0, \varepsilon, t)\big),

without the coordinates that the denoiser observes. The learning rate has a linear warm-up and a
cosine decay, and the gradient's norm is clipped. The trained denoiser keeps an exponential moving
average (EMA) of the parameters; with held-out points, the average whose loss on them was lowest.

The draws of step k are a function of the seed and k alone (:mod:`.batches`). A run that is killed
and resumed from its checkpoint therefore ends, on a CPU, with exactly the parameters of an
uninterrupted run. Processes that train together (:mod:`.parallel`) train the model of one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.devices import resolve_device
from kan_diffusion.errors import KanDiffusionError, NonFiniteLossError
from kan_diffusion.files import require_free_space
from kan_diffusion.processes import Process
from kan_diffusion.randomness import stream_seed
from kan_diffusion.training import parallel
from kan_diffusion.training.batches import Batch, Batches
from kan_diffusion.training.callbacks import TimeLimit, Validation
from kan_diffusion.training.checkpoint import BYTES_A_PARAMETER, Checkpoint
from kan_diffusion.training.config import TrainingConfig
from kan_diffusion.training.run import Callback, Ending, TrainingRun

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """Results of training beside the denoiser.

    Attributes:
        losses: Training loss of every step taken, with shape (steps,).
        learning_rates: Learning rate of every step taken, with shape (steps,).
        heldout_losses: Step and loss of every validation, some 40 in a run.
        best_step: Step whose weights the denoiser keeps.
        ending: Why training ended.
        seconds: Wall-clock seconds of steps and validations, over all parts of a resumed run.
        cpu_seconds: Seconds of the same of the processor, over all threads, or of the GPU.
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


def optimize(
    run: TrainingRun, batch_of: Callable[[int], Batch], callbacks: Sequence[Callback] = ()
) -> None:
    """Takes the steps of a run, from where it stands, and leaves it with the weights it keeps.

    Raises:
        NonFiniteLossError: A loss or a parameter is not finite.
    """
    for callback in callbacks:
        callback(run)
    for step in run.steps():
        loss = run.loss(batch_of(step))
        run.update(loss)
        for callback in callbacks:
            callback(run)
    for callback in callbacks:  # once more, now that the run says why it ended
        callback(run)
    run.settle()


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
    checkpoint: str | Path | None = None,
    identity: str | None = None,
    resume: bool = False,
    reserved: float = 0.0,
    callbacks: Sequence[Callback] = (),
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
        identity: Identity of the run; a checkpoint with another identity is refused. Its settings,
            process, seed and number of samples when None.
        resume: Whether to continue from ``checkpoint`` if it exists.
        reserved: Seconds of ``config.max_seconds`` that are not for training.
        callbacks: Called with the run before the first step, after each, and at the end. One with
            ``state_dict`` and ``load_state_dict`` has its state kept in the checkpoint.

    Raises:
        NonFiniteLossError: The loss became NaN or infinite; the last good checkpoint is kept.
        RunFolderError: The checkpoint cannot be written, has no room or belongs to another run.
        KanDiffusionError: The device, samples, conditions or parameters cannot be used.
    """
    _require_trainable(denoiser, config, {"samples": samples, "held-out samples": heldout})
    denoiser.require_process(process)
    denoiser.require_conditions(conditions, len(samples))
    if heldout is not None:
        denoiser.require_conditions(heldout_conditions, len(heldout))
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        require_free_space(checkpoint.parent, BYTES_A_PARAMETER * denoiser.num_trainable)
    place = resolve_device(device)
    draws = partial(Batches, denoiser=denoiser, process=process, device=place)
    batches = draws(samples, conditions, config=config, seed=seed)
    with TrainingRun(denoiser, process, config, place) as run:
        every: list[Callback] = []
        if not run.is_settled:
            every.append(TimeLimit(config, reserved))
        if heldout is not None:
            fixed = stream_seed("held-out", seed)
            afresh = config.model_copy(update={"batches": "replacement"})
            of_heldout = draws(heldout, heldout_conditions, config=afresh, seed=fixed)
            every.append(Validation(of_heldout))
        every += callbacks
        if identity is None:
            identity = repr((config, process, seed, len(samples)))
        saver = None if checkpoint is None else Checkpoint(checkpoint, identity, every)
        if resume and saver is not None and saver.load(run):
            logger.info("resuming at step %d of %d", run.step, run.plan.steps)
        resumed_from = run.step
        parallel.wait()  # until all have read the file that the first replaces
        try:
            optimize(run, batches.at, every if saver is None else [*every, saver])
        except (KeyboardInterrupt, SystemExit):  # Ray ends a worker by the second
            if saver is not None:
                with suppress(NonFiniteLossError):
                    saver.save(run)
            raise
        outside = run.out_of_range(batches.at(run.step))
    if outside:
        shares = ", ".join(f"{name} {share:.2%}" for name, share in outside.items())
        logger.info("inputs outside the grid of each KAN layer: %s", shares)
    assert run.ending is not None
    return TrainingResult(
        losses=run.losses().cpu().numpy(),
        learning_rates=run.learning_rates.numpy(),
        heldout_losses=tuple(run.validation.items()),
        best_step=run.step if heldout is None else run.best_step,
        ending=run.ending,
        seconds=run.clock.wall,
        cpu_seconds=run.clock.processor,
        resumed_from=resumed_from,
        out_of_range=outside,
    )


def _require_trainable(
    denoiser: Denoiser, config: TrainingConfig, samples: Mapping[str, Tensor | None]
) -> None:
    """Checks weights, samples by their names, and what does not fit the settings."""
    trained = (weights.dtype for weights in denoiser.parameters() if weights.requires_grad)
    if others := {*trained} - {torch.float32}:
        raise KanDiffusionError(
            f"weights are trained in torch.float32 and these are {others.pop()}; call "
            "denoiser.float() first, and change their precision afterwards"
        )
    for name, given in samples.items():
        if given is not None and (len(given) == 0 or given.shape[1:] != denoiser.sample_shape):
            wanted = ", ".join(["N", *map(str, denoiser.sample_shape)])
            raise KanDiffusionError(
                f"{name} must have shape ({wanted}), N > 0, not {tuple(given.shape)}"
            )
        if given is not None and (broken := int((~given.isfinite().flatten(1).all(1)).sum())):
            raise KanDiffusionError(
                f"{broken} of the {len(given)} {name} are not finite; remove them or fill them"
            )
    if config.patience is not None and samples["held-out samples"] is None:
        raise KanDiffusionError(
            "patience is about the loss on held-out points; give heldout or leave patience out"
        )
    if (parts := parallel.num_processes()) > config.batch_size:
        raise KanDiffusionError(
            f"a batch of {config.batch_size} cannot be divided among {parts} processes; raise "
            "batch_size or start fewer"
        )
