r"""Generators of synthetic rows: this project's estimator and other libraries'.

Each has its own defaults and about the same seconds of one processor core, and is held to them in
its own way:

- kan, full-kan, mlp ``DiffusionEstimator(max_seconds=…)``, each of the size the data give
- copula             a Gaussian copula of ``copulas``; needs what it needs, less than the others
- smote              x = a + λ (b - a), with a row a, one b of its five nearest rows of the same
                     class and λ uniform on [0, 1]; a code is taken from b with probability λ; no
                     training (Chawla et al. 2002; the strong simple baseline of TabDDPM,
                     arXiv:2209.15421)
- forest-diffusion   fewer noised copies of each row, noise levels and trees than its 100, 50 and
                     100: the most of which a fit, tried before, takes the time
- ctgan, tvae        epochs until the time is over, be it fewer or more than their 300
- tabddpm            as many epochs as some timed ones say fit, fewer or more than its 1,000

``forest-diffusion-in-full`` is not held to any time. ``rows`` gives training rows back: nothing is
more faithful, and every row is a copy.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from unittest import mock

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_diffusion import DiffusionEstimator
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.randomness import numpy_generator, stream_seed
from tables.plain import Plain
from tables.sources import Split

if TYPE_CHECKING:
    from copulas.multivariate import GaussianMultivariate
    from ctgan import CTGAN, TVAE
    from ForestDiffusion import ForestDiffusionModel

__all__ = ["GENERATORS", "OURS", "REFERENCE", "SYNTHCITY", "UNTIMED", "Generator", "Ours", "Smote"]


class Generator(Protocol):
    """A method that makes synthetic rows."""

    held: str = ""
    """How it was held to its time, once it is fitted."""

    seconds: float | None = None
    """Seconds of its last call, where these are not all that this process took for it."""

    def fit(self, split: Split, seconds: float, seed: int) -> None:
        """Learns from the training rows of a split, for about ``seconds`` of one core."""

    def sample(self, num: int, seed: int) -> pd.DataFrame:
        """Draws rows with the columns and dtypes of the training rows."""


class Ours(Generator):
    """The estimator of this project.

    Args:
        family: Its family.
    """

    def __init__(self, family: str) -> None:
        self.family = family

    def fit(self, split: Split, seconds: float, seed: int) -> None:
        """Trains until the held-out loss no longer falls, or the time is over."""
        self.model = DiffusionEstimator(self.family, max_seconds=seconds, random_state=seed)
        self.model.fit(split.train)
        parameters, steps = self.model.n_parameters_, len(self.model.loss_curve_)
        self.held = f"{parameters:,} parameters, {steps:,} steps"

    def sample(self, num: int, seed: int) -> pd.DataFrame:
        """Draws rows with the estimator's own number of steps."""
        frame: pd.DataFrame = self.model.sample(num, random_state=seed)
        return frame

    def impute(self, frame: pd.DataFrame, draws: int) -> list[pd.DataFrame]:
        """Fills gaps several times."""
        filled: list[pd.DataFrame] = self.model.impute(frame, draws=draws)
        return filled


class Rows(Generator):
    """Training rows themselves."""

    held = "no training"

    def fit(self, split: Split, seconds: float, seed: int) -> None:
        """Keeps the rows."""
        self._rows = split.train

    def sample(self, num: int, seed: int) -> pd.DataFrame:
        """Draws training rows, each at most once where there are enough."""
        order = numpy_generator("rows", seed).choice(
            len(self._rows), num, replace=num > len(self._rows)
        )
        return self._rows.iloc[order].reset_index(drop=True)


class Smote(Generator):
    """Interpolation between near rows."""

    held = "no training"
    neighbours = 5

    def fit(self, split: Split, seconds: float, seed: int) -> None:
        """Finds the nearest rows of each row, among those of its class where there are classes.

        Distances are Euclidean between standardised numbers and one-hot codes over √2, so that two
        rows that differ in one category are 1 apart in it.
        """
        from sklearn.neighbors import NearestNeighbors

        self._plain = Plain.of(split.train)
        self._rows = self._plain.write(split.train)
        codes = list(self._plain.counts)
        numbers = self._rows.drop(columns=codes)
        spread = numbers.std(ddof=0)
        standardised = (numbers - numbers.mean()) / spread.where(spread > 0, 1.0)
        hot = [np.eye(self._plain.counts[name])[self._rows[name]] / np.sqrt(2) for name in codes]
        points = np.concatenate([standardised.to_numpy(), *hot], axis=1)
        groups = np.zeros(len(points), int)
        if split.task == "classification":
            groups = self._rows[split.target].to_numpy()
        # A class of one row has no neighbour but itself.
        self._near: list[NDArray[np.int64]] = [np.array([row]) for row in range(len(points))]
        for group in np.unique(groups):
            (members,) = np.nonzero(groups == group)
            if len(members) > 1:
                search = NearestNeighbors(n_neighbors=min(self.neighbours, len(members) - 1))
                for row, near in zip(
                    members, search.fit(points[members]).kneighbors()[1], strict=True
                ):
                    self._near[row] = members[near]

    def sample(self, num: int, seed: int) -> pd.DataFrame:
        """Draws a row and one of its neighbours for each row, and a place between them."""
        rng = numpy_generator("smote", seed)
        first = rng.integers(len(self._rows), size=num)
        second = np.array([rng.choice(self._near[row]) for row in first])
        share = rng.random(num)
        made = {}
        for name, column in self._rows.items():
            one, other = column.to_numpy()[first], column.to_numpy()[second]
            if name in self._plain.counts:
                made[name] = np.where(rng.random(num) < share, other, one)
            else:
                made[name] = one + share * (other - one)
        return self._plain.read(pd.DataFrame(made))


