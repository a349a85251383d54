"""`tokens create`, `tokens list`, `tokens revoke`: who may use the server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from inference_server.commands.client import AsJson
from inference_server.commands.serve import Data
from inference_server.errors import BadRequest
from inference_server.settings import load_settings
from inference_server.tasks.caller import Scope
from inference_server.tasks.tokens import Token, Tokens

FOR_USERS = "submit,read-own"
DAY_S = 86_400.0
UNITS_S = {"d": DAY_S, "h": 3600.0, "m": 60.0}

app = typer.Typer(help="Make, list or revoke access tokens.", no_args_is_help=True)


@app.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="Who bears it; tasks belong to the name.")],
    scopes: Annotated[str, typer.Option(help=f"Any of {', '.join(Scope)}; separated by commas.")] = FOR_USERS,
    expires: Annotated[str, typer.Option(help="How long it is valid, as 90d, 12h or 30m; or never.")] = "never",
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it. It is shown this once."""
    tokens = _tokens(data)
    is_first = not tokens.any()
    made, text = tokens.create(name, _scopes(scopes), lifetime_s=_lifetime_s(expires))
    if is_first:
        typer.echo("This is the first token: from now on every request needs one, also on this machine.", err=True)
    typer.echo(json.dumps({**_record(made), "token": text}) if as_json else text)


@app.command("list")
def list_tokens(data: Data = None, as_json: AsJson = False) -> None:
    """List all tokens that were ever made, without their secrets."""
    records = [_record(token) for token in _tokens(data).all()]
    if as_json:
        typer.echo(json.dumps(records))
        return
    table = Table("id", "name", "scopes", "created", "expires", "state", box=None)
    for record in records:
        days = [(record[name] or "never").partition("T")[0] for name in ("created_at", "expires_at")]
        table.add_row(record["id"], record["name"], ", ".join(record["scopes"]), *days, record["state"])
    Console().print(table)


@app.command("revoke")
def revoke_token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The token's name or id.")], data: Data = None
) -> None:
    """End a token's validity, from the next request on."""
    revoked = _tokens(data).revoke(name)
    if not revoked:
        raise BadRequest(f"There is no token '{name}' that is not revoked already.")
    for token in revoked:
        typer.echo(f"revoked {token.id} {token.name}")


def _tokens(data: Any) -> Tokens:
    from inference_server.tasks.database import open_database

    return Tokens(open_database(load_settings({"data_dir": data}).database))


def _scopes(text: str) -> Sequence[Scope]:
    given = [part.strip() for part in text.split(",") if part.strip()]
    if unknown := [part for part in given if part not in list(Scope)]:
        raise BadRequest(f"There is no scope '{unknown[0]}'. There are: {', '.join(Scope)}.")
    return [Scope(part) for part in given]


def _lifetime_s(text: str) -> float | None:
    if text == "never":
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})([dhm])", text)
    if not found:
        raise BadRequest("How long a token is valid is given as 90d, 12h, 30m or never.")
    return int(found[1]) * UNITS_S[found[2]]


def _record(token: Token) -> dict[str, Any]:
    expires = None if token.expires_at is None else moment(token.expires_at)
    shown = {"id": token.id, "name": token.name, "scopes": sorted(token.scopes)}
    times = {"created_at": moment(token.created_at), "expires_at": expires}
    return {**shown, **times, "state": token.state(time.time())}


def moment(seconds: float) -> str:
    """Return a moment in seconds since the epoch as text, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
