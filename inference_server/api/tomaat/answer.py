"""What a client is told of a task: to ask again, what went wrong, or its result, streamed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from flask import Response

from inference_server.api.context import Context
from inference_server.api.tomaat.elements import (
    LABELS,
    Element,
    declared_elements,
    elements_of,
    encode_answer,
    encode_delay,
)
from inference_server.api.tomaat.interface import own_interface
from inference_server.errors import StoreUnavailable, UnknownModel
from inference_server.imaging.mha import nifti_to_mha
from inference_server.imaging.volume import Geometry
from inference_server.tasks.caller import Caller
from inference_server.tasks.record import Task
from inference_server.tasks.results import ResultFile

STEP_BYTES = 96 * 1024
SIGN_OF_LIFE_S = 1.0
"""Longest silence of an answer that is being made."""
RECORDS_WAIT_S = 2.0
"""How long a client that polls waits for the records; it gives up after 5 s, and is better told to ask again."""
JSON = "application/json"


def answer(here: Context, task: Task, caller: Caller) -> Response:
    """Return the answer to a client that waits for a task. While the records are away it is to ask again.

    Raises:
        InferenceServerError: the task ended without a result; the sentence says why.
    """
    if not task.status.ended:
        return json_response(encode_delay(task.uid))
    try:
        return _result(here, task, caller)
    except StoreUnavailable:  # who is told of an error does not ask again
        return json_response(encode_delay(task.uid))


def _result(here: Context, task: Task, caller: Caller) -> Response:
    result = here.tasks.result(task.uid, caller, wait_s=RECORDS_WAIT_S)
    elements = _elements(here, result.task)
    return streamed(result, lambda opened: encode_answer(elements, opened))


def json_response(body: bytes) -> Response:
    """Return an answer that is JSON."""
    return Response(body, content_type=JSON)


def streamed(result: ResultFile, encode: Callable[[Callable[[Element], Iterator[bytes]]], Iterator[bytes]]) -> Response:
    """Return an answer made of a result while it is sent.

    Args:
        result: it is opened at once, so that it stays readable.
        encode: yields the answer's bytes, given what opens an element's file.

    Raises:
        ResultGone: its bytes have been removed.
    """
    with ExitStack() as on_error:
        archive = on_error.enter_context(zipfile.ZipFile(on_error.enter_context(result.open())))
        close = on_error.pop_all().close
    grid = geometry_of(result.task.report)
    made = Response(encode(lambda element: _bytes(archive, element, grid)), content_type=JSON)
    made.call_on_close(close)
    return made


def geometry_of(report: Mapping[str, Any]) -> Geometry | None:
    """Return the grid of a result's labels, None where it has none."""
    grid = report.get("grid")
    if grid is None:
        return None
    x, y, z = grid["size"]
    return Geometry((z, y, x), tuple(grid["spacing"]), tuple(grid["origin"]), tuple(grid["direction"]))


def _elements(here: Context, task: Task) -> tuple[Element, ...]:
    try:
        outputs = own_interface(here.tasks.models.get(task.model).manifest, "outputs")
    except UnknownModel:
        outputs = None
    return elements_of(task.report) if outputs is None else declared_elements(task.report, outputs)


def _bytes(archive: zipfile.ZipFile, element: Element, grid: Geometry | None) -> Iterator[bytes]:
    with archive.open(element.member) as member:
        if element.type != LABELS:
            yield from _pieces(member)  # type: ignore[arg-type]
            return
        assert grid is not None, "labels have a grid"
        with TemporaryFile() as file:
            yield from _while_working(lambda: nifti_to_mha(member, file, grid))  # type: ignore[arg-type]
            file.seek(0)
            yield from _pieces(file)


def _while_working(work: Callable[[], None]) -> Iterator[bytes]:
    """Do something that may take long on a busy machine, and yield nothing, now and then, until it is done."""
    with ThreadPoolExecutor(1, thread_name_prefix="recoding") as pool:
        done = pool.submit(work)
        while not wait([done], SIGN_OF_LIFE_S).done:
            yield b""
        done.result()


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(STEP_BYTES), b"")
