"""What the `dss` commands share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from inference_server.clients.dss.connection import Connection
from inference_server.clients.native import trusted

Server = Annotated[str, typer.Option(envvar="ITKSNAP_WT_DSS_SERVER", help="The DSS server's URL.")]
Certificate = Annotated[
    Path | None,
    typer.Option(envvar="INFERENCE_SERVER_CERTIFICATE", help="Certificate (PEM) to trust, for a server with its own."),
]
Ticket = Annotated[int, typer.Argument(min=1, help="The ticket's id.")]


@contextmanager
def connected(server: str, certificate: Path | None) -> Iterator[Connection]:
    """Give a connection to a DSS server, with the session that is kept for it."""
    with Connection(server, verify=trusted(certificate)) as connection:
        yield connection


def echo_rows(rows: Sequence[Sequence[str]], records: Sequence[Any], as_json: bool) -> None:
    """Print a table, or the records that it is of as JSON."""
    if as_json:
        typer.echo(json.dumps([asdict(record) for record in records]))
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
