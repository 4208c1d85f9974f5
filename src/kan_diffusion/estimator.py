"""``fit`` and ``sample``: a diffusion model as a scikit-learn estimator.

torch and diffusers load when a model is fitted, so that importing the estimator stays quick.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from kan_diffusion.errors import BudgetError, valid_settings

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from kan_diffusion.denoisers import Denoiser
    from kan_diffusion.denoisers.family import Setting
    from kan_diffusion.training import ProgressCallback

__all__ = ["DiffusionEstimator"]

logger = logging.getLogger(__name__)


class DiffusionEstimator(BaseEstimator):
    """A diffusion model of points or of a table's continuous columns.

    Args:
        family: Kind of denoiser, a name of ``FAMILIES`` such as ``"kan"`` or ``"mlp"``, or
            ``"package.module:NAME"`` for one of your own.
        params: Number of trainable parameters at most; the family's nearest size below it is taken.
            Where the table has so many columns that even the smallest is larger, that one is taken,
            and a warning is logged.
        process: Noising process, a name of ``PROCESSES`` such as ``"cosine"`` or ``"flow"``.
        steps: Optimiser steps.
        batch_size: Points a step, drawn with replacement.
        learning_rate: Peak learning rate; the family's own when None.
        depth: Number of hidden layers; the family's own when None.
        settings: Settings of the denoiser that differ from the family's.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        random_state: A whole number, a NumPy ``RandomState`` or None, as scikit-learn has it.
        verbose: Whether ``fit`` shows the phase, the loss and the time left on a terminal.

    Attributes:
        pipeline_: The trained :class:`~kan_diffusion.PointDiffusionPipeline`.
        loss_curve_: Training loss of every step, with shape (steps,).
        n_parameters_: Number of trainable parameters of its denoiser.
        n_features_in_: Number of columns seen in ``fit``.
        feature_names_in_: Their names, when they had any.

    Example:
        >>> from kan_diffusion import DiffusionEstimator
        >>> model = DiffusionEstimator(family="kan", params=2300).fit(points)  # doctest: +SKIP
        >>> new_points = model.sample(1000)  # doctest: +SKIP
    """

    def __init__(
        self,
        family: str = "kan",
        *,
        params: int = 2300,
        process: str = "cosine",
        steps: int = 4000,
        batch_size: int = 1024,
        learning_rate: float | None = None,
        depth: int | None = None,
        settings: Mapping[str, Setting] | None = None,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.family = family
        self.params = params
        self.process = process
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.depth = depth
        self.settings = settings
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _denoiser(self, dim: int, num_timesteps: int, generator: torch.Generator) -> Denoiser:
        """The family's largest denoiser within the budget, or its smallest with a warning."""
        from kan_diffusion.denoisers import build_denoiser, get_family

        def build(dim: int, hidden: tuple[int, ...] | None = None) -> Denoiser:
            return build_denoiser(
                self.family,
                dim,
                num_train_timesteps=num_timesteps,
                params=self.params if hidden is None else None,
                hidden=hidden,
                depth=self.depth,
                settings=self.settings,
                generator=generator,
                at_most=True,
            )

        try:
            return build(dim)
        except BudgetError as error:
            build(1)  # or it is too small for every table
            logger.warning("%s; the smallest is taken", error)
            return build(dim, (1,) * (self.depth or get_family(self.family).depth))

    def fit(
        self,
        X: ArrayLike,  # noqa: N803
        y: None = None,
        on_progress: ProgressCallback | None = None,
    ) -> Self:
        """Trains on points.

        Args:
            X: Points with shape (n_samples, n_features), finite, no column constant.
            y: Ignored.
            on_progress: Told the number of finished steps and the loss a few times a second.

        Returns:
            The fitted estimator.

        Raises:
            DataError: A column is constant, or its values are out of the range of float64.
            KanDiffusionError: A setting is unknown or out of range, or the budget too small even
                for one column.
            ValueError: The points are not finite numbers in two dimensions.
        """
        import torch

        from kan_diffusion.data.scaling import Standardizer, precision_warning
        from kan_diffusion.denoisers import get_family
        from kan_diffusion.processes import get_process
        from kan_diffusion.progress import show_training
        from kan_diffusion.randomness import stream_seed, torch_generator
        from kan_diffusion.sampling import PointDiffusionPipeline, make_scheduler
        from kan_diffusion.training import TrainingConfig, train

        points = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        values = torch.tensor(points)
        names = getattr(self, "feature_names_in_", np.arange(points.shape[1])).astype(str).tolist()
        family = get_family(self.family, importing=True)
        process = get_process(self.process)
        standardizer = Standardizer.from_points(values, names)
        doubt = precision_warning(points, names, "")
        if doubt is not None:
            logger.warning(doubt)
        seed = self._seed()
        denoiser = self._denoiser(
            points.shape[1], process.num_timesteps, torch_generator("parameters", seed)
        )
        self.n_parameters_ = denoiser.num_trainable
        rate = self.learning_rate
        with valid_settings("settings"):
            config = TrainingConfig(
                steps=self.steps,
                batch_size=self.batch_size,
                learning_rate=family.learning_rate if rate is None else rate,
            )
        title = f"{self.family}, {self.n_parameters_:,} parameters"
        shown = show_training(title, self.steps) if self.verbose else nullcontext()
        with shown as bar:
            result = train(
                denoiser,
                process,
                standardizer.apply(values),
                config,
                seed=stream_seed("training", seed),
                device=self.device,
                on_progress=on_progress or bar,
            )
        self.loss_curve_ = result.losses
        self.pipeline_ = PointDiffusionPipeline(
            denoiser,
            make_scheduler(None, process.scheduler()),
            standardizer.mean,
            standardizer.scale,
            names if hasattr(self, "feature_names_in_") else None,
        )
        return self

    def sample(
        self, n_samples: int = 1, *, steps: int = 20, scheduler: str | None = None
    ) -> NDArray[np.float64]:
        """Draws points in the data's own units.

        Args:
            n_samples: Number of points.
            steps: Steps of the sampler.
            scheduler: Name of the sampler, see :data:`kan_diffusion.SCHEDULERS`; the process's
                default when None.

        Returns:
            Points with shape (n_samples, n_features).

        Raises:
            NotFittedError: ``fit`` has not been called.
            KanDiffusionError: The sampler is unknown or does not fit the process, or a number below
                1.
        """
        from kan_diffusion.randomness import torch_generator
        from kan_diffusion.sampling import make_scheduler

        check_is_fitted(self)
        self.pipeline_.scheduler = make_scheduler(scheduler, self.pipeline_.scheduler)
        generator = torch_generator("samples", self._seed())
        samples = self.pipeline_(n_samples, steps, generator=generator).samples
        points: NDArray[np.float64] = samples.cpu().double().numpy()
        return points

    def save(self, folder: str | Path) -> None:
        """Saves the trained pipeline, to be read by ``PointDiffusionPipeline.from_pretrained``."""
        check_is_fitted(self)
        self.pipeline_.save_pretrained(folder)
