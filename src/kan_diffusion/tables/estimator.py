"""``fit``, ``sample`` and ``impute``: a diffusion model of a table as a scikit-learn estimator.

torch and diffusers load when a model is fitted, so that importing the estimator stays quick.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from kan_diffusion.errors import (
    BudgetError,
    DataError,
    RunFolderError,
    valid_settings,
)

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
_MOST_CLASSES = 20
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
            ``{"age": "integer", "zip code": "categorical"}``; by number for an array.
        merge_below: Categories with fewer rows are merged into one, "other"; 0 merges none.
        depth: Number of hidden layers; chosen for the family and the table when None.
        settings: Settings of the denoiser that differ from the family's.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        random_state: A whole number, a NumPy ``RandomState`` or None, as in scikit-learn.
        verbose: Whether ``fit`` shows the kinds of columns, then the phase, the loss and the time
            left on a terminal.

    Attributes:
        pipeline_: The trained :class:`~kan_diffusion.TableDiffusionPipeline`.
        codec_: Its :class:`~kan_diffusion.tables.codec.TableCodec`, with the kinds of columns.
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

    def _with_y(self, frame: pd.DataFrame, y: object) -> pd.DataFrame:
        """Appends the column y to rows.

        Raises:
            DataError: y has another number of rows.
            ValueError: y has several columns.
        """
        values = y if isinstance(y, pd.Series) else column_or_1d(y, warn=True)
        if isinstance(values, np.ndarray):  # nanoseconds would become whole numbers in a list
            values = pd.Series(values if values.dtype.kind in "mM" else values.tolist())
        if len(values) != len(frame):
            raise DataError(
                f"y has {len(values):,} values and X {len(frame):,} rows; give one a row"
            )
        column = values.set_axis(frame.index)
        assert self.y_name_ is not None
        return pd.concat([frame, column.rename(self.y_name_)], axis=1)

    def _given_back(self, frame: pd.DataFrame) -> Rows:
        """Returns rows in the form that ``fit`` was given, without y."""
        rows = frame if self.y_name_ is None else frame.drop(columns=[self.y_name_])
        if self.array_dtype_ is None:
            return rows
        return rows.to_numpy(dtype=np.dtype(self.array_dtype_), na_value=np.nan)

    def _y_cells(self, values: Sequence[object]) -> pd.Series:
        from kan_diffusion.tables.conditions import cells

        return cells(self.codec_.column(self.y_name_), values)

    def _seed(self, random_state: RandomState = None) -> int:
        given = self.random_state if random_state is None else random_state
        return int(check_random_state(given).randint(2**31 - 1))

    def _denoiser(
        self, codec: TableCodec, suits: Suggestion, num_timesteps: int, generator: torch.Generator
    ) -> Denoiser:
        """Builds the family's largest denoiser in the budget, or its smallest with a warning."""
        from kan_diffusion.denoisers import build_denoiser, get_family

        depth = suits.depth if self.depth is None else self.depth

        def build(
            dim: int, blocks: tuple[int, ...], hidden: tuple[int, ...] | None = None
        ) -> Denoiser:
            return build_denoiser(
                self.family,
                dim,
                num_train_timesteps=num_timesteps,
                params=suits.params if hidden is None else None,
                hidden=hidden,
                depth=depth,
                blocks=blocks,
                settings=self.settings,
                generator=generator,
                at_most=True,
            )

        blocks = codec.block_widths
        try:
            return build(codec.dim, blocks)
        except BudgetError as error:
            build(1, (1,))  # raises if the budget is too small for every table
            logger.warning("%s; the smallest is taken", error)
            ones = (1,) * (depth or get_family(self.family).depth)
            return build(codec.dim, blocks, ones)

    def fit(
        self,
        X: ArrayLike | pd.DataFrame,  # noqa: N803
        y: ArrayLike | pd.Series | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> Self:
        """Trains on the rows of a table.

        Args:
            X: A frame, or an array with shape (n_samples, n_features), of at least two rows. Gaps
                are learned and drawn like other values.
            y: One more column, with shape (n_samples,), to condition on: see :meth:`sample`.
            on_progress: Called with the number of finished steps and the loss a few times a second.

        Returns:
            The fitted estimator.

        Raises:
            DataError: A column holds infinite values or several types, two columns share a name,
                there is nothing to learn, or y has another number of rows.
            KanDiffusionError: A setting is unknown or out of range, or the budget is too small even
                for one column.
            ValueError: X is neither a frame nor an array in two dimensions, or y has several
                columns.
        """
        from kan_diffusion.denoisers import get_family
        from kan_diffusion.devices import one_thread
        from kan_diffusion.evaluation.doubts import TOLD_APART_ROWS, training_doubt
        from kan_diffusion.processes import get_process
        from kan_diffusion.progress import show_columns, show_training
        from kan_diffusion.randomness import numpy_generator, stream_seed, torch_generator
        from kan_diffusion.tables.codec import TableCodec
        from kan_diffusion.tables.pipeline import TableDiffusionPipeline
        from kan_diffusion.training import TrainingConfig, train
        from kan_diffusion.training.defaults import suggested
        from kan_diffusion.training.optimization import suitable_rate

        frame = self._frame(X, reset=True)
        self.array_dtype_ = None if isinstance(X, pd.DataFrame) else _array_dtype(X)
        self.y_name_: str | int | None = None
        kinds = {str(name): kind for name, kind in (self.columns or {}).items()}
        if y is not None:
            self.y_name_ = _free_name(frame, y)
            frame = self._with_y(frame, y)
            if _is_label(frame[self.y_name_]):
                kinds.setdefault(str(self.y_name_), "categorical")
        get_family(self.family, importing=True)
        process = get_process(self.process)
        seed = self._seed()
        codec = TableCodec.fit(frame, kinds, merge_below=self.merge_below)
        codec.require_content()
        if self.verbose:
            show_columns(codec.describe(), f"{len(frame):,} rows", stderr=True)
        rows = codec.encode(frame, numpy_generator("encoding", seed))
        suits = suggested(len(rows), codec.dim, self.family, self.params)
        order = numpy_generator("split", seed).permutation(len(rows))
        heldout, train_rows = rows[order].tensor_split([suits.heldout_rows])
        denoiser = self._denoiser(
            codec, suits, process.num_timesteps, torch_generator("parameters", seed)
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
        y: ArrayLike | pd.Series | None = None,
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
            y: If ``fit`` had y, its value for all rows, or one value per row.
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
            DataError: A column or category is not known, or conditions contradict each other.
            KanDiffusionError: The sampler is unknown or does not fit the process, or a number is
                below 1.
        """
        from kan_diffusion.diffusion.sampling import make_scheduler
        from kan_diffusion.randomness import torch_generator
        from kan_diffusion.tables.codec import require_frame

        check_is_fitted(self)
        pipeline = self.pipeline_
        if scheduler is not None:
            chosen = make_scheduler(scheduler, pipeline.process)
            pipeline = pipeline.from_pipe(pipeline, scheduler=chosen)
        wanted = dict(conditions or {})
        if y is not None:
            if self.y_name_ is None:
                raise DataError("this model was fitted without y; leave y out or fit it with one")
            if np.ndim(y) == 0:
                wanted[self.y_name_] = y
            else:
                values = column_or_1d(y, warn=True).tolist()
                if like is not None:
                    require_frame(like)
                    if len(like) != len(values):
                        raise DataError(
                            f"y has {len(values):,} values for {len(like):,} rows; give one each"
                        )
                rest = [] if like is None else [like.reset_index(drop=True)]
                like = pd.concat([*rest, self._y_cells(values)], axis=1)
        frame = pipeline.draw(
            None if like is not None and n_samples == 1 else n_samples,
            conditions=wanted,
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
            X: Rows as in ``fit``, with gaps; if ``fit`` had y, it counts as unknown.
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
        frame = X if isinstance(X, pd.DataFrame) else self._frame(X)
        if self.y_name_ is not None:
            frame = pd.concat(
                [frame, self._y_cells([None] * len(frame)).set_axis(frame.index)],
                axis=1,
            )
        filled = self.pipeline_.impute(
            frame,
            draws,
            steps=steps,
            generator=torch_generator("imputation", self._seed(random_state)),
        )
        rows = [self._given_back(part) for part in filled]
        return rows[0] if draws == 1 else rows

    def score_samples(
        self,
        X: ArrayLike | pd.DataFrame,  # noqa: N803
        y: ArrayLike | pd.Series | None = None,
    ) -> NDArray[np.float64]:
        """Computes the log-density of the continuous cells of rows, given their other cells.

        Args:
            X: Rows as in ``fit``.
            y: If ``fit`` had y, the column y. Without it, the density is summed over the classes if
                y is a class and all other columns are continuous.

        Returns:
            Natural logarithms with shape (n_samples,), in the units of the data. They are exact for
            the model up to 16 continuous columns, and beyond that an unbiased estimate.

        Raises:
            NotFittedError: ``fit`` has not been called.
            DataError: A column is missing, new or of another type, none is continuous, or y is
                needed.
        """
        from scipy.special import logsumexp

        from kan_diffusion.randomness import torch_generator

        check_is_fitted(self)
        frame = self._frame(X)

        def density(rows: pd.DataFrame) -> NDArray[np.float64]:
            return self.pipeline_.log_density(rows, generator=torch_generator("density"))

        if self.y_name_ is None:
            return density(frame)
        if y is not None:
            return density(self._with_y(frame, y))
        column = self.codec_.column(self.y_name_)
        others = [block for block in self.codec_.blocks if block.column != str(self.y_name_)]
        if not column.is_discrete or column.missing or any(block.discrete for block in others):
            raise DataError("this model was fitted with y, which a density here needs; give y")
        classes = column.storage.from_scalars(column.categories).tolist()
        rows = pd.concat([frame] * len(classes), ignore_index=True)
        parts = density(self._with_y(rows, np.repeat(np.array(classes), len(frame))))
        shares = np.log(column.frequencies)[:, None]
        total: NDArray[np.float64] = logsumexp(parts.reshape(len(classes), -1) + shares, axis=0)
        return total

    def score(
        self,
        X: ArrayLike | pd.DataFrame,  # noqa: N803
        y: ArrayLike | pd.Series | None = None,
    ) -> float:
        """Returns the mean of :meth:`score_samples`; higher is better."""
        return float(self.score_samples(X, y).mean())

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
        content = {
            "settings": settings,
            "array_dtype": self.array_dtype_,
            "y": None if self.y_name_ is None else [self.y_name_],
        }
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
        settings, dtype, y = (found.get(key) for key in ("settings", "array_dtype", "y"))
        known = cls().get_params(deep=False)
        names = [column.name for column in pipeline.codec.columns]
        if (
            not isinstance(settings, dict)
            or not settings.keys() <= known.keys()
            or not (y is None or (isinstance(y, list) and len(y) == 1 and y[0] in names))
            or dtype not in (None, "object", *_ARRAY_DTYPES)
        ):
            raise RunFolderError(
                f"'{path}' is not as an estimator writes it; fit and save it again"
            )
        model = cls(**settings)
        model.pipeline_, model.array_dtype_ = pipeline, dtype
        model.y_name_ = None if y is None else y[0]
        own = [name for name in names if y is None or name != y[0]]
        model.n_features_in_ = len(own)
        if dtype is None and all(isinstance(name, str) for name in own):
            model.feature_names_in_ = np.array(own, dtype=object)
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


def _free_name(frame: pd.DataFrame, y: object) -> str | int:
    """Returns a name for y among the columns of a frame."""
    if all(isinstance(name, int | np.integer) for name in frame.columns):
        return int(max(frame.columns)) + 1
    name = getattr(y, "name", None)
    name = name if isinstance(name, str | int) else "y"
    if name in frame.columns:
        raise DataError(f"y is called '{name}' as a column of X is; rename one of them")
    return name


def _is_label(y: pd.Series) -> bool:
    """Whether y holds classes and not amounts."""
    from kan_diffusion.tables.columns import kind_of

    kind = kind_of(y, str(y.name))
    if kind in ("integer", "count") or (kind == "identifier" and y.dtype.kind in "iuf"):
        return y.nunique() <= _MOST_CLASSES
    return kind not in ("continuous", "datetime", "mostly-zero")
