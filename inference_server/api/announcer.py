"""The TOMAAT announcement service alone, without the rest of the server."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask

from inference_server.api import announcements
from inference_server.api.app import completed
from inference_server.api.server import serve
from inference_server.settings import Settings
from inference_server.tasks.announcements import Announcements
from inference_server.tasks.database import open_database


def create_announcer(settings: Settings) -> Flask:
    """Return the application of the announcement service. Make it after a fork.

    Raises:
        StoreUnavailable: the records cannot be reached.
    """
    app = Flask("inference_server", static_folder=None)
    app.extensions[announcements.EXTENSION] = Announcements(open_database(settings.database))
    app.register_blueprint(announcements.blueprint)
    return completed(app)


def run_announcer(settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve the announcement service until SIGTERM or SIGINT.

    Raises:
        SettingsError: an address is taken or not one of this machine, or the certificate cannot be used.
        StoreUnavailable: the records cannot be reached.
    """
    serve(settings, create_announcer, ready=ready)
