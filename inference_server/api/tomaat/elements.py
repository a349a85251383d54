"""What a TOMAAT service answers: a JSON list of elements, encoded piece by piece."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from inference_server.api.tomaat.base64_text import encode_base64
from inference_server.api.tomaat.places import encode_points
from inference_server.errors import PredictionError

LABELS, MESH = "LabelVolume", "VTKMesh"
TEXT, FIDUCIALS = "PlainText", "Fiducials"
TRANSFORMS = {".mat": "TransformLinear", ".h5": "TransformBSpline", ".nii.gz": "TransformGrid"}
ERROR = "Error!"
"""The label of an error; fielded clients show it as a window's title."""

_LABEL_LENGTH = 60


@dataclass(frozen=True)
class Element:
    """An element of an answer.

    Attributes:
        type: as on the wire.
        label: what a client calls it; of a file it is the beginning of the file's name.
        text: its content, where it has no member.
        member: name of the file in the result that is its content.
    """

    type: str
    label: str
    text: str = ""
    member: str = ""


OpenMember = Callable[[Element], Iterator[bytes]]
"""Gives the bytes of the file that is an element's content; nothing, now and then, while it is being made."""


def encode_answer(elements: Iterable[Element], opened: OpenMember) -> Iterator[bytes]:
    """Yield the JSON list of an answer. The first piece comes at once, before any file is looked at."""
    yield b"["
    for number, element in enumerate(elements):
        yield (b", " if number else b"") + f'{{"type": {json.dumps(element.type)}, "content": '.encode()
        yield from _content(element, opened)
        yield f', "label": {json.dumps(element.label)}}}'.encode()
    yield b"]"


def encode_delay(uid: str) -> bytes:
    """Return the answer that tells a client to ask for the result later."""
    return json.dumps([{"type": "DelayedResponse", "request_id": uid}]).encode()


def encode_error(message: str) -> bytes:
    """Return the answer that tells a client what went wrong."""
    return json.dumps([{"type": TEXT, "content": message, "label": ERROR}]).encode()


def elements_of(report: Mapping[str, Any]) -> tuple[Element, ...]:
    """Return all that a finished task's report names: files first, since clients show a text until it is put away."""
    files = [_file(entry) for entry in report.get("contents", ())]
    order = (LABELS, MESH, *TRANSFORMS.values())
    return (*sorted(files, key=lambda file: order.index(file.type)), *_points(report), *_texts(report)) or (
        Element(TEXT, "Result", "The model found nothing to show."),
    )


def declared_elements(report: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]) -> tuple[Element, ...]:
    """Return one element for each output that a TOMAAT app declares, in its order.

    Raises:
        PredictionError: the result lacks one.
    """
    found = {(element.type, name): element for name, element in _named(report)}
    return tuple(_declared(found, output) for output in outputs)


def safe_label(name: str) -> str:
    """Return a name as one that a file may have on every system."""
    return re.sub(r"[^\w .+-]+", "_", name, flags=re.ASCII).strip(" .")[:_LABEL_LENGTH] or "result"


def _declared(found: Mapping[tuple[str, str], Element], output: Mapping[str, Any]) -> Element:
    kind, name = output["type"], output.get("label") or output["field"]
    if (element := found.get((kind, name))) is None:
        raise PredictionError(f"The app did not give its output '{name[:50]}' ({kind}).")
    return element


def _named(report: Mapping[str, Any]) -> Iterator[tuple[str, Element]]:
    for entry in report.get("contents", ()):
        yield entry["name"], _file(entry)
    for name, points in report.get("points", {}).items():
        yield name, Element(FIDUCIALS, name, encode_points(points))
    for name, text in report.get("texts", {}).items():
        yield name, Element(TEXT, name, text)


def _file(entry: Mapping[str, str]) -> Element:
    member = entry["member"]
    match entry["kind"]:
        case "labels":
            kind = LABELS
        case "mesh":
            kind = MESH
        case _:
            kind = next(kind for ending, kind in TRANSFORMS.items() if member.endswith(ending))
    return Element(kind, safe_label(entry.get("label") or entry["name"]), member=member)


def _points(report: Mapping[str, Any]) -> Iterator[Element]:
    for name, points in report.get("points", {}).items():
        if points:  # the fielded client cannot read a list of none
            yield Element(FIDUCIALS, name, encode_points(points))


def _texts(report: Mapping[str, Any]) -> Iterator[Element]:
    for name, text in report.get("texts", {}).items():
        yield Element(TEXT, name, text)
    if classes := report.get("classifications"):
        yield Element(TEXT, "Classification", _lines((name, f"{part:.1%}") for name, part in classes.items()))
    for name, volumes in report.get("volumes_cc", {}).items():
        yield Element(TEXT, f"Volumes: {name}", _lines((label, f"{size:.2f} ml") for label, size in volumes.items()))
    if notes := report.get("notes"):
        yield Element(TEXT, "Notes", "\n".join(notes))


def _lines(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in rows)


def _content(element: Element, opened: OpenMember) -> Iterator[bytes]:
    if not element.member:
        yield json.dumps(element.text).encode()
        return
    pieces = opened(element)
    first = b""
    for first in pieces:
        if first:
            break
        yield b" "  # means nothing in JSON, and keeps a client from giving up
    yield b'"'
    yield from encode_base64(chain((first,), pieces))
    yield b'"'