class Copula(Generator):
    """A Gaussian copula with the marginal distributions that ``copulas`` selects.

    Beyond 1,000 rows it selects among parametric ones: to draw n rows from kernel densities of n
    rows takes time that grows with n².
    """

    held = "no iterations"
    most_rows = 1_000

    def fit(self, split: Split, seconds: float, seed: int) -> None:
        """Selects marginals and estimates correlations."""
        from copulas.multivariate import GaussianMultivariate
        from copulas.univariate import ParametricType, UniformUnivariate, Univariate

        rng = numpy_generator("copula", seed)
        self._plain = Plain.of(split.train)
        rows = self._plain.write(split.train)
        self._edges: dict[str, NDArray[np.float64]] = {}
        for name, count in self._plain.counts.items():
            codes = rows[name].to_numpy()
            shares = np.bincount(codes, minlength=count) / len(codes)
            edges = np.concatenate(([0.0], shares.cumsum()))
            rows[name] = edges[codes] + shares[codes] * rng.random(len(codes))
            self._edges[name] = edges
        few = len(rows) <= self.most_rows
        marginal = Univariate(parametric=None if few else ParametricType.PARAMETRIC)
        self._model: GaussianMultivariate = GaussianMultivariate(
            {name: UniformUnivariate if name in self._edges else marginal for name in rows},
            random_state=stream_seed("copula", seed) % 2**32,
        )
        self._model.fit(rows)

    def sample(self, num: int, seed: int) -> pd.DataFrame:
        """Draws correlated normal numbers and takes them to the marginals."""
        self._model.set_random_state(stream_seed("copula rows", seed) % 2**32)
        rows = self._model.sample(num)
        for name, edges in self._edges.items():
            rows[name] = np.searchsorted(edges[1:-1], rows[name], side="right")
        return self._plain.read(rows)


