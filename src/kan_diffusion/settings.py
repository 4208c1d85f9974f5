"""Settings that people write: frozen, validated, and with errors that name the keys there are."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, model_validator

from kan_diffusion.errors import require_known

__all__ = ["Settings"]


class Settings(BaseModel):
    """Base of all configurations; refuses keys it does not know with the list of those it does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _require_known_keys(cls, given: object) -> object:
        if isinstance(given, Mapping):
            for key in given:
                require_known("key", str(key), cls.model_fields)
        return given
