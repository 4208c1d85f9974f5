"""Settings that users write: frozen, validated, and with errors that list the known keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from kan_diffusion.errors import KanDiffusionError, look_up, require_known
from kan_diffusion.limits import LONGEST_NAME, MOST_POINTS


def require_name(name: str) -> str:
    """Checks that a name can be the name of a folder and fits on a line.

    Raises:
        KanDiffusionError: It has path separators, two dots in a row or unprintable characters, is
            a dot, or is longer than 100 characters or 200 bytes.
    """
    if not name.isprintable() or ".." in name or set(name) & set("/\\") or name == ".":
        raise KanDiffusionError(
            "a name has no '/', '\\', '..' or characters that are not seen; choose another"
        )
    if len(name) > LONGEST_NAME or len(name.encode()) > 2 * LONGEST_NAME:
        raise KanDiffusionError(
            f"a name has at most {LONGEST_NAME} characters and {2 * LONGEST_NAME} bytes, not "
            f"{len(name):,} and {len(name.encode()):,}; shorten it"
        )
    return name


def _require_folder_name(name: str) -> str:
    """Checks that a name names the same folder wherever it is copied.

    Raises:
        KanDiffusionError: It has a colon, or a dot or a space at an end.
    """
    if ":" in name or name != name.strip().rstrip("."):
        raise KanDiffusionError(
            "the name of a folder has no ':' and no dot or space at its end; choose another"
        )
    return name


Name = Annotated[str, AfterValidator(require_name)]
"""A name of a study, model or process, which fits on a line."""

FolderName = Annotated[Name, AfterValidator(_require_folder_name)]
"""A name that becomes that of a folder."""


def _require_two(number: int) -> int:
    if number == 1:
        raise KanDiffusionError("one sample cannot be judged; draw 2 or more, or 0 for none")
    return number


SampleSize = Annotated[int, Field(ge=0, le=MOST_POINTS), AfterValidator(_require_two)]
"""Number of samples that are drawn to be judged, 0 for none."""


class Settings(BaseModel):
    """Base of all configurations; refuses unknown keys, with a list of the known ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _require_known_keys(cls, given: object) -> object:
        if isinstance(given, Mapping):
            for key in given:
                require_known("key", str(key), cls.model_fields)
        return given


def of_kind(what: str, kinds: Mapping[str, type[Settings]]) -> BeforeValidator:
    """Reads settings as the class that their ``kind`` names, which errors call ``what``."""

    def read(content: object) -> object:
        if isinstance(content, Mapping):
            return look_up(what, str(content.get("kind")), kinds).model_validate(content)
        return content

    return BeforeValidator(read)
