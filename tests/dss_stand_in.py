"""A DSS server written from the protocol, which can lose requests and answers."""

from __future__ import annotations

import csv
import io
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response, abort, request
from werkzeug.serving import make_server

from inference_server.stack.certificates import Pair

SERVICE = "b7392368dc5dcec910bb8b87006ae38fd1f2cb32"
SESSION = "5e55102a"


@dataclass
class Ticket:
    """What became of a ticket."""

    service: str = SERVICE
    status: str = "init"
    files: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"input": {}, "results": {}})
    log: list[tuple[int, str, str]] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)
    attachments: list[tuple[str, str, bytes]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """Every final status that was posted."""


@dataclass
class DSSStandIn:
    """A server's tickets, and how it is to misbehave.

    `lose` are patterns of "METHOD path": the next request that matches one is carried out, and its answer lost;
    `unplugged`: nothing arrives; `instead`: by path, what is answered whatever came; `seen` is what was asked.
    """

    url: str = ""
    token: str = "t" * 40
    tickets: dict[int, Ticket] = field(default_factory=dict)
    lose: list[str] = field(default_factory=list)
    unplugged: bool = False
    instead: dict[str, Response] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    log_ids: int = 0
    lock: Any = field(default_factory=threading.RLock)

    def add(self, files: dict[str, bytes]) -> int:
        """Make a ticket that waits for a provider."""
        with self.lock:
            ticket = len(self.tickets) + 1
            self.tickets[ticket] = Ticket(status="ready", files={"input": dict(files), "results": {}})
            return ticket

    def say(self, ticket: int, category: str, message: str) -> None:
        """Add a line to a log."""
        with self.lock:
            self.log_ids += 1
            self.tickets[ticket].log.append((self.log_ids, category, message))


@contextmanager
def dss_server(pair: Pair | None = None) -> Iterator[DSSStandIn]:
    """Run a stand-in on a free port, over HTTPS if there is a certificate and its key."""
    state = DSSStandIn()
    files = (str(pair.certificate), str(pair.key)) if pair else None
    server = make_server("127.0.0.1", 0, _application(state), threaded=True, ssl_context=files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"{'https' if pair else 'http'}://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def table(rows: Sequence[Sequence[Any]]) -> Response:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return Response(out.getvalue(), mimetype="text/csv")


def _application(state: DSSStandIn) -> Flask:
    app = Flask("stand-in")

    @app.before_request
    def _before() -> Response | None:
        asked = f"{request.method} {request.path}"
        state.heads.append(dict(request.headers))
        if state.unplugged:
            _hang_up()
        state.seen.append(asked)
        if request.path in state.instead:
            return state.instead[request.path]
        if request.path != "/api/login" and request.cookies.get("webpy_session_id") != SESSION:
            return Response("You are not logged in!", 401)
        return None

    @app.after_request
    def _after(answer: Response) -> Response:
        asked = f"{request.method} {request.path}"
        for pattern in state.lose:
            if re.fullmatch(pattern, asked):
                state.lose.remove(pattern)
                _hang_up()
        return answer

    _user_routes(app, state)
    _provider_routes(app, state)
    return app


def _hang_up() -> None:
    request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


def _user_routes(app: Flask, state: DSSStandIn) -> None:
    @app.post("/api/login")
    def login() -> Response:
        if request.form.get("token") != state.token:
            return Response("Unauthorized", 401)
        state.token = ""
        answer = Response("logged in as lab@example.org \n")
        answer.set_cookie("webpy_session_id", SESSION, httponly=True)
        return answer

    @app.get("/api/services")
    def services() -> Response:
        return table([("Bright, light", SERVICE, "1.0", "Marks what is bright")])

    @app.get(f"/api/services/{SERVICE}/detail")
    def service() -> dict[str, Any]:
        tag = {"name": "image", "type": "MainImage", "hint": "", "required": True}
        return {"name": "bright", "version": "1.0", "tags": [tag]}

    @app.get("/api/tickets")
    def tickets() -> Response:
        return table([(number, "bright", each.status) for number, each in state.tickets.items()])

    @app.post("/api/tickets")
    def create() -> str:
        with state.lock:
            ticket = len(state.tickets) + 1
            state.tickets[ticket] = Ticket(service=request.form.get("githash") or request.form["name"])
        return str(ticket)

    @app.route("/api/tickets/<int:number>/files/<area>", methods=["GET", "POST"])
    @app.route("/api/pro/tickets/<int:number>/files/<area>", methods=["GET", "POST"])
    def files(number: int, area: str) -> Response:
        found = _ticket(state, number).files[area]
        if request.method == "GET":
            return table(list(enumerate(found)))
        sent = request.files["myfile"]
        found[str(sent.filename)] = sent.read()
        return Response("success")

    @app.get("/api/tickets/<int:number>/files/<area>/<int:index>")
    @app.get("/api/pro/tickets/<int:number>/files/<area>/<int:index>")
    def file(number: int, area: str, index: int) -> Response:
        return Response(list(_ticket(state, number).files[area].values())[index])

    @app.post("/api/tickets/<int:number>/status")
    def ready(number: int) -> str:
        _ticket(state, number).status = request.form["status"]
        return "ready"

    @app.get("/api/tickets/<int:number>/log")
    def log(number: int) -> Response:
        lines = [line for line in _ticket(state, number).log if line[0] > int(request.args["since"])]
        return table([(at, "2026-01-01 10:00:00", category, 0, text) for at, category, text in lines])

    @app.get("/api/tickets/<int:number>/progress")
    def progress(number: int) -> str:
        return str((_ticket(state, number).progress or [0.0])[-1])

    @app.get("/api/tickets/<int:number>/queuepos")
    def position(number: int) -> str:
        return str(len([each for at, each in state.tickets.items() if at <= number and each.status == "ready"]))

    @app.get("/api/tickets/<int:number>/detail")
    def detail(number: int) -> dict[str, Any]:
        ticket, since = _ticket(state, number), int(request.args["since"])
        log = [
            {"id": at, "atime": "2026-01-01", "category": category, "message": text, "attachments": []}
            for at, category, text in ticket.log
            if at > since
        ]
        return {"result": {"status": ticket.status, "progress": (ticket.progress or [0.0])[-1], "log": log}}

    @app.get("/api/tickets/<int:number>/<verb>")
    def change(number: int, verb: str) -> str:
        status = {"delete": "deleted", "retry": "ready"}[verb]
        _ticket(state, number).status = status
        return status


def _provider_routes(app: Flask, state: DSSStandIn) -> None:
    @app.get("/api/pro/services")
    def provided() -> Response:
        return table([("bright", "1.0", SERVICE, "lab")])

    @app.post("/api/pro/services/available")
    def available() -> Response:
        ready = len([each for each in state.tickets.values() if each.status == "ready"])
        return table([(SERVICE, "bright", ready)] if ready else [])

    @app.post("/api/pro/services/claims")
    def claim() -> Response:
        with state.lock:
            for number, ticket in state.tickets.items():
                if ticket.status == "ready":
                    ticket.status = "claimed"
                    return table([(number, SERVICE, "claimed")])
        return Response("None")

    @app.route("/api/pro/tickets/<int:number>/status", methods=["GET", "POST"])
    def status(number: int) -> str:
        ticket = _ticket(state, number)
        if request.method == "POST":
            ticket.status = request.form["status"]
            ticket.ended.append(ticket.status)
        return ticket.status

    @app.post("/api/pro/tickets/<int:number>/progress")
    def set_progress(number: int) -> str:
        _ticket(state, number).progress.append(float(request.form["progress"]))
        return "success"

    @app.post("/api/pro/tickets/<int:number>/attachments")
    def attach(number: int) -> str:
        sent = request.files["myfile"]
        kind = request.form.get("mime_type", "")
        _ticket(state, number).attachments.append((request.form["desc"], kind, sent.read()))
        return "1"

    @app.post("/api/pro/tickets/<int:number>/<any(info,warning,error):category>")
    def say(number: int, category: str) -> str:
        _ticket(state, number)
        state.say(number, category, request.form["message"])
        return str(state.log_ids)


def _ticket(state: DSSStandIn, number: int) -> Ticket:
    ticket = state.tickets.get(number)
    if ticket is None or ticket.status == "deleted":
        abort(Response(f"Ticket {number} not found", 400))
    return ticket
