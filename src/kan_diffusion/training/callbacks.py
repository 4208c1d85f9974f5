r"""What happens beside the steps of a run, each as one callback.

:class:`Validation` computes at steps :math:`s_1 < s_2 < \dots` the loss of the averaged weights on
one fixed draw of held-out points, timesteps and noise, keeps the weights of the lowest loss, and
ends the run when it has not fallen for long.

:class:`TimeLimit` settles the number of steps after the first few: with t(s) the seconds until step
s, p the seconds per step and S the limit, the run will take

.. math:: K = s + (r S - t(s)) / p

steps, r = 1 for processor seconds and 0.95 for wall-clock seconds. K is corrected at each
validation, and at as many steps where nothing is held out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import FiniteFloat

from kan_diffusion.denoisers.base import Denoiser
from kan_diffusion.imports import from_extra
from kan_diffusion.interrupts import interrupts_wait
from kan_diffusion.limits import MOST_STEPS
from kan_diffusion.ranks import is_main_process
from kan_diffusion.settings import Settings
from kan_diffusion.training import parallel
from kan_diffusion.training.batches import Batches
from kan_diffusion.training.config import TrainingConfig
from kan_diffusion.training.optimization import Plan
from kan_diffusion.training.run import TrainingRun

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_WARM_STEPS, _TIMED_STEPS = 5, 30
"""The steps between these two are timed: compilation and cold caches come before them."""

_TIMED_SHARE = 0.1
"""Share of a time limit after which fewer timed steps are enough."""

_RESERVE = 0.05
"""Share of a limit of wall-clock seconds that the number of steps leaves free."""

_MOST_RESERVED = 0.8
"""Largest share of a limit of wall-clock seconds that is not for steps."""

_FEWEST_VALIDATIONS = 3
"""Fewest validations without a better loss after which a run ends."""

_REPORT_SECONDS = 0.25
_LOGGED_ROWS = 1024
"""Samples on which the log counts out-of-range inputs: few, so that it costs next to nothing."""


class _TimeState(Settings):
    """Seconds before the timed steps."""

    warm: FiniteFloat = 0.0


class TimeLimit:
    """Settles and corrects the number of steps, so that a run ends at a limit of seconds.

    Args:
        config: Settings with a limit.
        reserved: Wall-clock seconds of the limit that are not for steps.
    """

    def __init__(self, config: TrainingConfig, reserved: float = 0.0) -> None:
        self._of_processor = config.processor_seconds is not None
        self._limit = config.processor_seconds or config.max_seconds or math.inf
        self._share = 1.0 if self._of_processor else 1 - _RESERVE
        self._reserved = 0.0 if self._of_processor else min(reserved, _MOST_RESERVED * self._limit)
        self._state = _TimeState()

    def __call__(self, run: TrainingRun) -> None:
        """Ends the run at the limit, or settles its number of steps if that is due."""
        seconds = run.clock.processor if self._of_processor else run.clock.wall
        seconds = parallel.mean(seconds, run.device)
        if seconds + self._reserved >= self._limit:
            run.stop("time")
        if run.step == _WARM_STEPS and not run.is_settled:
            self._state = _TimeState(warm=seconds)
        late = seconds > _TIMED_SHARE * self._limit
        due = _WARM_STEPS + 1 if late else _TIMED_STEPS
        if run.is_settled:
            due = run.plan.since + run.stretch
        if run.step < due or run.is_ending:
            return
        pace = (seconds - self._state.warm) / (run.step - _WARM_STEPS)
        left = max(0.0, self._share * self._limit - self._reserved - seconds)
        steps = run.step + round(left / pace) if pace else run.plan.steps
        steps = min(steps, MOST_STEPS if self._of_processor else run.config.steps)
        if not run.is_settled:
            run.plan = Plan(total=steps, steps=steps)
        run.plan = run.plan.corrected(run.step, steps)

    def state_dict(self) -> dict[str, object]:
        """Returns seconds before the timed steps."""
        return self._state.model_dump()

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restores this state."""
        self._state = _TimeState.model_validate(state)


