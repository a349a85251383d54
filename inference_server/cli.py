"""The `inference-server` command."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from inference_server.commands import (
    announcer,
    audit,
    backup,
    certs,
    classify,
    client,
    doctor,
    dss,
    models,
    providers,
    serve,
    tokens,
    tomaat,
    workers,
)
from inference_server.errors import InferenceServerError

app = typer.Typer(
    help="Warm segmentation models behind a durable queue.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SERVER = (
    serve.up,
    serve.api,
    serve.image_socket,
    serve.worker,
    serve.housekeeping,
    serve.settings,
    doctor.doctor,
    audit.audit,
    backup.backup,
    backup.restore,
    certs.certs,
)
CLIENT = (
    client.submit,
    client.status,
    client.fetch,
    client.cancel,
    client.retry,
    client.delete,
    client.tasks,
    workers.workers,
    classify.classify,
)
COMMANDS: tuple[Callable[..., None], ...] = (*SERVER, *CLIENT)
for command in COMMANDS:
    app.command()(command)
app.add_typer(announcer.app, name="announcer")
app.add_typer(dss.app, name="dss")
app.add_typer(models.app, name="models")
app.add_typer(providers.app, name="providers")
app.add_typer(providers.services, name="services")
app.add_typer(tokens.app, name="tokens")
app.add_typer(tomaat.app, name="tomaat")


def main() -> None:
    """Run a command; an error of ours is one sentence on standard error and exit status 1."""
    try:
        app()
    except InferenceServerError as error:
        typer.echo(error.message, err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
