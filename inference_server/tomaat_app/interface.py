"""What goes into an app and what comes out: the elements of its two interfaces, checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from inference_server.errors import SettingsError

RESERVED = ("module_version", "request_id")
"""Fields of a client's form that are no input."""


class _Element(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class _Input(_Element):
    """`destination` is the field of the client's form and of the dictionary that the app gets."""

    destination: str = Field(min_length=1)

    @field_validator("destination")
    @classmethod
    def _is_free(cls, destination: str) -> str:
        if destination in RESERVED:
            raise ValueError(f"'{destination}' is a field of the protocol itself; another name was expected")
        return destination


class VolumeInput(_Input):
    """An image."""

    type: Literal["volume"]


class SliderInput(_Input):
    """A number from `minimum` to `maximum`."""

    type: Literal["slider"]
    minimum: float = Field(allow_inf_nan=False)
    maximum: float = Field(allow_inf_nan=False)
    text: str = ""

    @model_validator(mode="after")
    def _is_a_range(self) -> SliderInput:
        if self.minimum > self.maximum:
            raise ValueError("`minimum` is above `maximum`")
        return self


class CheckboxInput(_Input):
    """A choice of yes and no."""

    type: Literal["checkbox"]
    text: str


class RadioButtonInput(_Input):
    """One of several options."""

    type: Literal["radiobutton"]
    text: str
    options: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)


class FiducialsInput(_Input):
    """A list of points."""

    type: Literal["fiducials"]


class TransformInput(_Input):
    """A transform."""

    type: Literal["transform"]


class Output(_Element):
    """`field` is the one of the app's answer, `label` what the client calls it."""

    type: Literal[
        "LabelVolume", "VTKMesh", "PlainText", "Fiducials", "TransformGrid", "TransformBSpline", "TransformLinear"
    ]
    field: str = Field(min_length=1)
    label: str | None = None

    @property
    def name(self) -> str:
        """What the client calls it."""
        return self.label or self.field

    @property
    def kind(self) -> str:
        """Its type; transforms of all types are of one kind."""
        return "Transform" if self.type.startswith("Transform") else self.type


Input = VolumeInput | SliderInput | CheckboxInput | RadioButtonInput | FiducialsInput | TransformInput
_INPUTS: TypeAdapter[tuple[Input, ...]] = TypeAdapter(
    Annotated[tuple[Annotated[Input, Field(discriminator="type")], ...], Field(min_length=1)]
)
_OUTPUTS: TypeAdapter[tuple[Output, ...]] = TypeAdapter(Annotated[tuple[Output, ...], Field(min_length=1)])
Found = TypeVar("Found")


def check_inputs(elements: Sequence[Mapping[str, Any]]) -> tuple[Input, ...]:
    """Return the elements of an input interface.

    Raises:
        SettingsError: one of them is not what it should be; the message says which.
    """
    inputs = _checked(_INPUTS, elements, "input interface")
    if twice := _twice(element.destination for element in inputs):
        raise SettingsError(f"The input interface has two elements with the destination '{twice}'.")
    return inputs


def check_outputs(elements: Sequence[Mapping[str, Any]], inputs: Sequence[Input]) -> tuple[Output, ...]:
    """Return the elements of an output interface.

    Raises:
        SettingsError: one of them is not what it should be, or does not go with the inputs.
    """
    outputs = _checked(_OUTPUTS, elements, "output interface")
    if twice := _twice((element.kind, element.name) for element in outputs):
        raise SettingsError(f"The output interface has two elements of one type that are called '{twice[1]}'.")
    labels = any(element.type == "LabelVolume" for element in outputs)
    if labels and not any(isinstance(element, VolumeInput) for element in inputs):
        raise SettingsError("A LabelVolume lies on the grid of a volume; the input interface has none.")
    return outputs


def _twice(names: Iterable[Found]) -> Found | None:
    seen: set[Found] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _checked(adapter: TypeAdapter[Found], elements: object, name: str) -> Found:
    try:
        plain = json.loads(json.dumps(elements))
    except (TypeError, ValueError) as exc:
        raise SettingsError(f"The {name} is a list of dictionaries that JSON can hold: {exc}.") from exc
    try:
        return adapter.validate_python(plain)
    except ValidationError as exc:
        raise SettingsError(f"The {name} is not valid: {_sentence(exc, plain)}.") from exc


def _sentence(error: ValidationError, elements: object) -> str:
    return "; ".join(_fault(fault, elements) for fault in error.errors(include_url=False))


def _fault(fault: Any, elements: object) -> str:
    if not isinstance(elements, list) or not fault["loc"]:
        return "a list with at least one element was expected"
    number, *inner = fault["loc"]
    keys = [str(part) for part in inner if part not in _TYPES]
    words = "this key is missing" if fault["type"] == "missing" else str(fault["msg"]).removeprefix("Value error, ")
    return ": ".join([f"element {number + 1}", *([".".join(keys)] if keys else []), words[:1].lower() + words[1:]])


_TYPES = ("volume", "slider", "checkbox", "radiobutton", "fiducials", "transform")
