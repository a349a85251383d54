"""`dss`: a DSS server as its users see it, ours or another; and the bridge."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from inference_server.clients.dss.records import Detail
from inference_server.clients.dss.user import POLL_S, User
from inference_server.commands import dss_provider
from inference_server.commands.client import AsJson
from inference_server.commands.dss_options import Certificate, Server, Ticket, connected, echo_rows
from inference_server.commands.dss_serve import serve
from inference_server.errors import TaskError

app = typer.Typer(help="Tickets of a DSS server, as ITK-SNAP uses it.", no_args_is_help=True)
app.add_typer(dss_provider.app, name="provider")
app.command()(serve)
progress = Console(stderr=True)


@app.command()
def login(
    server: Server,
    token: Annotated[str | None, typer.Option(help="One-time token, of the page /token; else asked for.")] = None,
    certificate: Certificate = None,
) -> None:
    """Sign in to a server; the session is kept in the keyring, else in a private file."""
    with connected(server, certificate) as connection:
        if token is None:
            typer.echo(f"Visit {connection.server}/token to obtain a token.", err=True)
            token = typer.prompt("Token", hide_input=True, err=True)
        typer.echo(connection.sign_in(token.strip()).text.strip())


@app.command()
def logout(server: Server, certificate: Certificate = None) -> None:
    """End the session with a server, and forget it here."""
    with connected(server, certificate) as connection:
        if not connection.sign_out():
            typer.echo("The session is forgotten here; the server did not say that it has ended it.", err=True)


@app.command()
def services(server: Server, certificate: Certificate = None, as_json: AsJson = False) -> None:
    """List the services that take tickets: name, version, hash, description."""
    with connected(server, certificate) as connection:
        found = User(connection).services()
    echo_rows([(each.name, each.version, each.githash, each.shortdesc) for each in found], found, as_json)


@app.command()
def service(
    name: Annotated[str, typer.Argument(help="The service's hash, or its name.")],
    server: Server,
    certificate: Certificate = None,
) -> None:
    """Print what a service says of itself, as JSON; its tags say which layers it takes."""
    with connected(server, certificate) as connection:
        typer.echo(json.dumps(User(connection).service(name), indent=2))


@app.command()
def send(
    service: Annotated[str, typer.Argument(help="The service's hash, or its name.")],
    workspace: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A workspace of ITK-SNAP (.itksnap).")],
    server: Server,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, showing progress and log.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; implies --wait.")] = None,
    certificate: Certificate = None,
) -> None:
    """Send a workspace and its images to a service; prints the ticket's id, or with --out the files of the results."""
    with connected(server, certificate) as connection:
        user = User(connection)
        ticket = user.send(service, workspace)
        if wait or out:
            _watched(user, ticket, None)
        lines = user.download(ticket, out) if out else [ticket]
    for line in lines:
        typer.echo(line)


@app.command()
def tickets(server: Server, certificate: Certificate = None, as_json: AsJson = False) -> None:
    """List your tickets: id, service, status."""
    with connected(server, certificate) as connection:
        found = User(connection).tickets()
    echo_rows([(str(each.id), each.service, each.status) for each in found], found, as_json)


@app.command()
def status(ticket: Ticket, server: Server, certificate: Certificate = None, as_json: AsJson = False) -> None:
    """Show where a ticket is."""
    with connected(server, certificate) as connection:
        found = User(connection).detail(ticket)
    typer.echo(json.dumps(asdict(found)) if as_json else _described(found))


@app.command()
def log(ticket: Ticket, server: Server, certificate: Certificate = None, as_json: AsJson = False) -> None:
    """Print a ticket's log, with the URLs of what is attached."""
    with connected(server, certificate) as connection:
        found = User(connection).log(ticket)
    rows = []
    for line in found:
        rows.append((str(line.id), line.atime, line.category, line.message))
        rows.extend(("", "", "", f"{each.description}: {each.url}") for each in line.attachments)
    echo_rows(rows, found, as_json)


@app.command()
def wait(
    ticket: Ticket,
    server: Server,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to wait; for ever if not given.")] = None,
    certificate: Certificate = None,
) -> None:
    """Wait until a ticket has ended, showing progress and log; exit status 0 only if it succeeded."""
    with connected(server, certificate) as connection:
        _watched(User(connection), ticket, timeout)


@app.command()
def download(
    ticket: Ticket,
    server: Server,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path(),
    certificate: Certificate = None,
) -> None:
    """Fetch the results of a ticket."""
    with connected(server, certificate) as connection:
        for path in User(connection).download(ticket, out):
            typer.echo(path)


@app.command()
def delete(ticket: Ticket, server: Server, certificate: Certificate = None) -> None:
    """Remove a ticket and its files; what it computes is stopped."""
    with connected(server, certificate) as connection:
        typer.echo(User(connection).delete(ticket))


@app.command()
def retry(ticket: Ticket, server: Server, certificate: Certificate = None) -> None:
    """Queue a ticket that failed, or whose provider fell silent, once more."""
    with connected(server, certificate) as connection:
        typer.echo(User(connection).retry(ticket))


def _watched(user: User, ticket: int, timeout_s: float | None) -> None:
    with progress.status("waiting") as spinner:

        def show(detail: Detail) -> None:
            spinner.update(_described(detail))
            for line in detail.log:
                progress.print(Text(f"{line.category}: {line.message}"))

        ended = user.wait(ticket, timeout_s=timeout_s, poll_s=min(POLL_S, 1.0), on_change=show)
    progress.print(f"ticket {ticket}: {ended.status}")
    if ended.status != "success":
        raise TaskError(f"No result: the status of the ticket is {ended.status}.")


def _described(detail: Detail) -> str:
    if detail.status == "ready" and detail.queue_position is not None:
        return f"ready #{detail.queue_position}"
    return f"{detail.status} {detail.progress:.0%}" if detail.status == "claimed" else detail.status
