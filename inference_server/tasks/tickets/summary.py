"""What the log of a ticket says when its task has finished."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from inference_server.tasks.record import Task
from inference_server.tasks.tickets.links import Line
from inference_server.tasks.tickets.record import Category

LINE_LIMIT = 2000
"""Clients cut lines far beyond this."""


def summary(task: Task) -> Iterator[Line]:
    """Yield what was assumed or degraded, probabilities, texts, and what the results hold."""
    report = task.report
    for note in report.get("notes", ()):
        yield Line(Category.WARNING, _one_line(note))
    for name, probability in report.get("classifications", {}).items():
        yield Line(Category.INFO, _one_line(f"{name}: {probability:.4f}"))
    for name, text in report.get("texts", {}).items():
        yield Line(Category.INFO, _one_line(f"{name}: {text}"))
    yield Line(Category.INFO, f"The model '{task.model}', version {task.version}, has finished: {_made(report)}.")


def _made(report: Any) -> str:
    names = [said["name"] for said in report.get("contents", ()) if said["kind"] == "labels"]
    if not names:
        return "it made no segmentation"
    return _one_line(f"{len(names)} segmentation{'s' * (len(names) > 1)} ({', '.join(names)})")


def _one_line(text: str) -> str:
    """Return a text without line breaks, which clients of this dialect cannot show."""
    return " ".join(text.split())[:LINE_LIMIT]