class Validation:
    """Computes held-out losses, keeps the weights of the lowest one, and ends a run early.

    Args:
        batches: Batches of held-out points; the first few are used.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __call__(self, run: TrainingRun) -> None:
        """Computes the held-out loss if it is due, and at the end."""
        last = max(run.validation, default=0)
        over = run.ending is not None or run.step >= run.plan.steps
        if run.step > last and (over or (run.is_settled and run.step - last >= run.stretch)):
            self._validate(run)
        if run.config.patience is not None:
            patience = run.config.patience * run.plan.steps
            if run.step - run.best_step >= max(patience, _FEWEST_VALIDATIONS * run.stretch):
                run.stop("early")

    def _validate(self, run: TrainingRun) -> None:
        run.clock.start()
        drawn = map(self._batches.at, range(run.num_validated))
        with run.lent(run.averaged):
            loss = float(torch.stack([run.forward(batch) for batch in drawn]).mean())
        run.clock.stop()
        loss = loss if math.isfinite(loss) else math.inf
        with interrupts_wait():
            if loss <= min(run.validation.values(), default=math.inf):
                run.best_step, run.best = run.step, run.averaged.clone()
            run.validation[run.step] = loss


class Snapshots:
    """Shows the denoiser at chosen steps, in eval mode, in the main process alone.

    Args:
        steps: The steps, of ``config.steps``; 0 is before training. If training takes another
            number, they are scaled likewise, and those that it does not reach are shown at its end.
        show: Called with the step and the denoiser with its averaged weights of that step; at the
            end with the weights that are kept.
    """

    def __init__(self, steps: Collection[int], show: Callable[[int, Denoiser], object]) -> None:
        self._steps = sorted(set(steps))
        self._show = show
        self._shown: float | None = None

    def __call__(self, run: TrainingRun) -> None:
        """Shows the denoiser if a step has come that has not been shown."""
        over = run.ending is not None
        if run.is_ending and not over:  # the end, which follows, shows what is kept
            return
        if self._shown is None:  # a resumed run has shown those before its last step
            self._shown = run.scaled(run.step - 1)
        reached = math.inf if over else run.scaled(run.step)
        due = [step for step in self._steps if self._shown < step <= reached]
        self._shown = reached
        if not due:
            return
        run.require_finite()
        if is_main_process():
            with run.lent(run.kept if over else run.averaged) as denoiser:
                self._show(run.step, denoiser)


class _Report:
    """Reports on a step a few times a second, and at the end, in the main process alone."""

    _last = 0.0

    def __call__(self, run: TrainingRun) -> None:
        """Reports if it is time to."""
        resumed = run.batch is None and run.ending is None  # no step was taken since
        if run.step == 0 or resumed or not is_main_process():
            return
        soon = run.is_ending or time.perf_counter() - self._last <= _REPORT_SECONDS
        if run.ending is None and soon:  # the end, which follows the last step, is reported
            return
        self._last = time.perf_counter()
        self._report(run)

    def _report(self, run: TrainingRun) -> None:
        raise NotImplementedError


class Progress(_Report):
    """Tells a few times a second how far training is.

    Args:
        tell: Called with the number of finished steps, scaled to end at ``config.steps``, whoever
            ends training, and the latest loss.
    """

    def __init__(self, tell: Callable[[int, float], object]) -> None:
        self._tell = tell

    def _report(self, run: TrainingRun) -> None:
        steps = int(run.scaled(run.step)) if run.ending is None else run.config.steps
        self._tell(steps, float(run.losses()[-1]))


class TensorBoard(_Report):
    """Logs loss, learning rate and out-of-range inputs of KAN layers a few times a second.

    Args:
        folder: Folder for event files.

    Raises:
        KanDiffusionError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        with from_extra("tensorboard", "logs of training"):
            from torch.utils.tensorboard import SummaryWriter
        # Once there is something to log: a run that is finished, or another's, has no new file.
        self._open = partial(SummaryWriter, str(folder))
        self._writer: SummaryWriter | None = None

    def _report(self, run: TrainingRun) -> None:
        self._writer = self._writer or self._open()
        outside = {} if run.batch is None else run.out_of_range(run.batch, _LOGGED_ROWS)
        values = {"loss": float(run.losses()[-1]), "learning_rate": float(run.learning_rates[-1])}
        values |= {f"out_of_range/{name}": share for name, share in outside.items()}
        for name, value in values.items():
            self._writer.add_scalar(name, value, run.step)
        self._writer.flush()
        if run.ending is not None:
            self._writer.close()
