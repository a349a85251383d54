"""The models of this server as services: their names, their digests, and the tags of their inputs."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Iterator, Sequence
from typing import Protocol

from inference_server.imaging.workspace.services import tag_of
from inference_server.models.manifest import Manifest, version_key
from inference_server.models.parameter import Parameter
from inference_server.tasks.service import Served
from inference_server.tasks.tickets.record import Service, Tag

SHORT_LIMIT = 78
"""Clients show a short description on one line of a terminal."""


class Models(Protocol):
    """The model repository, as far as services need it."""

    def models(self) -> Sequence[Served]:
        """Return all models."""


def model_services(models: Models) -> tuple[Service, ...]:
    """Return the models that workspaces can be sent to, sorted by name, the highest version first.

    A workspace has images and landmarks: models without an image, and those that need a transform, are left out.
    """
    fitting = (served for served in models.models() if _takes_workspaces(served.manifest))
    newest_first = sorted(fitting, key=lambda served: version_key(served.manifest.version), reverse=True)
    by_name = sorted(newest_first, key=lambda served: served.manifest.id)
    return tuple(service_of(served) for served in by_name)


def service_of(served: Served) -> Service:
    """Return the service that a model is. Its digest names this state of its files, and no other."""
    manifest = served.manifest
    return Service(
        name=manifest.id,
        githash=githash_of(served),
        version=manifest.version,
        shortdesc=_short(manifest.title or manifest.description or manifest.id),
        longdesc=_long(manifest),
        keywords=_keywords(manifest),
        tags=tuple(_tags(manifest)),
        model=f"{manifest.id}:{manifest.version}",
    )


def githash_of(served: Served) -> str:
    """Return 40 hexadecimal digits that stand for a model, its version and the state of its files."""
    said = "\n".join((served.manifest.id, served.manifest.version, served.digest))
    return hashlib.sha256(said.encode()).hexdigest()[:40]


def _takes_workspaces(manifest: Manifest) -> bool:
    return bool(manifest.channels) and not any(transform.required for transform in manifest.transforms)


def _tags(manifest: Manifest) -> Iterator[Tag]:
    for number, channel in enumerate(manifest.channels):
        kind = "AnatomicImage" if number else "MainImage"
        hint = channel.description or channel.modality or ""
        yield Tag(tag_of(channel.name), kind, _one_line(hint), channel.required)
    for points in manifest.points:
        yield Tag(tag_of(points.name), "PointLandmark", _one_line(points.description), points.required)


def _short(text: str) -> str:
    return textwrap.shorten(text, SHORT_LIMIT, placeholder=" …")


def _long(manifest: Manifest) -> str:
    """Return the description, and how parameters are set, since clients have no fields for them."""
    parts = [manifest.description or manifest.title or manifest.id]
    if manifest.parameters:
        parts.append("Parameters, set by a tag NAME=VALUE of the main image:")
        parts += [_described(parameter) for parameter in manifest.parameters]
    return "\n".join(parts)


def _described(parameter: Parameter) -> str:
    allowed = f" of {', '.join(parameter.choices)}" if parameter.choices else ""
    default = "" if parameter.default is None else f", {parameter.default} if it is not given"
    described = f": {parameter.description}" if parameter.description else ""
    return f"{parameter.name} ({parameter.type}{allowed}{default}){described}"


def _keywords(manifest: Manifest) -> tuple[str, ...]:
    """Return what structures and images a user may look for."""
    modalities = [channel.modality for channel in manifest.channels if channel.modality]
    labels = [manifest.labels[value].name for value in sorted(manifest.labels)]
    return tuple(dict.fromkeys([*modalities, *labels, *manifest.classes]))


def _one_line(text: str) -> str:
    return " ".join(text.split())
