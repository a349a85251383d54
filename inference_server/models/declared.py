"""Base of all that `model.yaml` declares."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict


class Declared(BaseModel):
    """Base of everything declared: immutable, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


def known_keys() -> Iterator[str]:
    """Yield every key that any section may have."""
    sections = [Declared]
    while sections:
        section = sections.pop()
        sections.extend(section.__subclasses__())
        yield from (field.alias or name for name, field in section.model_fields.items())
