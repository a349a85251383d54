"""What stands behind the entry points: one function that sends, one that fetches, neither of which raises."""

from __future__ import annotations

import errno
import logging
import os
import re
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence, TypeVar

from .client_backend import ClientBackend
from .contour_loader import ContourLoader
from .errors import ExtensionError, InputError
from .inference_client import InferenceClient, Polling
from .mim_types import Image, Logger, Session
from .server_address import parse_server_url
from .settings import read_settings
from .task_input import TaskInput

T = TypeVar("T")
_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class SubmitRequest:
    """The fields of a submit step as MIM hands them over, unchecked."""

    model_human_readable_id: Any
    export_dicom_info: Any
    export_contours: Any
    contour_names: Any
    server_url: Any


@dataclass(frozen=True)
class FetchRequest:
    """The fields of a fetch step as MIM hands them over, unchecked."""

    uid: Any
    server_url: Any
    polling_interval_sec: Any
    timeout_sec: Any


def submit(session: Session, images: Sequence[Image], request: SubmitRequest) -> str:
    """Send images to the server.

    Args:
        session: MIM's session, for its log.
        images: image zero first. Not modified.
        request: the other fields of the step.

    Returns:
        The UID of the task; empty where the case was not taken, and the log says why.
    """

    def step(logger: Logger) -> str:
        task_input = TaskInput(
            model_human_readable_id=_text(request.model_human_readable_id, "model_human_readable_id"),
            images=images,
            export_dicom_info=_flag(request.export_dicom_info, "export_dicom_info"),
            contour_names=_contour_names(request),
        )
        uid = _client(request.server_url, logger).post_task(task_input)
        logger.info(f"The server took the case. UID: {uid}")
        return uid

    return _never_raising(session, step, "")


def fetch(session: Session, reference_image: Image, request: FetchRequest) -> None:
    """Wait for a task and draw its structures on the reference image; the log says how it went.

    Args:
        session: MIM's session, for its log.
        reference_image: gets the contours.
        request: the other fields of the step.
    """

    def step(logger: Logger) -> None:
        polling = Polling(
            interval_s=max(1.0, _seconds(request.polling_interval_sec, "polling_interval_sec")),
            timeout_s=_seconds(request.timeout_sec, "timeout_sec"),
        )
        uid = _text(request.uid, "uid")
        with _client(request.server_url, logger).get_task(uid, polling) as output:
            drawn = ContourLoader(reference_image, logger).set_contours(output.label_arrays())
        logger.info(f"Contours drawn: {', '.join(drawn)}." if drawn else "The result has no structures.")

    _never_raising(session, step, None)


def _client(server_url: Any, logger: Logger) -> InferenceClient:
    address = parse_server_url(_text(server_url, "server_url"))
    if address.is_exposed:
        logger.info("server_url begins with http://: patient data and secrets travel unencrypted. Use https://.")
    return InferenceClient(ClientBackend(address, read_settings(os.environ, _FOLDER)), logger)


def _never_raising(session: Session, step: Callable[[Logger], T], otherwise: T) -> T:
    """Run a step at the border to MIM: whatever it raises ends in the log."""
    logger: Logger = logging.getLogger(__name__)
    try:
        logger = session.createLogger()
        return step(logger)
    except ExtensionError as error:
        logger.error(str(error))
    except Exception as error:  # noqa: BLE001 - nothing may reach MIM
        logger.error(_unforeseen(error))
    return otherwise


def _unforeseen(error: Exception) -> str:
    """Name the kind and the place of an error, not its text, which may hold a secret or patient data."""
    if isinstance(error, MemoryError):
        return "This computer ran out of memory. Close other images in MIM and try again."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "The disk of this computer is full. Free some space in the temporary folder and try again."
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}, line {frame.lineno}"
    return f"Something unforeseen happened ({type(error).__name__} at {place}). Tell your support this line."


def _text(value: Any, field: str) -> str:
    text = "" if value is None else str(value).strip()
    if text:
        return text
    if field == "uid":
        raise InputError("There is no UID: the case was not sent. The log of the step that sends it says why.")
    raise InputError(f"The field {field} is empty.")


def _flag(value: Any, field: str) -> bool:
    text = "0" if value is None else str(value).strip()
    if text not in ("0", "1", "", "True", "False"):
        raise InputError(f"{field} must be 0 or 1.")
    return text in ("1", "True")


def _contour_names(request: SubmitRequest) -> list[str] | None:
    if not _flag(request.export_contours, "export_contours"):
        return None
    parts = re.split(r"[,;\n]", "" if request.contour_names is None else str(request.contour_names))
    return [part.strip() for part in parts if part.strip()]


def _seconds(value: Any, field: str) -> float:
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InputError(f"{field} must be a number of seconds.")
    return seconds
