"""What a model takes, as a TOMAAT interface: the elements that a client shows, and the fields that it then sends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from inference_server.models.manifest import Manifest
from inference_server.models.parameter import Parameter

OWN_FIELD = "module_version"
"""What every client sends besides."""
OPTIONS = "tomaat"
"""The options of a manifest that was written for a TOMAAT app: `inputs` and `outputs` are its own interface."""
_SPANS = {"number": 1.0, "integer": 100}
"""How far a slider reaches where the manifest says nothing of the range."""


class Kind(StrEnum):
    """What a field of the form holds."""

    VOLUME = "volume"
    SLIDER = "slider"
    CHECKBOX = "checkbox"
    RADIOBUTTON = "radiobutton"
    FIDUCIALS = "fiducials"
    TRANSFORM = "transform"


PARAMETERS = (Kind.SLIDER, Kind.CHECKBOX, Kind.RADIOBUTTON)


@dataclass(frozen=True)
class Field:
    """A field of the form.

    Attributes:
        destination: its name in the form.
        kind: what it holds.
        name: of the channel, parameter, points or transform that gets it.
        required: whether a client must send it.
        switch: name of the checkbox that lets it in, where there is one.
    """

    destination: str
    kind: Kind
    name: str
    required: bool = True
    switch: str = ""


@dataclass(frozen=True)
class Interface:
    """What a client shows and sends. `elements` are the JSON of `/interface`."""

    elements: tuple[Mapping[str, Any], ...]
    fields: tuple[Field, ...]

    def of(self, *kinds: Kind) -> tuple[Field, ...]:
        """Return the fields of some kinds, in the order of the manifest."""
        return tuple(field for field in self.fields if field.kind in kinds)

    @property
    def switches(self) -> frozenset[str]:
        """The names of the checkboxes that let optional fields in."""
        return frozenset(field.switch for field in self.fields if field.switch)


def interface_of(manifest: Manifest) -> Interface:
    """Return a model's interface: as its app declares it, else derived from the manifest.

    Parameters that are free texts have no element, and keep their defaults. Optional images, points and transforms get
    a checkbox each, since the fielded client cannot leave a field out.
    """
    declared = own_interface(manifest)
    if declared is not None:
        return Interface(tuple(declared), tuple(_declared_field(element) for element in declared))
    draft = _Draft()
    for channel in manifest.channels:
        draft.add(Kind.VOLUME, channel.name, required=channel.required)
    for points in manifest.points:
        draft.add(Kind.FIDUCIALS, points.name, required=points.required)
    for transform in manifest.transforms:
        draft.add(Kind.TRANSFORM, transform.name, required=transform.required)
    for parameter in manifest.parameters:
        draft.add_parameter(parameter)
    return Interface(tuple(draft.elements), tuple(draft.fields))


def own_interface(manifest: Manifest, side: str = "inputs") -> Sequence[Mapping[str, Any]] | None:
    """Return the `inputs` or `outputs` that a TOMAAT app declares, or None where the model is no such app."""
    options = manifest.options.get(OPTIONS)
    declared = options.get(side) if isinstance(options, Mapping) else None
    return declared if isinstance(declared, Sequence) else None


class _Draft:
    """An interface while it is made: no two fields get the same name."""

    def __init__(self) -> None:
        self.elements: list[Mapping[str, Any]] = []
        self.fields: list[Field] = []
        self._taken = {OWN_FIELD}

    def add(self, kind: Kind, name: str, *, required: bool = True, **more: Any) -> None:
        destination = self._unused(name)
        switch = "" if required else self._switch(destination)
        more = more if required else {**more, "required": False}
        self.elements.append({"type": kind.value, "destination": destination, **more})
        self.fields.append(Field(destination, kind, name, required, switch))

    def add_parameter(self, parameter: Parameter) -> None:
        text = parameter.description or parameter.name
        more: dict[str, Any] = {} if parameter.default is None else {"default": parameter.default}
        match parameter.type:
            case "number" | "integer":
                low, high = slider_range(parameter)
                self.add(Kind.SLIDER, parameter.name, minimum=low, maximum=high, **more)
            case "flag":
                self.add(Kind.CHECKBOX, parameter.name, text=text, **more)
            case "choice":
                self.add(Kind.RADIOBUTTON, parameter.name, text=text, options=list(parameter.choices), **more)

    def _switch(self, destination: str) -> str:
        name = self._unused(f"use_{destination}")
        element = {"type": Kind.CHECKBOX.value, "destination": name, "text": f"Send {destination}", "required": False}
        self.elements.append(element)
        return name

    def _unused(self, name: str) -> str:
        found, number = name, 2
        while found in self._taken:
            found, number = f"{name}_{number}", number + 1
        self._taken.add(found)
        return found


def slider_range(parameter: Parameter) -> tuple[float, float]:
    """Return between which numbers a slider moves.

    An end that the manifest does not declare is zero or twice the default, whichever is further out: the fielded client
    begins at half the slider's length, which is a positive default where neither end is declared.
    """
    span = _SPANS[parameter.type]
    middle = _default(parameter)
    low = min(0, 2 * middle) if parameter.minimum is None else parameter.minimum
    high = max(0, 2 * middle) if parameter.maximum is None else parameter.maximum
    if low >= high and parameter.maximum is None:
        high = low + span
    elif low >= high and parameter.minimum is None:
        low = high - span
    if parameter.type == "integer":
        return math.ceil(low), math.floor(high)
    return float(low), float(high)


def as_sent(parameter: Parameter, text: str) -> str | int:
    """Return a parameter's value as a client sends it; sliders know no whole numbers, so those are rounded."""
    if parameter.type != "integer":
        return text
    try:
        return math.floor(float(text) + 0.5)
    except (ValueError, OverflowError):
        return text


def _default(parameter: Parameter) -> float:
    if isinstance(parameter.default, int | float):
        return parameter.default
    if parameter.minimum is not None and parameter.minimum > 0:
        return parameter.minimum
    return min(0.0, parameter.maximum) if parameter.maximum is not None else 0.0


def _declared_field(element: Mapping[str, Any]) -> Field:
    return Field(element["destination"], Kind(element["type"]), element["destination"])
