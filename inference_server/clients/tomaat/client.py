"""Discover services, ask what they need, send it and fetch what they give."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from inference_server.clients.fingerprints import Trust
from inference_server.clients.native import ServerError, result_folder
from inference_server.clients.tomaat.connections import SLOW_S, Connections, parse_url
from inference_server.clients.tomaat.first_generation import SingleVolume, predict_single
from inference_server.clients.tomaat.images import open_as_mha
from inference_server.clients.tomaat.inputs import TRANSFORM_ENDINGS, Element, Fields, Inputs, fields, parse_interface
from inference_server.clients.tomaat.outputs import DELAYED, Output, parse_answer, write_outputs
from inference_server.clients.tomaat.progress import Progress, Show, counter, silent
from inference_server.clients.tomaat.sending import MODULE_VERSION, Base64Lines, lines_length
from inference_server.clients.tomaat.services import Endpoints, Service, discovery_url, endpoints, parse_services

POLL_S = 1.0
MISSES = 30
"""So many polls in a row may go unanswered before a server counts as lost."""


class TomaatClient:
    """Talks to any number of services. Use it as a context manager, or `close` it.

    Args:
        trust: which certificates are good; by default those of authorities and those that were trusted before.
    """

    def __init__(self, trust: Trust | None = None) -> None:
        self._connections = Connections(trust or Trust())

    def __enter__(self) -> TomaatClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def discover(self, url: str) -> list[Service]:
        """Return the services that an announcement service of either generation knows.

        Raises:
            ServerError: it cannot be reached, is not trusted, or is none.
        """
        return parse_services(self._connections.ask("GET", discovery_url(url)))

    def interface(self, service: Service | str) -> tuple[Element, ...]:
        """Return what a service asks for; `service` was discovered, or is its URL.

        Raises:
            ServerError: it cannot be reached, is not trusted, or is none.
        """
        return self._interface(endpoints(service))

    def predict(
        self,
        service: Service | str,
        inputs: Inputs,
        folder: Path,
        *,
        timeout_s: float | None = None,
        on_progress: Show | None = None,
    ) -> list[Output]:
        """Send inputs to a service of the current generation, wait, and write what it gives into a folder.

        Volumes are streamed from disk; nothing of a patient but voxels and geometry is sent of them. Labels on the grid
        of a NIfTI image that was sent become NIfTI files with its geometry, byte for byte.

        Args:
            service: discovered, or its URL.
            inputs: what it asks for (`interface`).
            folder: made if need be.
            timeout_s: how long to wait for the result once all is sent; for ever if None.
            on_progress: called now and then.

        Raises:
            BadRequest: the inputs are not what the service asks for, or a file cannot be used.
            ServerError: the service refused or failed, cannot be reached, or is not trusted.
        """
        parts, target = endpoints(service), result_folder(folder)
        given = fields(self._interface(parts), inputs)
        show = on_progress or silent
        elements = self._sent(parts, given, show, timeout_s)
        end = time.monotonic() + (math.inf if timeout_s is None else timeout_s)
        return write_outputs(self._awaited(parts, elements, end, show), target, like=tuple(given.volumes.values()))

    def predict_first_generation(
        self,
        url: str,
        volume: Path,
        folder: Path,
        *,
        threshold: float = 0.5,
        timeout_s: float | None = None,
        on_progress: Show | None = None,
    ) -> list[Output]:
        """Do the same with a service of the first generation, which takes one volume and a threshold at `url` itself.

        Raises:
            BadRequest: the volume cannot be used.
            ServerError: the service refused or failed, cannot be reached, or is not trusted.
        """
        given, show = SingleVolume(volume, threshold), on_progress or silent
        return predict_single(self._connections, parse_url(url), given, result_folder(folder), show, timeout_s)

    def _interface(self, parts: Endpoints) -> tuple[Element, ...]:
        return parse_interface(self._connections.ask("GET", parts.interface))

    def _sent(self, parts: Endpoints, given: Fields, show: Show, timeout_s: float | None) -> list[Mapping[str, Any]]:
        with ExitStack() as stack:
            files = {name: (stack.enter_context(file), prefix) for name, file, prefix in _files(given)}
            count = counter(sum(lines_length(os.fstat(file.fileno()).st_size) for file, _ in files.values()), show)
            streams = {
                name: (None, Base64Lines(file, prefix=prefix, sent=count)) for name, (file, prefix) in files.items()
            }
            texts = {**given.texts, "module_version": MODULE_VERSION}
            timeout = httpx.Timeout(SLOW_S, read=timeout_s)
            return parse_answer(self._connections.ask("POST", parts.prediction, timeout, data=texts, files=streams))

    def _awaited(
        self, parts: Endpoints, elements: Sequence[Mapping[str, Any]], end: float, show: Show
    ) -> list[Mapping[str, Any]]:
        found, left = [], list(elements)
        while left:
            element = left.pop(0)
            if element["type"] == DELAYED:
                show(Progress("computing"))
                left[:0] = self._response(parts, str(element.get("request_id")), end)
            else:
                found.append(element)
        return found

    def _response(self, parts: Endpoints, request_id: str, end: float) -> list[Mapping[str, Any]]:
        """Ask for a delayed result after a second; a server that is away for a while is asked again."""
        for left in reversed(range(MISSES)):
            if time.monotonic() > end:
                raise ServerError("The service did not finish in the time given.", problem_code="timed_out")
            time.sleep(POLL_S)
            try:
                return parse_answer(self._connections.ask("POST", parts.responses, data={"request_id": request_id}))
            except ServerError as error:
                if not left or not _passing(error):
                    raise
        return []


def _passing(error: ServerError) -> bool:
    return error.problem_code == "unreachable" or error.http_status in (502, 503, 504)


def _files(given: Fields) -> Iterator[tuple[str, BinaryIO, bytes]]:
    """Yield what is sent as base64: the destination, an open file, and what comes before it."""
    for name, volume in given.volumes.items():
        yield name, open_as_mha(volume), b""
    for name, transform in given.transforms.items():
        ending = next(ending for ending in TRANSFORM_ENDINGS if transform.name.lower().endswith(f".{ending}"))
        yield name, transform.open("rb"), f"{ending}\n".encode()
