"""What a service asks for, and whether what a user gives fits it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference_server.clients.native import ServerError
from inference_server.clients.tomaat.points import Point, points_text, read_points
from inference_server.clients.tomaat.words import plain_text
from inference_server.errors import BadRequest

TRANSFORM_ENDINGS = ("nii.gz", "h5", "mat")
_GIVEN_AS = {"volume": "volume", "fiducials": "points", "transform": "transform"}
_YES = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True)
class Element:
    """One input of a service.

    Attributes:
        type: `volume`, `slider`, `checkbox`, `radiobutton`, `fiducials` or `transform`.
        destination: name of the field that it is sent in.
        range: least and greatest value of a slider.
        text: what a user is shown.
        options: what a radio button chooses from.
        required: whether it has to be sent.
    """

    type: str
    destination: str
    range: tuple[float, float] | None = None
    text: str = ""
    options: tuple[str, ...] = ()
    required: bool = True

    @property
    def option(self) -> str:
        """How the command line takes it: `volume`, `points`, `transform` or `set`."""
        return _GIVEN_AS.get(self.type, "set")


@dataclass(frozen=True)
class Inputs:
    """What a user gives, each by its destination.

    Volumes and transforms are files, points files or triples in RAS millimetres, values numbers, flags or texts.
    """

    volumes: Mapping[str, Path] = field(default_factory=dict)
    values: Mapping[str, str | float | bool] = field(default_factory=dict)
    points: Mapping[str, Path | Sequence[Point]] = field(default_factory=dict)
    transforms: Mapping[str, Path] = field(default_factory=dict)

    def of(self, option: str) -> Mapping[str, Any]:
        """Return what was given in one of the command line's options."""
        given = {"volume": self.volumes, "points": self.points, "transform": self.transforms, "set": self.values}
        return given[option]


@dataclass(frozen=True)
class Fields:
    """What is sent, each by its destination: texts as they are, volumes and transforms as files."""

    texts: Mapping[str, str]
    volumes: Mapping[str, Path]
    transforms: Mapping[str, Path]


def parse_interface(document: Any) -> tuple[Element, ...]:
    """Return the inputs of a service.

    Raises:
        ServerError: the document is not the interface of a service.
    """
    try:
        return tuple(_element(entry) for entry in _listed(document))
    except (KeyError, TypeError, ValueError) as exc:
        raise ServerError("What the server describes is not the interface of a TOMAAT service.", status=200) from exc


def fields(interface: Sequence[Element], inputs: Inputs) -> Fields:
    """Return what is to be sent for what was given, checked; nothing is read of volumes and transforms but their names.

    Raises:
        BadRequest: something is missing, not asked for, or not allowed. `field` says which.
    """
    _refuse_what_is_not_asked_for(interface, inputs)
    found: dict[str, dict[str, Any]] = {"volume": {}, "transform": {}, "points": {}, "set": {}}
    for element in interface:
        given = inputs.of(element.option)
        if element.destination in given:
            found[element.option][element.destination] = _checked(element, given[element.destination])
        elif element.required:
            raise BadRequest(f"The service needs {described(element)}: {usage(element)}.", field=element.destination)
    return Fields({**found["set"], **found["points"]}, found["volume"], found["transform"])


def described(element: Element) -> str:
    """Return an input in words."""
    name = f"'{element.destination}'"
    match element.type:
        case "slider":
            return f"a number from {' to '.join(f'{end:g}' for end in element.range or ())} for {name}"
        case "checkbox":
            return f"True or False for {name}"
        case "radiobutton":
            return f"one of {', '.join(element.options)} for {name}"
        case "volume" | "transform":
            return f"a {element.type} for {name}"
        case "fiducials":
            return f"points for {name}"
    return f"an input of type '{element.type}', which this client does not know, for {name}"


def usage(element: Element) -> str:
    """Return how an input is given on the command line."""
    return f"--{element.option} {element.destination}={'VALUE' if element.option == 'set' else 'FILE'}"


def _listed(document: Any) -> list[Any]:
    if not isinstance(document, list):
        raise TypeError("a list was expected")
    return document


def _element(entry: Mapping[str, Any]) -> Element:
    return Element(
        type=plain_text(entry["type"]),
        destination=str(entry["destination"]),
        range=(float(entry["minimum"]), float(entry["maximum"])) if entry["type"] == "slider" else None,
        text=plain_text(entry.get("text", "")),
        options=tuple(str(option) for option in entry.get("options", ())),
        required=entry.get("required", True) is not False and entry.get("default") is None,
    )


def _refuse_what_is_not_asked_for(interface: Sequence[Element], inputs: Inputs) -> None:
    asked = {element.destination: element for element in interface}
    for option in ("volume", "set", "points", "transform"):
        for name in inputs.of(option):
            if name not in asked:
                raise BadRequest(
                    f"The service asks for no '{name}'; it asks for {', '.join(asked) or 'nothing'}.", field=name
                )
            if asked[name].option != option:
                raise BadRequest(f"The service takes {described(asked[name])}: {usage(asked[name])}.", field=name)


def _checked(element: Element, given: Any) -> Any:
    check = _CHECKS.get(element.type)
    try:
        if check is None:
            raise ValueError(f"'{given}'")
        return check(element, given)
    except ValueError as exc:
        raise BadRequest(f"The service takes {described(element)}, not {exc}.", field=element.destination) from exc


def _number(element: Element, given: Any) -> str:
    try:
        number = float(given)
    except ValueError:
        raise ValueError(f"'{given}'") from None
    least, greatest = element.range or (-math.inf, math.inf)
    if not least <= number <= greatest:
        raise ValueError(f"{given}")
    return repr(number)


def _flag(_: Element, given: Any) -> str:
    said = _YES.get(str(given).strip().lower())
    if said is None:
        raise ValueError(f"'{given}'")
    return str(said)


def _choice(element: Element, given: Any) -> str:
    if str(given) not in element.options:
        raise ValueError(f"'{given}'")
    return str(given)


def _points(_: Element, given: Path | Sequence[Point]) -> str:
    return points_text(read_points(given) if isinstance(given, Path) else given)


def _file(element: Element, given: Path) -> Path:
    if not given.is_file():
        raise BadRequest(f"The file given for '{element.destination}' is not there.", field=element.destination)
    return given


def _transform(element: Element, given: Path) -> Path:
    if not given.name.lower().endswith(tuple(f".{ending}" for ending in TRANSFORM_ENDINGS)):
        raise ValueError("a file of another type than .mat (linear), .h5 (B-spline) or .nii.gz (displacement field)")
    return _file(element, given)


_CHECKS: dict[str, Callable[[Element, Any], Any]] = {
    "volume": _file,
    "slider": _number,
    "checkbox": _flag,
    "radiobutton": _choice,
    "fiducials": _points,
    "transform": _transform,
}
