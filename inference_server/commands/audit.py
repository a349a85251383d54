"""`audit`: who did what to which task."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from inference_server.commands.client import AsJson
from inference_server.commands.serve import Data
from inference_server.commands.tokens import moment
from inference_server.errors import BadRequest
from inference_server.settings import load_settings


def audit(
    uid: Annotated[str | None, typer.Option(help="Only what was done to this task.")] = None,
    token: Annotated[str | None, typer.Option(help="Only what this token's name did.")] = None,
    since: Annotated[str | None, typer.Option(help="Only from then on: 2026-11-21 or 2026-11-21T08:30, UTC.")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show who submitted, fetched, cancelled, retried and deleted which task, when, and through which door."""
    from inference_server.tasks.audit import Audit
    from inference_server.tasks.database import open_database

    log = Audit(open_database(load_settings({"data_dir": data}).database))
    for entry in log.entries(uid=uid, token=token, since=_seconds(since) if since else None):
        shown = {**vars(entry), "time": moment(entry.time)}
        del shown["seq"]
        typer.echo(json.dumps(shown) if as_json else "  ".join(value or "-" for value in shown.values()))


def _seconds(text: str) -> float:
    try:
        given = datetime.fromisoformat(text)
    except ValueError as exc:
        raise BadRequest("A moment is given as 2026-11-21 or 2026-11-21T08:30, in UTC.") from exc
    return (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()
