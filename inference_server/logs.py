"""Structured logs on standard error: a short message, facts as fields, never a patient's data."""

from __future__ import annotations

import logging
import sys

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


def _renderers(as_json: bool) -> list[structlog.types.Processor]:
    if as_json:
        return [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    return [
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    ]
