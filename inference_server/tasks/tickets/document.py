"""What a `service.json` says of an external service."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inference_server.errors import BadRequest
from inference_server.tasks.tickets.record import Service, Tag

SHORT = 78
GITHASH = re.compile(r"[0-9a-f]{40}")
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$"
_VERSION = r"^[0-9]{1,9}(\.[0-9]{1,9}){0,3}$"


class _Tag(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str = Field(min_length=1, max_length=100)
    type: Literal["MainImage", "AnatomicImage", "OverlayImage", "Segmentation", "PointLandmark"]
    hint: str = Field("", max_length=1000)
    required: bool = True


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern=_NAME)
    version: str = Field(pattern=_VERSION)
    shortdesc: str = Field(min_length=1, max_length=1000)
    longdesc: str = Field("", max_length=20_000)
    url: str = Field("", max_length=1000)
    citation: str = Field("", max_length=5000)
    keywords: tuple[str, ...] = Field((), max_length=50)
    tags: tuple[_Tag, ...] = Field((), max_length=50)


def decode_service(text: str | bytes, githash: str | None = None) -> Service:
    """Return the service that a document describes; what else it holds is passed over.

    Args:
        text: JSON.
        githash: 40 hexadecimal digits that stand for it; default: a digest of the document.

    Raises:
        BadRequest: the document or the hash is malformed; the sentence names the field.
    """
    said = _json(text)
    try:
        found = _Document.model_validate(said)
    except ValidationError as exc:
        raise BadRequest(_sentence(exc), field="service") from exc
    if githash is not None and not GITHASH.fullmatch(githash):
        raise BadRequest("A service's hash has 40 lower-case hexadecimal digits.", field="githash")
    values = {**found.model_dump(), "shortdesc": " ".join(found.shortdesc.split())[:SHORT]}
    tags = tuple(Tag(**tag) for tag in values.pop("tags"))
    return Service(**values, tags=tags, githash=githash or _digest(said))


def document_of(service: Service) -> dict[str, Any]:
    """Return the document of a service, as clients are told it."""
    values = asdict(service)
    del values["githash"], values["model"]
    return values


def service_from(document: Mapping[str, Any], githash: str) -> Service:
    """Return the service of a document that `document_of` gave."""
    tags = tuple(Tag(**tag) for tag in document["tags"])
    return Service(**{**document, "keywords": tuple(document["keywords"]), "tags": tags}, githash=githash)


def version_key(service: Service) -> tuple[int, ...]:
    """Return what versions are compared by: their numbers; words in them count as 0."""
    parts = service.version.split(".")
    return tuple(int(part) if part.isdecimal() else 0 for part in parts)


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequest("A service.json must be a JSON object with name, version and shortdesc.") from None


def _digest(said: Any) -> str:
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:40]


def _sentence(exc: ValidationError) -> str:
    first = exc.errors(include_input=False, include_url=False, include_context=False)[0]
    name = ".".join(str(part) for part in first["loc"]) or "the whole"
    return f"The service.json is not valid at '{name[:100]}': {first['msg'].rstrip('.')}."
