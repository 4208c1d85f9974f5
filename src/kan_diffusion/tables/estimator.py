"""``fit``, ``sample`` and ``impute``: a diffusion model of a table as a scikit-learn estimator.

It trains as ``kan-diffusion train`` does, and what it saves is a run like any other.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from kan_diffusion.denoisers.families import Setting, get_family
from kan_diffusion.devices import one_thread
from kan_diffusion.diffusion.sampling import make_scheduler
from kan_diffusion.errors import DataError, RunFolderError, valid_settings
from kan_diffusion.progress import TextConsole, TrainingBar, progress_bars
from kan_diffusion.randomness import torch_generator
from kan_diffusion.study.folder import (
    TABLE,
    TrialResult,
    keep_trial,
    load_curves,
    load_trial,
    replaced_trial,
)
from kan_diffusion.study.named import single_trial
from kan_diffusion.study.trial import load_run, train_trial
from kan_diffusion.tables.codec import TableCodec, require_frame
from kan_diffusion.tables.datasets import encoded
from kan_diffusion.tables.pipeline import TableDiffusionPipeline
from kan_diffusion.tables.sources import FileData
from kan_diffusion.training.callbacks import Progress
from kan_diffusion.training.config import OptimizerName
from kan_diffusion.training.run import Callback

Rows = pd.DataFrame | NDArray[np.generic]
"""Rows of a table: a frame where a frame was fitted, an array where an array was."""

RandomState = int | np.random.RandomState | None


@dataclass(eq=False, repr=False)
class DiffusionEstimator(BaseEstimator):
    """A diffusion model of a table: numbers, categories, dates and gaps.

    It learns the rows of a data frame or an array, then draws new rows, with or without given
    cells, fills gaps and computes densities. A frame comes back as a frame with the same columns,
    order and dtypes, an array as an array.

    Args:
        family: Kind of denoiser, a name of ``FAMILIES`` such as ``"kan"`` or ``"mlp"``, or
            ``"package.module:NAME"`` for one of your own.
        params: Largest number of trainable parameters; the family's nearest size below it is used.
            If the table has so many columns that even the smallest size is larger, that size is
            used and a warning is logged. When None, 300 times the square root of the table's number
            of encoded values, up to eight times as many from 2,000 rows on, at most 250,000.
        process: Noising process, a name of ``PROCESSES`` such as ``"cosine"`` or ``"flow"``.
        steps: Largest number of optimiser steps; chosen for the table when None.
        batch_size: Rows per step, drawn with replacement; chosen for the table when None.
        optimizer: ``"adam"``, ``"soap"`` or ``"muon"``, see
            :mod:`kan_diffusion.training.optimization`.
        learning_rate: Peak learning rate; chosen for the family and size when None.
        max_seconds: Seconds that ``fit`` may take; None for no limit.
        columns: Kinds of columns that should not be inferred, by name:
            ``{"age": "number", "zip code": "category"}``; by number for an array.
        without: Rules between columns that need not be kept, such as ``"start<=end"``; those found
            are ``codec_.always`` and ``codec_.mostly``.
        depth: Number of hidden layers; chosen for the family and the table when None.
        settings: Settings of the denoiser that differ from the family's.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        random_state: A whole number, a NumPy ``RandomState`` or None, as in scikit-learn.
        verbose: Whether ``fit`` shows the kinds of columns and the rules, then phase, loss and time
            left on a terminal.

    Attributes:
        pipeline_: The trained :class:`~kan_diffusion.TableDiffusionPipeline`.
        codec_: Its :class:`~kan_diffusion.tables.codec.TableCodec`, which knows the kinds of
            columns.
        loss_curve_: Training loss of each of the k steps, with shape (k,): training stops early
            when the held-out loss has not improved for long.
        heldout_curve_: Steps and their losses on held-out rows, with shape (evaluations, 2).
        n_parameters_: Number of trainable parameters of its denoiser.
        n_features_in_: Number of columns seen in ``fit``.
        feature_names_in_: Names of these columns, if all names are strings.

    Example:
        >>> from kan_diffusion import DiffusionEstimator
        >>> model = DiffusionEstimator().fit(people)  # doctest: +SKIP
        >>> rows = model.sample(1000, conditions={"age": (18, 30)})  # doctest: +SKIP
        >>> filled = model.impute(people_with_gaps, draws=20)  # doctest: +SKIP
    """

    family: str = "kan"
    _: KW_ONLY
    params: int | None = None
    process: str = "cosine"
    steps: int | None = None
    batch_size: int | None = None
    optimizer: OptimizerName = "adam"
    learning_rate: float | None = None
    max_seconds: float | None = None
    columns: Mapping[str | int, str] | None = None
    without: Sequence[str] = ()
    depth: int | None = None
    settings: Mapping[str, Setting] | None = None
    device: str = "auto"
    random_state: RandomState = None
    verbose: bool = False

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        # Not categorical: scikit-learn's checks would ask for densities of tables without numbers.
        return tags

    def _frame(self, X: ArrayLike | pd.DataFrame, reset: bool = False) -> pd.DataFrame:  # noqa: N803
        """Returns rows as a frame; the columns of an array are numbered from 0."""
        if isinstance(X, pd.DataFrame):
            require_frame(X)
            if len({isinstance(name, str) for name in X}) > 1:
                raise DataError(
                    "columns are named by text and by numbers; name all by text, such as "
                    "frame.rename(columns=str)"
                )
            validate_data(self, X, reset=reset, skip_check_array=True)
            return X
        if isinstance(X, str | Path):
            raise DataError(
                f"rows are a data frame or an array, not the name '{X}'; read it, such as with "
                f"pandas.read_csv, or train with 'kan-diffusion train {X}'"
            )
        if isinstance(X, np.ma.MaskedArray):  # its masked cells are gaps
            return self._frame(pd.DataFrame(X).to_numpy(), reset)
        rows = validate_data(
            self,
            X,
            reset=reset,
            dtype=None if getattr(getattr(X, "dtype", None), "kind", "") == "O" else "numeric",
            ensure_all_finite="allow-nan",
            ensure_min_samples=2 if reset else 1,
        )
        return pd.DataFrame(rows).infer_objects()

    def _seed(self, random_state: RandomState = None) -> int:
        given = self.random_state if random_state is None else random_state
        if isinstance(given, int | np.integer):
            return int(given)  # as the seed of the commands
        return int(check_random_state(given).randint(2**31 - 1))

    def fit(
        self,
        X: ArrayLike | pd.DataFrame,  # noqa: N803
        y: object = None,
        callbacks: Sequence[Callback] = (),
    ) -> Self:
        """Trains on the rows of a table.

        Args:
            X: A frame, or an array with shape (n_samples, n_features), of at least two rows. Gaps
                are learned and drawn like other values.
            y: Ignored, as by scikit-learn's other density estimators: what is to be conditioned on
                is a column of ``X``.
            callbacks: Called with the :class:`~kan_diffusion.training.run.TrainingRun` before the
                first step, after each, and at the end. It has ``step``, ``losses()`` and, in
                ``validation``, losses on held-out rows by step; its ``stop()`` ends it.

        Returns:
            The fitted estimator.

        Raises:
            DataError: A column holds infinite values or several types, two columns share a name, or
                there is nothing to learn.
            KanDiffusionError: A setting is unknown or out of range.
            ValueError: X is neither a frame nor an array in two dimensions.
        """
        started = time.monotonic()
        frame = self._frame(X, reset=True)
        seed = self._seed()
        with valid_settings("settings"):
            kinds = {str(name): kind for name, kind in (self.columns or {}).items()}
            without = (self.without,) if isinstance(self.without, str) else tuple(self.without)
            given = {"path": Path(TABLE), "holdout": 0.0, "without": without}
            source = FileData.model_validate({**given, "kinds": kinds})
        if get_family(self.family, importing=True).is_for_reading:
            source = source.for_reading()
        array = None if isinstance(X, pd.DataFrame) else str(np.asarray(X).dtype)
        codec = source.fit_codec(frame).model_copy(update={"array": array})
        parts = source.split(len(frame), seed, 0)
        dataset = encoded(source.name, frame, codec, parts, seed)
        if self.verbose:
            TextConsole(stderr=True).say(codec.summary(f"{source.name}, {len(frame):,} rows"))
        known = inspect.signature(single_trial).parameters
        chosen = {name: value for name, value in self.get_params().items() if name in known}
        config = single_trial(source, seed=seed, dataset=dataset, **chosen)
        title = f"{config.model.name}, {len(frame):,} rows"
        with ExitStack() as shown, one_thread():
            if self.verbose:
                bars = shown.enter_context(progress_bars())
                bar = TrainingBar(bars, title, config.training.steps)
                callbacks = [*callbacks, Progress(bar.move)]
            result, pipeline, curves = train_trial(
                config,
                dataset,
                self.device,
                spent_seconds=time.monotonic() - started,
                callbacks=callbacks,
            )
        assert isinstance(pipeline, TableDiffusionPipeline)
        return self._of_run(pipeline, result, curves)

    def _of_run(
        self, pipeline: TableDiffusionPipeline, trial: TrialResult, curves: pd.DataFrame
    ) -> Self:
        """Becomes the estimator of a trained run."""
        self.pipeline_, self._trial, self._curves = pipeline, trial, curves
        self.loss_curve_ = curves["loss"].to_numpy()
        self.heldout_curve_ = curves[["step", "heldout_loss"]].dropna().to_numpy()
        self.n_parameters_ = pipeline.denoiser.num_trainable
        return self

    @property
    def codec_(self) -> TableCodec:
        """The codec of the table."""
        check_is_fitted(self)
        return self.pipeline_.codec

    def sample(
        self,
        n_samples: int = 1,
        *,
        conditions: Mapping[object, object] | None = None,
        like: pd.DataFrame | None = None,
        steps: int | None = None,
        scheduler: str | None = None,
        random_state: RandomState = None,
        max_seconds: float | None = None,
    ) -> Rows:
        """Draws rows, see :meth:`.TableDiffusionPipeline.draw`.

        Args:
            n_samples: Number of rows; leave it out where there is ``like``.
            conditions: What the cells of some columns must be: a value (None for a gap), a list
                of values, or a pair (low, high) with None for an open end.
            like: Rows with cells of some of the columns, which are kept.
            steps: Steps of the sampler; when None, 20 of a model of less than 2,000 rows, and 50 of
                others.
            scheduler: Name of the sampler for this call, see :data:`kan_diffusion.SCHEDULERS`; that
                of ``pipeline_`` when None, which is the process's default.
            random_state: Source of the noise; the estimator's own when None.
            max_seconds: How long to look for rows that meet conditions.

        Returns:
            Rows as in ``fit``: a frame with the same columns, order and dtypes, or an array.

        Raises:
            NotFittedError: ``fit`` has not been called.
            KanDiffusionError: As in the pipeline, or the sampler does not fit the process.
        """
        check_is_fitted(self)
        pipeline = self.pipeline_
        if scheduler is not None:
            chosen = make_scheduler(scheduler, pipeline.process)
            pipeline = pipeline.from_pipe(pipeline, scheduler=chosen)
        frame = pipeline.draw(
            None if like is not None and n_samples == 1 else n_samples,
            conditions=conditions,
            like=like,
            steps=self._trial.config.sampling.steps if steps is None else steps,
            generator=torch_generator("samples", self._seed(random_state)),
            max_seconds=max_seconds,
        )
        return frame if self.codec_.array is None else frame.to_numpy()

    def impute(
        self,
        X: ArrayLike | pd.DataFrame,  # noqa: N803
        draws: int = 1,
        *,
        steps: int = 20,
        random_state: RandomState = None,
    ) -> Rows | list[Rows]:
        """Fills gaps, see :meth:`.TableDiffusionPipeline.impute`.

        Args:
            X: Rows as in ``fit``, with gaps.
            draws: Number of times to fill them: the spread between draws says how sure a cell is.
            steps: Steps of the sampler.
            random_state: Source of the noise; the estimator's own when None.

        Returns:
            The filled rows, with all given cells unchanged; a list of them for several draws.

        Raises:
            NotFittedError: ``fit`` has not been called.
            KanDiffusionError: As in the pipeline.
        """
        check_is_fitted(self)
        filled = self.pipeline_.impute(
            X if isinstance(X, pd.DataFrame) else self._frame(X),
            draws,
            steps=steps,
            generator=torch_generator("imputation", self._seed(random_state)),
        )
        rows: list[Rows] = [*filled]
        if self.codec_.array is not None:
            rows = [part.to_numpy() for part in filled]
        return rows[0] if draws == 1 else rows

    def score_samples(self, X: ArrayLike | pd.DataFrame) -> NDArray[np.float64]:  # noqa: N803
        """Computes the log-density of the continuous cells of rows, given their other cells.

        Args:
            X: Rows as in ``fit``.

        Returns:
            Natural logarithms with shape (n_samples,), in the units of the data. They are exact for
            the model up to 16 continuous columns, and beyond that an unbiased estimate.

        Raises:
            NotFittedError: ``fit`` has not been called.
            DataError: A column is missing, new or of another type, or none is continuous.
        """
        check_is_fitted(self)
        return self.pipeline_.log_density(self._frame(X), generator=torch_generator("density"))

    def score(self, X: ArrayLike | pd.DataFrame, y: object = None) -> float:  # noqa: N803
        """Returns the mean of :meth:`score_samples`; higher is better. ``y`` is ignored."""
        return float(self.score_samples(X).mean())

    def save(self, folder: str | Path) -> None:
        """Saves the model, without a row, as a run that ``sample`` and ``impute`` read.

        A run in the folder is replaced whole or not at all, even if the process is killed. Other
        files in the folder stay, among them an explanation or a report of the run before; a folder
        of other files without a run is refused.

        Args:
            folder: Folder to write, created if missing.

        Raises:
            NotFittedError: ``fit`` has not been called.
            RunFolderError: The folder cannot be written, or holds other files and no finished run,
                or a file in the way.
        """
        check_is_fitted(self)
        place, source = Path(folder).absolute(), self._trial.config.data
        if isinstance(source, FileData) and source.path.name == TABLE:  # of a fit, not of a file
            source = source.model_copy(update={"path": place / TABLE})
        config = self._trial.config.model_copy(update={"data": source})
        with replaced_trial(place) as new:
            trial = replace(self._trial.changed(config, **config.keys), folder=new)
            keep_trial(trial, self.pipeline_, self._curves)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads a run of a table, of :meth:`save` or of ``train``; no code in it is run.

        Args:
            folder: The folder.

        Raises:
            RunFolderError: The folder or a file in it is missing, damaged or something else.
        """
        config, pipeline = load_run(Path(folder))
        if not isinstance(pipeline, TableDiffusionPipeline):
            raise RunFolderError(f"'{folder}' is no model of a table; give a run of one")
        trial = load_trial(Path(folder))
        assert trial is not None
        parts = (config.model, config.training, config.data)
        given = {name: value for part in parts for name, value in dict(part).items()}
        given |= {
            "params": pipeline.denoiser.num_trainable,
            "process": config.process.name,
            "depth": len(pipeline.denoiser.config.hidden),
            "columns": dict(given.get("kinds", ())) or None,
            "random_state": config.study_seed,
        }
        model = cls(**{name: given[name] for name in cls._get_param_names() if name in given})
        names = [column.name for column in pipeline.codec.columns]
        model._frame(pd.DataFrame(0, index=[0], columns=names), reset=True)
        # A judgement needs rows, which a model does not have.
        return model._of_run(pipeline, replace(trial, judged=None), load_curves(trial.folder))
