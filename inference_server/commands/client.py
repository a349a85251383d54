"""`submit`, `status`, `fetch`, `cancel`, `retry`, `delete`, `tasks`: the native client on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.status import Status as Spinner
from rich.table import Table

from inference_server.clients.native import Client, result_folder
from inference_server.clients.records import RemoteTask
from inference_server.clients.tomaat.points import Point, read_points
from inference_server.errors import BadRequest, TaskError

Server = Annotated[str, typer.Option(envvar="INFERENCE_SERVER_SERVER", help="The server's URL.")]
Token = Annotated[str | None, typer.Option(envvar="INFERENCE_SERVER_TOKEN", help="Access token.")]
Certificate = Annotated[
    Path | None,
    typer.Option(envvar="INFERENCE_SERVER_CERTIFICATE", help="Certificate (PEM) to trust, for a server with its own."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Uid = Annotated[str, typer.Argument(help="The task's UID.")]
LOCAL = "http://127.0.0.1:8000"

progress = Console(stderr=True)


def submit(
    model: Annotated[str, typer.Argument(help="The model's id.")],
    images: Annotated[
        list[Path] | None, typer.Argument(exists=True, dir_okay=False, help="NIfTI files in channel order.")
    ] = None,
    param: Annotated[list[str] | None, typer.Option("--param", help="A parameter as name=value.")] = None,
    points: Annotated[list[str] | None, typer.Option("--points", help="Points as name=FILE.")] = None,
    outputs: Annotated[str, typer.Option(help="What is made beyond labels: meshes, volumes, or both.")] = "",
    priority: Annotated[str, typer.Option(help="urgent, normal or batch.")] = "normal",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, showing progress.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the result; implies --wait.")] = None,
    server: Server = LOCAL,
    token: Token = None,
    certificate: Certificate = None,
    as_json: AsJson = False,
) -> None:
    """Send a case to a model; prints the task's UID, or with --wait its result files."""
    if out:
        result_folder(out)  # before an hour's computation, not after it
    with Client(server, token=token, certificate=certificate) as client:
        task = client.submit(
            model,
            images or [],
            parameters=parameters(param or []),
            points=_points(points or []),
            outputs=[name.strip() for name in outputs.split(",") if name.strip()],
            priority=priority,
        )
        if wait or out:
            task = _watched(client, task)
        written = client.fetch(task.uid, out) if out else []
    if as_json:
        typer.echo(json.dumps({**task.raw, "files": [str(path) for path in written]}))
        return
    for line in [str(path) for path in written] or [task.uid]:
        typer.echo(line)


def status(
    uid: Uid, server: Server = LOCAL, token: Token = None, certificate: Certificate = None, as_json: AsJson = False
) -> None:
    """Show where a task is."""
    with Client(server, token=token, certificate=certificate) as client:
        task = client.status(uid)
    typer.echo(json.dumps(task.raw) if as_json else describe(task))


def fetch(
    uid: Uid,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = Path(),
    server: Server = LOCAL,
    token: Token = None,
    certificate: Certificate = None,
) -> None:
    """Download a finished task's result and unpack it."""
    with Client(server, token=token, certificate=certificate) as client:
        for path in client.fetch(uid, out):
            typer.echo(path)


def cancel(uid: Uid, server: Server = LOCAL, token: Token = None, certificate: Certificate = None) -> None:
    """Stop a task, also while it runs."""
    with Client(server, token=token, certificate=certificate) as client:
        typer.echo(describe(client.cancel(uid)))


def retry(uid: Uid, server: Server = LOCAL, token: Token = None, certificate: Certificate = None) -> None:
    """Queue a failed or cancelled task once more."""
    with Client(server, token=token, certificate=certificate) as client:
        typer.echo(describe(client.retry(uid)))


def delete(uid: Uid, server: Server = LOCAL, token: Token = None, certificate: Certificate = None) -> None:
    """Remove a task and all its data."""
    with Client(server, token=token, certificate=certificate) as client:
        client.delete(uid)


def tasks(
    status: Annotated[str | None, typer.Option(help="Only tasks in this status.")] = None,
    model: Annotated[str | None, typer.Option(help="Only tasks of this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    server: Server = LOCAL,
    token: Token = None,
    certificate: Certificate = None,
    as_json: AsJson = False,
) -> None:
    """List the newest tasks."""
    filters = {name: value for name, value in {"status": status, "model": model}.items() if value}
    with Client(server, token=token, certificate=certificate) as client:
        found = list(client.tasks(limit=limit, **filters))
    if as_json:
        typer.echo(json.dumps([task.raw for task in found]))
        return
    table = Table("UID", "model", "status", "progress", box=None)
    for task in found:
        table.add_row(task.uid, task.model, task.status, f"{task.progress:.0%}")
    Console().print(table)


def describe(task: RemoteTask) -> str:
    """Return where a task is, in a few words."""
    match task.status:
        case "queued":
            return f"queued #{task.queue_position + 1}" if task.queue_position is not None else "queued"
        case "running":
            return f"running {task.progress:.0%}" + (f" ({task.phase})" if task.phase else "")
        case "finished":
            return "done"
        case "failed" if task.problem:
            return f"failed: {task.problem['message']}"
    return task.status


def _watched(client: Client, task: RemoteTask) -> RemoteTask:
    with _progress_line() as show:
        ended = client.wait(task.uid, on_change=lambda changed: show.update(describe(changed)))
    progress.print(f"{task.uid} {describe(ended)}")
    if ended.status != "finished":
        raise TaskError(f"No result: the task is {ended.status}.")
    return ended


@contextmanager
def _progress_line() -> Iterator[Spinner]:
    with progress.status("queued") as line:
        yield line


def parameters(given: list[str]) -> dict[str, Any]:
    """Return parameters given as `name=value`.

    Raises:
        BadRequest: one is given otherwise.
    """
    pairs = [text.partition("=") for text in given]
    for name, separator, _ in pairs:
        if not name or not separator:
            raise BadRequest("A parameter is given as --param name=value.")
    return {name: value for name, _, value in pairs}


def _points(given: list[str]) -> dict[str, list[Point]]:
    """Return the points of files, which are RAS, as the API takes them, LPS."""
    pairs = [text.partition("=") for text in given]
    for name, _, file in pairs:
        if not name or not file:
            raise BadRequest("Points are given as --points name=FILE.")
    return {name: [(-x, -y, z) for x, y, z in read_points(Path(file))] for name, _, file in pairs}
