"""What the routes of every door work with."""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app

from inference_server.api.access import Access
from inference_server.api.health import Health
from inference_server.api.waiting import Waits
from inference_server.settings import Settings
from inference_server.tasks.announcing import Announcers
from inference_server.tasks.metrics import Metrics
from inference_server.tasks.service import Tasks
from inference_server.tasks.tally import Tally

EXTENSION = "inference_server"


@dataclass(frozen=True)
class Context:
    """One per application, that is, per API process."""

    settings: Settings
    tasks: Tasks
    waits: Waits
    health: Health
    access: Access
    announcers: Announcers
    metrics: Metrics
    tally: Tally


def context() -> Context:
    """Return the context of the application that handles the present request."""
    found = current_app.extensions[EXTENSION]
    assert isinstance(found, Context)
    return found
