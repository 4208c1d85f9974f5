"""Sources: where samples come from, and the registry of the kinds that there are.

A source is what a study file holds under ``data``. The first key of it that `SOURCES` has says
which kind it is; the class stands there as ``"module:NAME"`` and is loaded when it is used, so that
tables and pictures cost nothing where there are none. A class names, in the same way, the *task*
of models of such data (:mod:`kan_diffusion.study.tasks`: how they are built, judged and drawn from)
and their *view* (:mod:`kan_diffusion.report.views`: how they come onto a page). Nothing else may
ask what kind of data there is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import BeforeValidator, SerializeAsAny, model_validator

from kan_diffusion.data.frames import ENDINGS, ending_of
from kan_diffusion.errors import DataError, KanDiffusionError, unknown_name, valid_settings
from kan_diffusion.imports import own_class
from kan_diffusion.settings import Settings

if TYPE_CHECKING:  # a file is read and described without torch, which takes seconds to import
    from kan_diffusion.data.datasets import Dataset
    from kan_diffusion.data.densities import Density
    from kan_diffusion.data.scaling import Standardizer

SOURCES = {
    "toy": "kan_diffusion.data.toys:ToyData",
    "table": "kan_diffusion.tables.sources:TableData",
    "pictures": "kan_diffusion.pictures.sources:PictureData",
    "path": "kan_diffusion.tables.sources:FileData",
}
"""Kinds of sources by their key, which holds what a user names; a name is asked in this order."""


class Source(Settings):
    """Where samples come from.

    Attributes:
        key: Its key in `SOURCES`, the field that holds what a user names.
        task: Place of the task of models of such data, ``"module:NAME"``.
        view: Place of their view.
        known: Names of such data that need no file.
        quick: Most points, and the like, that judge a model in a first look, by the settings of an
            evaluation.
    """

    key: ClassVar[str] = "path"
    task: ClassVar[str] = "kan_diffusion.study.tasks:Task"
    view: ClassVar[str] = "kan_diffusion.report.views:View"
    known: ClassVar[Collection[str]] = ()
    quick: ClassVar[Mapping[str, int]] = {
        "num_noised": 2_000,
        "num_samples": 100,
        "num_likelihood": 10,
        "num_real_pairs": 1,
    }

    @model_validator(mode="after")
    def _require_known_data(self) -> Self:
        if self.known and (given := getattr(self, self.key)) not in self.known:
            raise unknown_name(self.key, given, self.known)
        return self

    @classmethod
    def accepts(cls, name: str) -> bool:
        """Whether a user who writes ``name`` means such data."""
        return name in cls.known

    @classmethod
    def named(cls, name: str) -> type[Source]:
        """Returns the class of the data that a user calls ``name``: this one or one below it."""
        return cls

    @property
    def name(self) -> str:
        """Name of the data set in tables and figures."""
        return str(getattr(self, self.key))

    @property
    def density(self) -> Density | None:
        """The exact density in its own units; None where it is not known."""
        return None

    def load(self, study_seed: int = 0, trial_seed: int = 0) -> Dataset:
        """Loads the samples; arguments and errors are those of :func:`load_dataset`."""
        raise NotImplementedError

    def pinned(self) -> Self:
        """Returns a copy that knows the content of its files, if it has any.

        Raises:
            DataError: A file cannot be used.
        """
        return self

    def for_study(self) -> Self:
        """Returns a copy that holds out as much as suits a comparison."""
        return self

    def for_reading(self) -> Self:
        """Returns a copy of whose coordinates a formula can be read."""
        return self

    def identity(self) -> dict[str, object]:
        """The settings that decide the samples; a file counts by its name and content."""
        return self.model_dump(mode="json")

    def is_same(self, other: Source) -> bool:
        """Whether ``other`` names the data that a run with this source was trained on.

        Raises:
            DataError: A file cannot be read.
        """
        return type(other) is type(self) and other.name == self.name

    def require_recorded(self) -> None:
        """Checks that data which a run or a study in a folder names may be read for it.

        A folder may come from a stranger, who could have a page show any file of this machine: a
        file outside of the working folder is read only if the folder has its digest.

        Raises:
            DataError: The file lies outside, and its digest is not known.
        """

    def describe(self, seed: int = 0) -> str:
        """Says what is in the data; draws derive from the seed.

        Raises:
            DataError: A file cannot be used.
            KanDiffusionError: There is nothing to say.
        """
        raise KanDiffusionError(f"'{self.name}' is a toy, whose coordinates are all numbers")

    def for_points(
        self, columns: tuple[str, ...], standardizer: Standardizer, seed: int
    ) -> Dataset:
        """Loads samples to judge a model of points with that was trained on other data.

        Args:
            columns: Names of the model's coordinates.
            standardizer: Its units.
            seed: All draws derive from it.

        Raises:
            DataError: These are no points with as many coordinates.
        """
        raise DataError(
            f"'{self.name}' cannot judge a model of points; judge it with its own data or a toy"
        )


class PinnedSource(Source):
    """Data of a file or folder, whose content a run knows.

    Attributes:
        sha256: Digest of the content when the run was set up, see :meth:`pinned`; content that has
            changed since is refused.
    """

    sha256: str = ""

    @property
    def place(self) -> Path:
        """Absolute path of the file or folder."""
        return Path(getattr(self, self.key)).absolute()

    def content_digest(self) -> str:
        """Reads the content, if it has changed since it was last read, and returns its digest.

        Raises:
            DataError: It cannot be used.
        """
        raise NotImplementedError

    def require_same(self) -> None:
        """Refuses content that has changed since the run was set up.

        Raises:
            DataError: It has, or it cannot be used.
        """
        if self.sha256 not in ("", self.content_digest()):
            raise DataError(
                f"'{self.place}' has changed since this run was set up; put it back as it was or "
                "start a new run in another folder"
            )

    def pinned(self) -> Self:
        """Returns a copy with the digest and the absolute path; see :meth:`Source.pinned`."""
        sha256 = self.sha256 or self.content_digest()
        path = type(getattr(self, self.key))(self.place)
        return self.model_copy(update={"sha256": sha256, self.key: path})

    def identity(self) -> dict[str, object]:
        """As of any source; the content counts by its name and digest."""
        return {**super().identity(), self.key: self.name}

    def require_recorded(self) -> None:
        """Refuses a path outside of the working folder whose digest the run does not have."""
        outside = not self.place.resolve().is_relative_to(Path.cwd())
        if outside and not self.sha256 and self.place.exists():
            raise DataError(
                f"the run names '{self.place}' as its data, outside of the working folder, and has "
                "no digest of it; if it is to be read, give it as the data or work in a folder "
                "above it"
            )


def _kind(key: str) -> type[Source] | None:
    """Loads the class of a key of `SOURCES`; None where its wing was taken off the package."""
    try:
        return own_class(SOURCES[key], Source)
    except ModuleNotFoundError as missing:
        if SOURCES[key].startswith(f"{missing.name}."):
            return None
        raise


def _kinds(name: str = "") -> Iterator[tuple[str, type[Source]]]:
    """Loads the classes of `SOURCES` that there are, with their keys; of a file its class alone."""
    for key in ("path",) if ending_of(Path(name)) in ENDINGS else SOURCES:
        if (kind := _kind(key)) is not None:
            yield key, kind


def _validated(given: object) -> object:
    """Makes the source that settings describe, so that errors are about the keys of its kind."""
    if not isinstance(given, Mapping):
        return given
    key = next((key for key in SOURCES if key in given), None)
    if key is None:
        raise DataError(f"a data set has one of the keys {', '.join(SOURCES)}")
    if (kind := _kind(key)) is None:
        raise DataError(
            f"data of the key '{key}' need '{SOURCES[key].partition(':')[0]}', which this copy of "
            "the package lacks; install it whole"
        )
    return kind.named(str(given[key])).model_validate(given)


DataConfig = Annotated[SerializeAsAny[Source], BeforeValidator(_validated)]
"""A source in settings, validated as the kind that its key names."""


def known_data() -> list[str]:
    """Lists the names of all data sets that need no file."""
    return [name for _, kind in _kinds() for name in kind.known]


def data_from_name(name: str, *, pinned: bool = True, **settings: object) -> Source:
    """Makes a source of a name that a user wrote: of a toy, a table or pictures, or a path.

    Args:
        name: What the user wrote.
        pinned: Whether to read a file or folder in order to pin its content.
        **settings: Settings of the source; those that are None are left out.

    Raises:
        DataError: The file or folder cannot be used.
        KanDiffusionError: There are no such data, or they do not have one of the settings.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    for key, kind in _kinds(name):
        if kind.accepts(name):
            if unknown := [setting for setting in given if setting not in kind.model_fields]:
                raise KanDiffusionError(
                    f"'{name}' takes no {' and no '.join(unknown)}; leave "
                    f"{'them' if len(unknown) > 1 else 'it'} out"
                )
            with valid_settings("data"):
                source = kind.named(name).model_validate({key: name, **given})
            return source.pinned() if pinned else source
    kinds = "data set (neither toy, table, pictures nor file)"
    raise unknown_name(kinds, name, known_data())


def load_dataset(config: Source | str | Path, study_seed: int = 0, trial_seed: int = 0) -> Dataset:
    """Loads a data set.

    Args:
        config: Source of samples, or what :func:`data_from_name` makes one of.
        study_seed: All draws derive from it.
        trial_seed: Training samples that are drawn, and splits, also derive from it.

    Raises:
        DataError: The file or folder cannot be used, or has changed since the run was set up.
        KanDiffusionError: The name is unknown.
    """
    if isinstance(config, str | Path):
        config = data_from_name(str(config))
    return config.load(study_seed, trial_seed)
