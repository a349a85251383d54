"""The Flask application: every door, the OpenAPI document, health, and one answer to every error."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from flask import Flask, Response, current_app, g, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI
from flask_openapi3.types import SecuritySchemesDict
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from inference_server import __version__
from inference_server.api import announcements, docs_page, dss, metrics, tomaat
from inference_server.api.access import Access, need_of
from inference_server.api.context import EXTENSION, Context, context
from inference_server.api.doors import DOORS, door_at, error_answerer, opened_dialects
from inference_server.api.health import Health, health_blueprint
from inference_server.api.problems import (
    Problem,
    Refusal,
    Refused,
    http_refusal,
    internal_refusal,
    invalid_request,
    refusal,
)
from inference_server.api.upload import linger
from inference_server.api.waiting import Waits
from inference_server.errors import InferenceServerError
from inference_server.settings import Settings
from inference_server.tasks.announcements import Announcements
from inference_server.tasks.announcing import load_announcers
from inference_server.tasks.metrics import Metrics
from inference_server.tasks.service import Tasks, open_tasks
from inference_server.tasks.tally import Tally
from inference_server.tasks.tickets.sessions import Sessions, TokensAndSessions
from inference_server.tasks.watch import Watcher

log = logging.getLogger(__name__)

SECURITY_SCHEMES: SecuritySchemesDict = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An access token; its operator makes it"},
    "basic": {"type": "http", "scheme": "basic", "description": "Any user; the access token is the password"},
}
DESCRIPTION = "Send an image, get its contours. Every error is a problem document of RFC 9457 with a stable `code`."

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
App = TypeVar("App", bound=Flask)


def create_app(settings: Settings, tasks: Tasks | None = None) -> OpenAPI:
    """Return the application.

    Make it after a fork: it opens the records and starts a thread.

    Args:
        settings: limits and places.
        tasks: what the doors call; opened from the settings where it is not given.

    Raises:
        StoreUnavailable: the records cannot be reached.
        SettingsError: a dialect is to be opened that cannot be, or the file of announcement services is malformed.
        LookupError: a route does not say who may use it.
    """
    app = OpenAPI(
        "inference_server",
        info=Info(title="inference-server", version=__version__, description=DESCRIPTION),
        security_schemes=SECURITY_SCHEMES,
        doc_ui=False,
        static_folder=None,
        validation_error_model=Problem,
        validation_error_callback=_answer_invalid,
    )
    tasks = tasks or open_tasks(settings)
    app.extensions[EXTENSION] = _context(settings, tasks)
    app.extensions[announcements.EXTENSION] = Announcements(tasks.store.database)
    app.extensions[dss.EXTENSION] = dss.open_desk(settings, tasks)
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    _register_routes(app, settings)
    app.after_request(_tally)
    return completed(app)


def completed(app: App) -> App:
    """Return an application that has its routes with what all of ours have: errors, access, headers.

    Raises:
        LookupError: a route does not say who may use it.
    """
    _register_errors(app)
    _refuse_undecided(app)
    app.before_request(_check_access)
    app.after_request(_harden)
    app.wsgi_app = _readable_address(app.wsgi_app)  # type: ignore[assignment, method-assign]
    return app


def _context(settings: Settings, tasks: Tasks) -> Context:
    threads = max(2, settings.api_threads // settings.api_processes)
    waits = Waits(Watcher(tasks.store), slots=threads // 2, limit_s=settings.wait_limit_s)
    health = Health(tasks, queue=settings.queue_names[0])
    database = tasks.store.database
    tokens = TokensAndSessions(database, Sessions(database, lifetime_s=settings.dss_session_s))
    tally = Tally(database)
    access = Access(settings, tokens, opened_dialects(settings.opened), refused=tally.sign_in_refused)
    figures = Metrics(database, tasks.blobs, tasks.models, disk_low_bytes=settings.disk_low_bytes, before=tally.flush)
    return Context(settings, tasks, waits, health, access, load_announcers(settings), figures, tally)


def _register_routes(app: OpenAPI, settings: Settings) -> None:
    for door in DOORS:
        if isinstance(door.blueprint, APIBlueprint):
            app.register_api(door.blueprint)
        else:
            app.register_blueprint(door.blueprint)
    if settings.tomaat_root:
        app.register_blueprint(tomaat.root)
    app.register_blueprint(metrics.blueprint)
    app.register_blueprint(docs_page.blueprint)
    app.register_api(health_blueprint(lambda: context().health))


def _refuse_undecided(app: Flask) -> None:
    if undecided := [rule.rule for rule in app.url_map.iter_rules() if need_of(app, rule.endpoint) is None]:
        raise LookupError(f"These routes do not say who may use them: {', '.join(undecided)}.")


def _check_access() -> None:
    need = need_of(current_app, request.endpoint) if request.endpoint else None
    if need is None or need.is_open:
        return
    door = door_at(request.path)
    assert door, "only doors have routes that need a token"
    presented = door.presented(request)
    g.caller = context().access.admit(request, dialect=door.name, presented=presented, need=need)


def _register_errors(app: Flask) -> None:
    app.register_error_handler(InferenceServerError, _answer_ours)
    app.register_error_handler(Refused, lambda exc: _answer(exc.refused))
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_unforeseen)


def _answer_ours(error: InferenceServerError) -> Response:
    return _answer(refusal(error))


def _answer_http(exc: HTTPException) -> Response:
    if isinstance(exc, RequestRedirect):
        return exc.get_response(request.environ)  # type: ignore[return-value]
    return _answer(http_refusal(exc))


def _answer_unforeseen(exc: Exception) -> Response:
    # The route's pattern says where it happened; the address itself may hold what a client put there.
    route = request.url_rule.rule if request.url_rule else ""
    log.error("request failed", exc_info=exc, extra={"method": request.method, "route": route})
    return _answer(internal_refusal())


def _answer_invalid(exc: ValidationError) -> Response:
    return _answer(invalid_request(exc))


def _answer(refused: Refusal) -> Response:
    g.refused = refused.error.code
    answer = error_answerer(request.path)(refused)
    present = request._get_current_object()  # type: ignore[attr-defined]
    answer.call_on_close(lambda: linger(present))
    return answer


def _tally(answer: Response) -> Response:
    if (code := g.get("refused")) is not None:
        door = door_at(request.path)
        context().tally.refused(door.name if door else "none", code)
    return answer


def _harden(answer: Response) -> Response:
    answer.headers.setdefault("X-Content-Type-Options", "nosniff")
    if not answer.headers.get("Cache-Control"):
        answer.headers["Cache-Control"] = "no-store"
    return answer


def _readable_address(inner: WsgiApp) -> WsgiApp:
    """Take `//api//tasks/` for `/api/tasks/`: clients join an address that ends in a slash with a path.

    Bytes beyond ASCII in a query are quoted, as clients should have done: Werkzeug reads no others.
    """

    def outer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        query = environ.get("QUERY_STRING", "")
        environ["QUERY_STRING"] = re.sub("[^\0-\x7f]", lambda sign: f"%{ord(sign[0]):02X}", query)
        environ["PATH_INFO"] = re.sub("/{2,}", "/", "/" + environ.get("PATH_INFO", ""))
        return inner(environ, start_response)

    return outer
