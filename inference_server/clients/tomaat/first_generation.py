"""Services of the first generation: JSON with one volume and a threshold in, JSON with labels out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from inference_server.clients.native import ServerError
from inference_server.clients.tomaat.connections import SLOW_S, Connections
from inference_server.clients.tomaat.images import open_as_mha
from inference_server.clients.tomaat.outputs import Output, write_outputs
from inference_server.clients.tomaat.progress import Sent, Show, counter
from inference_server.clients.tomaat.sending import MODULE_VERSION, base64_blocks, base64_length
from inference_server.clients.tomaat.words import plain_text
from inference_server.errors import BadRequest

_TAIL = b'"}'


@dataclass(frozen=True)
class SingleVolume:
    """What a service of the first generation takes."""

    volume: Path
    threshold: float = 0.5


def predict_single(
    connections: Connections, url: httpx.URL, given: SingleVolume, folder: Path, show: Show, timeout_s: float | None
) -> list[Output]:
    """Send a volume, wait, and write the labels that come into a folder that exists.

    Raises:
        BadRequest: the volume cannot be used.
        ServerError: the service refused or failed, cannot be reached, or is not trusted.
    """
    if not given.volume.is_file():
        raise BadRequest("The file given as the volume is not there.", field="volume")
    with open_as_mha(given.volume) as file:
        said = {"threshold": given.threshold, "module_version": MODULE_VERSION, "content_mha": ""}
        head, length = json.dumps(said).encode().removesuffix(_TAIL), base64_length(os.fstat(file.fileno()).st_size)
        body = _body(head, file, counter(length, show))
        size = len(head) + length + len(_TAIL)
        headers = {"Content-Type": "application/json", "Content-Length": str(size)}
        timeout = httpx.Timeout(SLOW_S, read=timeout_s)
        answer = connections.ask("POST", url, timeout, content=body, headers=headers)
    return write_outputs([_labels(answer)], folder, like=[given.volume])


def _body(head: bytes, file: BinaryIO, sent: Sent) -> Iterator[bytes]:
    yield head
    yield from base64_blocks(file, sent)
    yield _TAIL


def _labels(answer: Any) -> Mapping[str, Any]:
    """Return the reply as an element of the current generation."""
    if not isinstance(answer, dict) or "status" not in answer:
        raise ServerError("What the server answered is not the answer of a TOMAAT service.", status=200)
    if answer["status"] != 0:
        raise ServerError(plain_text(answer.get("error") or "The service failed."), status=200, problem_code="tomaat")
    return {"type": "LabelVolume", "label": "", "content": answer.get("content_mha", "")}
