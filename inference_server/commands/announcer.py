"""`announcer`, `announcer keys create`, `list`, `revoke`: the TOMAAT announcement service and who may use it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from inference_server.commands.client import AsJson
from inference_server.commands.serve import Data, Host, Port, Tls, TlsHost, TlsPort
from inference_server.commands.tokens import moment
from inference_server.errors import BadRequest
from inference_server.logs import configure_logging
from inference_server.settings import load_settings
from inference_server.tasks.announcements import Announcements, Key

app = typer.Typer(help="Run the TOMAAT announcement service alone; manage its keys.", invoke_without_command=True)
keys = typer.Typer(help="Keys of services that may announce themselves here.", no_args_is_help=True)
app.add_typer(keys, name="keys")


@app.callback()
def announcer(
    context: typer.Context,
    data: Data = None,
    host: Host = None,
    port: Port = None,
    tls: Tls = None,
    tls_host: TlsHost = None,
    tls_port: TlsPort = None,
) -> None:
    """Run the TOMAAT announcement service alone; every API has it too."""
    if context.invoked_subcommand:
        return
    from inference_server.api.announcer import run_announcer

    places = {"host": host, "port": port, "tls": tls, "tls_host": tls_host, "tls_port": tls_port}
    settings = load_settings({"data_dir": data, **places})
    configure_logging(settings)
    run_announcer(settings, ready=lambda urls: typer.echo(f"ready {urls}"))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose it is. Every service needs one of its own.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make a key for one service and print it. It is shown this once."""
    made, text = _announcements(data).create_key(name)
    typer.echo(json.dumps({**_record(made), "key": text}) if as_json else text)


@keys.command("list")
def list_keys(data: Data = None, as_json: AsJson = False) -> None:
    """List all keys that were ever made, by the public identifiers of their services."""
    records = [_record(key) for key in _announcements(data).all_keys()]
    if as_json:
        typer.echo(json.dumps(records))
        return
    table = Table("sid", "name", "created", "state", box=None)
    for record in records:
        table.add_row(record["sid"], record["name"], record["created_at"].partition("T")[0], record["state"])
    Console().print(table)


@keys.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The key's name, or the SID of its service.")],
    data: Data = None,
) -> None:
    """End a key's validity at once; what was announced with it is no longer listed."""
    revoked = _announcements(data).revoke_key(name)
    if not revoked:
        raise BadRequest(f"There is no key '{name}' that is not revoked already.")
    for key in revoked:
        typer.echo(f"revoked {key.sid} {key.name}")


def _announcements(data: Any) -> Announcements:
    from inference_server.tasks.database import open_database

    return Announcements(open_database(load_settings({"data_dir": data}).database))


def _record(key: Key) -> dict[str, str]:
    state = "valid" if key.revoked_at is None else "revoked"
    return {"sid": key.sid, "name": key.name, "created_at": moment(key.created_at), "state": state}
