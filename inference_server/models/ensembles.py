"""Ensembles, as far as their manifests go: what the members declare, and whether it fits together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inference_server.errors import ModelLoadError
from inference_server.models.manifest import ENSEMBLE, Manifest
from inference_server.models.parameter import Parameter

_TAKEN_OVER = ("kind", "classes", "channels", "labels", "restore", "threshold", "dimensions")
"""What an ensemble has from its first member, unless its own manifest says it."""


def resolve(manifest: Manifest, members: Sequence[Manifest]) -> Manifest:
    """Return an ensemble's manifest with what follows from its members, which are named with their versions.

    Raises:
        ModelLoadError: a member does not go with the others; the message says why.
    """
    taken = {name: getattr(members[0], name) for name in _TAKEN_OVER if name not in manifest.model_fields_set}
    parameters = manifest.parameters or _parameters(members)
    pinned = tuple(f"{member.id}:{member.version}" for member in members)
    whole = manifest.model_copy(update={**taken, "parameters": parameters, "members": pinned})
    for member in members:
        if difference := _difference(whole, member):
            raise ModelLoadError(f"The member '{member.id}' does not fit the ensemble: {difference}.")
    return whole


def averages_scores(manifest: Manifest) -> bool:
    """Whether an ensemble takes the mean of probabilities voxel by voxel."""
    return manifest.combine == "mean" and manifest.kind == "segmentation"


def _difference(whole: Manifest, member: Manifest) -> str | None:
    """Return in what a member is unlike the ensemble, in words."""
    if member.runtime == ENSEMBLE:
        return "it is an ensemble itself"
    if member.points or member.transforms or not member.same_grid:
        return "it takes points, transforms or images of several grids, which an ensemble cannot give it"
    for words, said in _FACTS.items():
        if said(whole) != said(member):
            return f"{words} {_shown(said(member))}; {_shown(said(whole))} was expected"
    if averages_scores(whole) and (member.runtime == "python-app" or member.restore == "labels"):
        return "it gives labels and no probabilities, of which `combine: majority` can be taken"
    if averages_scores(whole) and member.restore != whole.restore:
        return f"it decides by {member.restore}, others by {whole.restore}"
    return None


def _parameters(members: Sequence[Manifest]) -> tuple[Parameter, ...]:
    """Return the parameters of all members; those of one name are one."""
    named: dict[str, Parameter] = {}
    for member in members:
        for parameter in member.parameters:
            if named.setdefault(parameter.name, parameter) != parameter:
                raise ModelLoadError(
                    f"The member '{member.id}' does not fit the ensemble: it declares the parameter "
                    f"'{parameter.name}' otherwise than another member."
                )
    return tuple(named.values())


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


_FACTS: Mapping[str, Any] = {
    "its kind is": lambda manifest: manifest.kind,
    "its dimensions are": lambda manifest: manifest.dimensions,
    "its channels are": lambda manifest: tuple(
        channel.name + ("" if channel.required else " (optional)") for channel in manifest.channels
    ),
    "its classes are": lambda manifest: manifest.classes,
    "its labels are": lambda manifest: tuple(
        f"{value} {manifest.labels[value].name}" for value in sorted(manifest.labels)
    ),
}
