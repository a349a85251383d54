"""Structured logs on standard error: a short message, facts as fields, never a patient's data."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path

import structlog

from inference_server.settings import Settings

NOISY = ("alembic", "celery", "httpx", "kombu", "multiprocessing")
"""Libraries whose everyday news says nothing to an operator."""


def configure_logging(settings: Settings) -> None:
    """Send every log record of the process to standard error, as coloured lines or as JSON (`log_json`)."""
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _without_values,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(settings.log_json)],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    pool = logging.getLogger("multiprocessing")  # Celery's pool keeps this logger's records from the root
    pool.handlers[:] = [handler]
    pool.propagate = False
    root.setLevel(settings.log_level.upper())
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _frames(error: BaseException) -> list[str]:
    """Return where an exception came from, the innermost place last, without any value: those may be a patient's."""
    found = traceback.extract_tb(error.__traceback__)
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in found]


def _without_values(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Say of an exception what it is, why, if the system says so, and where it came from; nothing that it says."""
    error = (event.pop("exc_info", None) or (None, None))[1]
    if error is not None:
        chain = _chain(error)
        event["error"] = " from ".join(type(one).__name__ for one in chain)
        reasons = [one.strerror for one in chain if isinstance(one, OSError) and one.strerror]
        return {**event, **({"reason": reasons[0]} if reasons else {}), "frames": _frames(chain[-1])}
    return event


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _renderers(as_json: bool) -> list[structlog.types.Processor]:
    if as_json:
        return [structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
