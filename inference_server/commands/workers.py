"""`workers`: what the workers of a server do, on the command line."""

from __future__ import annotations

import json

import typer
from rich.console import Console
from rich.table import Table

from inference_server.clients.native import Client
from inference_server.clients.records import RemoteWorker
from inference_server.commands.client import LOCAL, AsJson, Certificate, Server, Token
from inference_server.imaging.sizes import size_text

WIDTH = 200
"""Columns of the table where nobody looks at it: a program that reads it wants whole lines."""


def workers(
    server: Server = LOCAL, token: Token = None, certificate: Certificate = None, as_json: AsJson = False
) -> None:
    """List the workers: state, device, loaded models, and the tasks they run."""
    with Client(server, token=token, certificate=certificate) as client:
        found = client.workers()
    if as_json:
        typer.echo(json.dumps([worker.raw for worker in found]))
        return
    table = Table("worker", "state", "device", "memory", "busy", "models", "tasks", box=None)
    for worker in found:
        table.add_row(*_row(worker))
    console = Console()
    (console if console.is_terminal else Console(width=WIDTH)).print(table)


def _row(worker: RemoteWorker) -> tuple[str, ...]:
    busy = "" if worker.utilisation is None else f"{worker.utilisation:.0%}"
    models, tasks = ("\n".join(names) for names in (worker.models, worker.tasks))
    return worker.name, worker.state, worker.device, _memory(worker), busy, models, tasks


def _memory(worker: RemoteWorker) -> str:
    if worker.memory_bytes is None:
        return ""
    whole = size_text(worker.memory_bytes)
    return whole if worker.memory_used_bytes is None else f"{size_text(worker.memory_used_bytes)} of {whole}"