class Adversarial(Generator):
    """CTGAN or TVAE of ``ctgan``.

    Args:
        name: ``"CTGAN"`` or ``"TVAE"``.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def fit(self, split: Split, seconds: float, seed: int) -> None:
        """Trains for as many whole epochs as the time has, encoding included."""
        import ctgan
        import torch

        self._plain = Plain.of(split.train)
        rows = self._plain.write(split.train)
        self._model: CTGAN | TVAE = getattr(ctgan, self.name)(epochs=1_000_000, enable_gpu=False)
        torch.manual_seed(stream_seed(self.name, seed) % 2**32)
        self._model.set_random_state(stream_seed(self.name, seed) % 2**32)
        end = time.process_time() + seconds
        epochs = 0

        def until_the_end(numbers: range, **_: object) -> Iterator[int]:
            nonlocal epochs
            for number in numbers:
                if number and time.process_time() > end:
                    return
                epochs = number + 1
                yield number

        # The bar that both draw of their epochs is where they can be told the time.
        with mock.patch(f"ctgan.synthesizers.{self.name.lower()}.tqdm", until_the_end):
            self._model.fit(rows, list(self._plain.counts))
        self.held = f"{epochs:,} epochs (its default: 300)"

    def sample(self, num: int, seed: int) -> pd.DataFrame:
        """Draws rows with a seed of their own."""
        self._model.set_random_state(stream_seed(f"{self.name} rows", seed) % 2**32)
        return self._plain.read(self._model.sample(num).reset_index(drop=True))


class Forest(Generator):
    """Flow matching with boosted trees, of ``ForestDiffusion``.

    Args:
        in_full: Whether its defaults hold, however long they take.
    """

    efforts = (
        *((1, 5, 5), (1, 10, 10), (1, 10, 25), (1, 15, 50), (2, 20, 50), (3, 20, 100)),
        *((5, 30, 100), (10, 30, 100), (20, 50, 100), (50, 50, 100), (100, 50, 100)),
    )
    """Copies of a row, noise levels and trees, up to its defaults."""

    def __init__(self, in_full: bool = False) -> None:
        self.in_full = in_full

    def fit(self, split: Split, seconds: float, seed: int) -> None:
        """Fits trees for every noise level, and each class, as its authors advise.

        Held to a time, it is fitted with one of ``efforts`` after the other while these take less;
        the last that did is kept, and the first in any case.
        """
        self._plain = Plain.of(split.train)
        rows = self._plain.write(split.train)
        self._label = split.target if split.task == "classification" else None
        # Its columns of one category are those whose names have "1_" in them, as "11_0" has, too:
        # categories come first, and ten of them at most.
        counts = {k: v for k, v in self._plain.counts.items() if k != self._label}
        self._names = sorted(
            rows.drop(columns=[self._label] if self._label else []), key=lambda n: n not in counts
        )
        places = {name: place for place, name in enumerate(self._names)}
        several = [places[name] for name, count in counts.items() if count > 2]
        seeds = stream_seed("forest", seed) % 2**31

        def train(copies: int, levels: int, trees: int) -> ForestDiffusionModel:
            from ForestDiffusion import ForestDiffusionModel

            return ForestDiffusionModel(
                rows[self._names].to_numpy(np.float64),
                label_y=None if self._label is None else rows[self._label].to_numpy(),
                cat_indexes=several,
                bin_indexes=[places[name] for name, count in counts.items() if count == 2],
                int_indexes=[],
                duplicate_K=copies,
                n_t=levels,
                n_estimators=trees,
                n_jobs=1,
                nthread=1,
                seed=seeds,
            )

        for effort in self.efforts[-1:] if self.in_full else self.efforts:
            start = time.process_time()
            model = train(*effort)
            taken = time.process_time() - start
            if self.seconds is None or taken <= seconds:
                self._model, self.seconds = model, taken
                self.held = (
                    "{} copies of a row (its default: 100), {} levels (50), {} trees (100)".format(
                        *effort
                    )
                )
            # The next one is three times the work and takes at least half as long again.
            if 1.5 * taken > seconds:
                break

    def sample(self, num: int, seed: int) -> pd.DataFrame:
        """Integrates the flow from noise."""
        self.seconds = None
        # Its draws come from NumPy's global generator.
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(stream_seed("forest rows", seed) % 2**32)  # noqa: NPY002
        try:
            made = self._model.generate(num)
        finally:
            np.random.set_state(state)  # noqa: NPY002
        names = [*self._names, *([self._label] if self._label else [])]
        return self._plain.read(pd.DataFrame(made, columns=names))


class TabDdpm(Generator):
    """TabDDPM of ``synthcity``, in an environment of its own.

    ``SYNTHCITY_PYTHON`` in the environment is the interpreter there.
    """

    def fit(self, split: Split, seconds: float, seed: int) -> None:
        """Trains for as many epochs as the time has; its learning rate falls over all of them."""
        self._plain = Plain.of(split.train)
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        rows = Path(self._folder.name) / "rows.csv"
        self._plain.write(split.train).to_csv(rows, index=False)
        worker = Path(__file__).with_name("tabddpm_worker.py")
        self._worker = subprocess.Popen(
            [os.environ[SYNTHCITY], worker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._folder.name,  # where it keeps what it likes
            text=True,
        )
        weakref.finalize(self, _end, self._worker, self._folder)
        answer = self._ask(
            train=str(rows),
            target=split.target,
            classes=split.task == "classification",
            codes=list(self._plain.counts),
            seconds=seconds,
            seed=stream_seed("tabddpm", seed) % 2**31,
        )
        self.held = str(answer["held"])

    def sample(self, num: int, seed: int) -> pd.DataFrame:
        """Draws rows by all of its steps."""
        made = Path(self._folder.name) / "made.csv"
        self._ask(num=num, seed=stream_seed("tabddpm rows", seed) % 2**31, out=str(made))
        return self._plain.read(pd.read_csv(made))

    def _ask(self, **request: object) -> dict[str, object]:
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        line = ""
        with suppress(BrokenPipeError):
            self._worker.stdin.write(json.dumps(request) + "\n")
            self._worker.stdin.flush()
            line = self._worker.stdout.readline()
        if not line:
            raise KanDiffusionError(
                f"synthcity ended without an answer; see whether `{os.environ[SYNTHCITY]} -c "
                '"import synthcity.plugins"` works'
            )
        answer: dict[str, object] = json.loads(line)
        self.seconds = float(str(answer["seconds"]))
        return answer


def _end(worker: subprocess.Popen[str], folder: tempfile.TemporaryDirectory[str]) -> None:
    worker.kill()
    worker.communicate()
    folder.cleanup()


OURS = ("kan", "full-kan", "mlp")
"""Families of this project that are compared."""

REFERENCE = "rows"
SYNTHCITY = "SYNTHCITY_PYTHON"
UNTIMED = ("forest-diffusion-in-full",)
"""Methods that take as long as they take."""

GENERATORS: dict[str, Callable[[], Generator]] = {
    **{family: lambda family=family: Ours(family) for family in OURS},
    "smote": Smote,
    "copula": Copula,
    "tvae": lambda: Adversarial("TVAE"),
    "ctgan": lambda: Adversarial("CTGAN"),
    "forest-diffusion": Forest,
    "tabddpm": TabDdpm,
    UNTIMED[0]: lambda: Forest(in_full=True),
    REFERENCE: Rows,
}
"""Methods by name."""
