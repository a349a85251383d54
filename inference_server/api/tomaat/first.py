"""The first generation of the dialect: one volume as JSON in, one label volume as JSON out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from inference_server.api.tomaat.base64_text import decode_volume, encode_base64
from inference_server.api.tomaat.elements import LABELS, Element, OpenMember, elements_of
from inference_server.api.tomaat.form import Sent
from inference_server.api.tomaat.interface import PARAMETERS, Interface, Kind
from inference_server.api.tomaat.json_object import read_members, read_text
from inference_server.api.upload import Upload, save
from inference_server.errors import BadRequest, PredictionError
from inference_server.models.manifest import Manifest

CONTENT = "content_mha"
TEXT_LIMIT_BYTES = 64 * 1024
FAILED = 1


def refuse_unfit(manifest: Manifest, interface: Interface) -> None:
    """Refuse a model that takes or gives more than clients of this generation can send or show.

    Raises:
        BadRequest: the sentence says what.
    """
    needed = [of for of in interface.of(Kind.VOLUME, Kind.FIDUCIALS, Kind.TRANSFORM) if of.required]
    if [of.kind for of in needed] != [Kind.VOLUME]:
        names = ", ".join(of.destination for of in needed) or "no volume"
        raise BadRequest(
            f"Clients of this generation send one volume; the model '{manifest.id}' needs: {names}. "
            "Use a newer client of TOMAAT."
        )
    if manifest.kind != "segmentation":
        raise BadRequest(f"Clients of this generation show labels; the model '{manifest.id}' gives none.")


def receive(pieces: Iterable[bytes], upload: Upload, interface: Interface) -> Sent:
    """Receive a message; of what it holds besides the volume, what the model declares counts.

    Raises:
        MalformedMessage: it is no JSON object, or the volume is not base64 text.
        BadRequest: the volume is missing.
        TooLarge: a text is longer than 64 KiB.
    """
    volume = interface.of(Kind.VOLUME)[0].destination
    wanted = {of.destination for of in interface.of(*PARAMETERS)}
    texts, files = {}, {}
    for name, value in read_members(pieces):
        if name == CONTENT and isinstance(value, Iterator):
            files[volume] = save(decode_volume(value), upload.stage())
        elif name in wanted:
            texts[name] = _text(value)
    if not files:
        raise BadRequest(f"The message has no '{CONTENT}': an MHA file as base64 text was expected.", field=CONTENT)
    return Sent(texts, files)


def only_labels(report: Mapping[str, Any]) -> Element:
    """Return the one label volume of a result.

    Raises:
        PredictionError: there are none, or several.
    """
    found = [element for element in elements_of(report) if element.type == LABELS]
    if len(found) != 1:
        raise PredictionError(
            f"The model gave {len(found)} label volumes; clients of this generation show one. Use a newer client."
        )
    return found[0]


def encode_result(labels: Element, opened: OpenMember, *, time_ms: int) -> Iterator[bytes]:
    """Yield the answer with a result's labels."""
    yield f'{{"{CONTENT}": "'.encode()
    yield from encode_base64(opened(labels))
    yield f'", "error": "", "status": 0, "time": {time_ms}}}'.encode()


def encode_failure(message: str) -> bytes:
    """Return the answer that says what went wrong."""
    return json.dumps({CONTENT: "", "error": message, "status": FAILED, "time": 0}).encode()


def _text(value: Iterator[bytes] | float | bool | None) -> str:
    if isinstance(value, Iterator):
        return read_text(value, limit_bytes=TEXT_LIMIT_BYTES)
    return "" if value is None else str(value)
