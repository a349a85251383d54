"""`dss provider`: what providers of services do, step by step."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from inference_server.clients.dss.provider import Provider
from inference_server.commands.client import AsJson
from inference_server.commands.dss_options import Certificate, Server, Ticket, connected, echo_rows
from inference_server.errors import TaskError

app = typer.Typer(help="Claim tickets of a DSS server and answer them.", no_args_is_help=True)
Hashes = Annotated[list[str], typer.Argument(help="Hashes of services.")]
ATTEMPTS = 5


class Category(StrEnum):
    """The kinds of lines in a ticket's log."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@app.command()
def services(server: Server, certificate: Certificate = None, as_json: AsJson = False) -> None:
    """List the services that you provide: name, version, hash, provider."""
    with connected(server, certificate) as connection:
        found = Provider(connection).services()
    echo_rows([(each.service, each.version, each.hash, each.provider) for each in found], found, as_json)


@app.command()
def available(hashes: Hashes, server: Server, certificate: Certificate = None, as_json: AsJson = False) -> None:
    """List services that have tickets waiting, without claiming any: name, hash, how many."""
    with connected(server, certificate) as connection:
        found = Provider(connection).available(hashes)
    echo_rows([(each.service_name, each.service, str(each.ready_tickets)) for each in found], found, as_json)


@app.command()
def claim(
    hashes: Hashes,
    server: Server,
    provider: Annotated[str, typer.Option(help="The provider's name.")],
    code: Annotated[str, typer.Option(help="The name of this instance of the provider.")] = "default",
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for a ticket.")] = 0,
    certificate: Certificate = None,
    as_json: AsJson = False,
) -> None:
    """Claim the next ticket and print its id; exit status 1 if none waits."""
    with connected(server, certificate) as connection:
        claimed = Provider(connection).wait_for_ticket(hashes, provider, code, timeout_s=timeout)
    if claimed is None:
        raise TaskError("No ticket waits.")
    typer.echo(json.dumps(asdict(claimed)) if as_json else claimed.ticket)


@app.command()
def files(ticket: Ticket, server: Server, certificate: Certificate = None, as_json: AsJson = False) -> None:
    """List the files that a ticket came with: number, name."""
    with connected(server, certificate) as connection:
        found = Provider(connection).files(ticket)
    echo_rows([(str(each.index), each.filename) for each in found], found, as_json)


@app.command()
def download(
    ticket: Ticket,
    server: Server,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path(),
    certificate: Certificate = None,
) -> None:
    """Fetch the files that a ticket came with."""
    with connected(server, certificate) as connection:
        for path in Provider(connection).download(ticket, out):
            typer.echo(path)


@app.command()
def progress(
    ticket: Ticket,
    value: Annotated[float, typer.Argument(min=0, max=1, help="How much is done, from 0 to 1.")],
    server: Server,
    start: Annotated[float, typer.Option(min=0, max=1, help="Where this part of the work begins.")] = 0.0,
    end: Annotated[float, typer.Option(min=0, max=1, help="Where this part of the work ends.")] = 1.0,
    certificate: Certificate = None,
) -> None:
    """Tell how much of a ticket, or of a part of the work, is done."""
    with connected(server, certificate) as connection:
        Provider(connection, attempts=ATTEMPTS).set_progress(ticket, value, chunk_start=start, chunk_end=end)


@app.command()
def log(
    ticket: Ticket,
    category: Annotated[Category, typer.Argument(help="info, warning or error.")],
    message: Annotated[str, typer.Argument(help="What is said.")],
    server: Server,
    certificate: Certificate = None,
) -> None:
    """Add a line to a ticket's log, with what was attached before."""
    with connected(server, certificate) as connection:
        Provider(connection).log(ticket, category.value, message)


@app.command()
def attach(
    ticket: Ticket,
    description: Annotated[str, typer.Argument(help="What it is.")],
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The file.")],
    server: Server,
    mime_type: Annotated[str, typer.Option(help="Such as image/png; else the server guesses.")] = "",
    certificate: Certificate = None,
) -> None:
    """Attach a file to the next line of a ticket's log."""
    with connected(server, certificate) as connection:
        typer.echo(Provider(connection).attach(ticket, description, file, mime_type).text.strip())


@app.command()
def upload(
    ticket: Ticket,
    workspace: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A workspace of ITK-SNAP (.itksnap).")],
    server: Server,
    certificate: Certificate = None,
) -> None:
    """Send a workspace and its images as results; `success` has to follow."""
    with connected(server, certificate) as connection:
        for name in Provider(connection, attempts=ATTEMPTS).upload(ticket, workspace):
            typer.echo(name)


@app.command()
def status(ticket: Ticket, server: Server, certificate: Certificate = None) -> None:
    """Print the status of a ticket."""
    with connected(server, certificate) as connection:
        typer.echo(Provider(connection).status(ticket))


@app.command()
def success(ticket: Ticket, server: Server, certificate: Certificate = None) -> None:
    """Say that all results are there."""
    with connected(server, certificate) as connection:
        typer.echo(Provider(connection, attempts=ATTEMPTS).succeed(ticket))


@app.command()
def fail(
    ticket: Ticket,
    message: Annotated[str, typer.Argument(help="Why there is no result.")],
    server: Server,
    certificate: Certificate = None,
) -> None:
    """Say that there is no result, and why."""
    with connected(server, certificate) as connection:
        typer.echo(Provider(connection, attempts=ATTEMPTS).fail(ticket, message))
