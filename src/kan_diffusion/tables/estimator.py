"""``fit``, ``sample`` and ``impute``: a diffusion model of a table as a scikit-learn estimator.

torch and diffusers load when a model is fitted, so that importing the estimator stays quick.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from kan_diffusion.errors import BudgetError, RunFolderError, valid_settings

if TYPE_CHECKING:
    import torch

    from kan_diffusion.denoisers import Denoiser
    from kan_diffusion.denoisers.family import Setting
    from kan_diffusion.tables.codec import TableCodec
    from kan_diffusion.tables.columns import Kind
    from kan_diffusion.training import ProgressCallback
    from kan_diffusion.training.defaults import Suggestion
    from kan_diffusion.training.optimization import OptimizerName

__all__ = ["DiffusionEstimator"]

logger = logging.getLogger(__name__)

Rows = pd.DataFrame | NDArray[np.generic]
"""Rows of a table: a frame where a frame was fitted, an array where an array was."""

RandomState = int | np.random.RandomState | None

_SETTINGS = "estimator.json"
_ARRAY_DTYPES = ("float64", "float32", "int64", "int32", "bool")


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
            of encoded values, at most 500,000.
        process: Noising process, a name of ``PROCESSES`` such as ``"cosine"`` or ``"flow"``.
        steps: Largest number of optimiser steps; chosen for the table when None.
        batch_size: Rows per step, drawn with replacement; chosen for the table when None.
        optimizer: ``"adam"``, ``"soap"``, ``"muon"`` or ``"lbfgs"``, see
            :mod:`kan_diffusion.training.optimization`.
        learning_rate: Peak learning rate; chosen for the family and size when None.
        max_seconds: Seconds that training may take; None for no limit.
        columns: Kinds of columns that should not be inferred, by name:
            ``{"age": "number", "zip code": "category"}``; by number for an array.
        merge_below: Categories with fewer rows are merged into one, "other"; 0 merges none.
        depth: Number of hidden layers; chosen for the family and the table when None.
        settings: Settings of the denoiser that differ from the family's.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        random_state: A whole number, a NumPy ``RandomState`` or None, as in scikit-learn.
        verbose: Whether ``fit`` shows the kinds of columns, then the phase, the loss and the time
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

    def __init__(
        self,
        family: str = "kan",
        *,
        params: int | None = None,
        process: str = "cosine",
        steps: int | None = None,
        batch_size: int | None = None,
        optimizer: OptimizerName = "adam",
        learning_rate: float | None = None,
        max_seconds: float | None = None,
        columns: Mapping[str | int, Kind] | None = None,
        merge_below: int = 0,
        depth: int | None = None,
        settings: Mapping[str, Setting] | None = None,
        device: str = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
    ) -> None:
        self.family = family
        self.params = params
        self.process = process
        self.steps = steps
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.max_seconds = max_seconds
        self.columns = columns
        self.merge_below = merge_below
        self.depth = depth
        self.settings = settings
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        # Not categorical: scikit-learn's checks would ask for densities of tables without numbers.
        return tags

    def _frame(self, X: ArrayLike | pd.DataFrame, reset: bool = False) -> pd.DataFrame:  # noqa: N803
        """Returns rows as a frame; the columns of an array are numbered from 0."""
        from kan_diffusion.tables.codec import require_frame

        if isinstance(X, pd.DataFrame):
            require_frame(X)
            validate_data(self, X, reset=reset, skip_check_array=True)
            return X
        rows = validate_data(
            self,
            X,
            reset=reset,
            dtype=None if getattr(getattr(X, "dtype", None), "kind", "") == "O" else "numeric",
            ensure_all_finite="allow-nan",
            ensure_min_samples=2 if reset else 1,
        )
        return pd.DataFrame(rows).infer_objects()

    def _given_back(self, frame: pd.DataFrame) -> Rows:
        """Returns rows in the form that ``fit`` was given."""
        if self.array_dtype_ is None:
            return frame
        return frame.to_numpy(dtype=np.dtype(self.array_dtype_), na_value=np.nan)

    def _seed(self, random_state: RandomState = None) -> int:
        given = self.random_state if random_state is None else random_state
        return int(check_random_state(given).randint(2**31 - 1))

    def _denoiser(
        self, dim: int, suits: Suggestion, num_timesteps: int, generator: torch.Generator
    ) -> Denoiser:
        """Builds the family's largest denoiser in the budget, or its smallest with a warning."""
        from kan_diffusion.denoisers import build_denoiser, get_family

        depth = suits.depth if self.depth is None else self.depth

        def build(dim: int, hidden: tuple[int, ...] | None = None) -> Denoiser:
            return build_denoiser(
                self.family,
                dim,
                num_train_timesteps=num_timesteps,
                params=suits.params if hidden is None else None,
                hidden=hidden,
                depth=depth,
                observable=True,
                settings=self.settings,
                generator=generator,
                at_most=True,
            )

        try:
            return build(dim)
        except BudgetError as error:
            build(1)  # raises if the budget is too small for every table
            logger.warning("%s; the smallest is taken", error)
            return build(dim, (1,) * (depth or get_family(self.family).depth))

    def fit(
        self,
        X: ArrayLike | pd.DataFrame,  # noqa: N803
        y: object = None,
        on_progress: ProgressCallback | None = None,
    ) -> Self:
        """Trains on the rows of a table.

        Args:
            X: A frame, or an array with shape (n_samples, n_features), of at least two rows. Gaps
                are learned and drawn like other values.
            y: Ignored, as by scikit-learn's other density estimators: what is to be conditioned on
                is a column of ``X``.
            on_progress: Called with the number of finished steps and the loss a few times a second.

        Returns:
            The fitted estimator.

        Raises:
            DataError: A column holds infinite values or several types, two columns share a name, or
                there is nothing to learn.
            KanDiffusionError: A setting is unknown or out of range, or the budget is too small even
                for one column.
            ValueError: X is neither a frame nor an array in two dimensions.
        """
        from kan_diffusion.denoisers import get_family
        from kan_diffusion.devices import one_thread
        from kan_diffusion.evaluation.doubts import TOLD_APART_ROWS, training_doubt
        from kan_diffusion.processes import get_process
        from kan_diffusion.progress import show_training
        from kan_diffusion.randomness import numpy_generator, stream_seed, torch_generator
        from kan_diffusion.tables.codec import TableCodec
        from kan_diffusion.tables.pipeline import TableDiffusionPipeline
        from kan_diffusion.training import TrainingConfig, train
        from kan_diffusion.training.defaults import suggested
        from kan_diffusion.training.optimization import suitable_rate

        frame = self._frame(X, reset=True)
        self.array_dtype_ = None if isinstance(X, pd.DataFrame) else _array_dtype(X)
        get_family(self.family, importing=True)
        process = get_process(self.process)
        seed = self._seed()
        kinds = {str(name): kind for name, kind in (self.columns or {}).items()}
        codec = TableCodec.fit(frame, kinds, merge_below=self.merge_below)
        codec.require_content()
        if self.verbose:
            print(columns_text(codec.describe(), f"{len(frame):,} rows"), file=sys.stderr)  # noqa: T201
        rows = codec.encode(frame, numpy_generator("encoding", seed))
        suits = suggested(len(rows), codec.dim, self.family, self.params)
        order = numpy_generator("split", seed).permutation(len(rows))
        heldout, train_rows = rows[order].tensor_split([suits.heldout_rows])
        denoiser = self._denoiser(
            codec.dim, suits, process.num_timesteps, torch_generator("parameters", seed)
        )
        self.n_parameters_ = denoiser.num_trainable
        with valid_settings("settings"):
            config = TrainingConfig(
                steps=suits.steps if self.steps is None else self.steps,
                batch_size=suits.batch_size if self.batch_size is None else self.batch_size,
                optimizer=self.optimizer,
                learning_rate=(
                    suitable_rate(self.optimizer, suits.learning_rate)
                    if self.learning_rate is None
                    else self.learning_rate
                ),
                patience=suits.patience,
                max_seconds=self.max_seconds,
            )
        title = f"{self.family}, {self.n_parameters_:,} parameters"
        shown = show_training(title, config.steps) if self.verbose else nullcontext()
        with shown as bar, one_thread():
            result = train(
                denoiser,
                process,
                train_rows,
                config,
                seed=stream_seed("training", seed),
                heldout=heldout if len(heldout) else None,
                device=self.device,
                on_progress=on_progress or bar,
            )
        self.loss_curve_ = result.losses
        self.heldout_curve_ = np.array(result.heldout_losses).reshape(-1, 2)
        self.pipeline_ = TableDiffusionPipeline(denoiser, process, codec)
        if len(heldout):
            num_drawn = min(len(heldout), TOLD_APART_ROWS)
            drawn = self.pipeline_(num_drawn, generator=torch_generator("doubt", seed)).samples
            random = numpy_generator("doubt", seed)
            drawn = codec.settle(drawn, random)
            doubt = training_doubt(result, config, self.n_parameters_, drawn, heldout, random)
            if doubt is not None:
                logger.warning(doubt)
        return self

    @property
    def codec_(self) -> TableCodec:
        """The codec of the table, which knows the kinds of its columns."""
        check_is_fitted(self)
        return self.pipeline_.codec

    def sample(
        self,
        n_samples: int = 1,
        *,
        conditions: Mapping[object, object] | None = None,
        like: pd.DataFrame | None = None,
        steps: int = 20,
        scheduler: str | None = None,
        random_state: RandomState = None,
    ) -> Rows:
        """Draws rows.

        Args:
            n_samples: Number of rows.
            conditions: What the cells of some columns must be: a value (None for a gap), a list
                of values, or a pair (low, high) with None for an open end.
            like: Rows with cells of some of the columns; the cells are kept, and each row is
                completed once. Leave ``n_samples`` out then.
            steps: Steps of the sampler.
            scheduler: Name of the sampler for this call, see :data:`kan_diffusion.SCHEDULERS`; that
                of ``pipeline_`` when None, which is the process's default.
            random_state: Source of the noise; the estimator's own when None.

        Returns:
            Rows as in ``fit``: a frame with the same columns, order and dtypes, or an array.

        Raises:
            NotFittedError: ``fit`` has not been called.
            DataError: A column or category is not known, or no value of a column meets its
                condition.
            KanDiffusionError: The sampler is unknown or does not fit the process, or a number is
                below 1.
        """
        from kan_diffusion.diffusion.sampling import make_scheduler
        from kan_diffusion.randomness import torch_generator

        check_is_fitted(self)
        pipeline = self.pipeline_
        if scheduler is not None:
            chosen = make_scheduler(scheduler, pipeline.process)
            pipeline = pipeline.from_pipe(pipeline, scheduler=chosen)
        frame = pipeline.draw(
            None if like is not None and n_samples == 1 else n_samples,
            conditions=conditions,
            like=like,
            steps=steps,
            generator=torch_generator("samples", self._seed(random_state)),
        )
        return self._given_back(frame)

    def impute(
        self,
        X: ArrayLike | pd.DataFrame,  # noqa: N803
        draws: int = 1,
        *,
        steps: int = 20,
        random_state: RandomState = None,
    ) -> Rows | list[Rows]:
        """Fills gaps with draws of the missing cells, given the other cells of their row.

        Args:
            X: Rows as in ``fit``, with gaps.
            draws: Number of times to fill them: the spread between draws says how sure a cell is.
            steps: Steps of the sampler.
            random_state: Source of the noise; the estimator's own when None.

        Returns:
            The filled rows, with all given cells unchanged; a list of them for several draws.

        Raises:
            NotFittedError: ``fit`` has not been called.
            DataError: A column is missing, new or of another type.
            KanDiffusionError: The number of draws is below 1.
        """
        from kan_diffusion.randomness import torch_generator

        check_is_fitted(self)
        filled = self.pipeline_.impute(
            X if isinstance(X, pd.DataFrame) else self._frame(X),
            draws,
            steps=steps,
            generator=torch_generator("imputation", self._seed(random_state)),
        )
        rows = [self._given_back(part) for part in filled]
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
        from kan_diffusion.randomness import torch_generator

        check_is_fitted(self)
        return self.pipeline_.log_density(self._frame(X), generator=torch_generator("density"))

    def score(self, X: ArrayLike | pd.DataFrame, y: object = None) -> float:  # noqa: N803
        """Returns the mean of :meth:`score_samples`; higher is better. ``y`` is ignored."""
        return float(self.score_samples(X).mean())

    def save(self, folder: str | Path) -> None:
        """Saves the model: JSON and safetensors, and no row of the table.

        A model in the folder is replaced; if that is cut short, the old one or none can be loaded.
        A parameter that is no plain value, such as a ``RandomState``, is left out with a warning.

        Args:
            folder: Folder to write, created if missing. :meth:`load` reads it, and
                ``TableDiffusionPipeline.from_pretrained`` reads the pipeline in it.

        Raises:
            NotFittedError: ``fit`` has not been called.
            RunFolderError: The folder cannot be written.
        """
        from kan_diffusion.diffusion.sampling import save_pipeline
        from kan_diffusion.files import json_bytes

        check_is_fitted(self)
        settings: dict[str, object] = {}
        for name, given in self.get_params(deep=False).items():
            value = _plain(given)
            if isinstance(value, dict | str | int | float | None):
                settings[name] = value
            else:
                logger.warning(
                    f"{name} is not saved, since it is a {type(value).__name__} and no plain "
                    "value; set it again before the loaded model is fitted"
                )
        content = {"settings": settings, "array_dtype": self.array_dtype_}
        save_pipeline(self.pipeline_, Path(folder), (_SETTINGS, json_bytes(content)))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads a model that :meth:`save` wrote; no code in the folder is run.

        Args:
            folder: The folder.

        Raises:
            RunFolderError: The folder or a file in it is missing, damaged or something else.
        """
        from kan_diffusion.files import read_json
        from kan_diffusion.tables.pipeline import TableDiffusionPipeline

        path = Path(folder) / _SETTINGS
        found = read_json(path, "the settings of an estimator", "fit and save it again")
        pipeline = TableDiffusionPipeline.from_pretrained(folder)
        settings, dtype = found.get("settings"), found.get("array_dtype")
        if (
            not isinstance(settings, dict)
            or not settings.keys() <= cls().get_params(deep=False).keys()
            or dtype not in (None, "object", *_ARRAY_DTYPES)
        ):
            raise RunFolderError(
                f"'{path}' is not as an estimator writes it; fit and save it again"
            )
        model = cls(**settings)
        model.pipeline_, model.array_dtype_ = pipeline, dtype
        names = [column.name for column in pipeline.codec.columns]
        model.n_features_in_ = len(names)
        if dtype is None and all(isinstance(name, str) for name in names):
            model.feature_names_in_ = np.array(names, dtype=object)
        model.n_parameters_ = pipeline.denoiser.num_trainable
        return model


def _plain(value: object) -> object:
    """Returns a value with a mapping as a dictionary and a number of NumPy as Python's own."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _array_dtype(X: object) -> str:  # noqa: N803
    """Returns the dtype in which :meth:`DiffusionEstimator.sample` returns an array of rows."""
    dtype = np.asarray(X).dtype
    if dtype.kind == "O":
        return "object"
    return str(dtype) if str(dtype) in _ARRAY_DTYPES else "float64"
