"""`models list`, `models show`, `models check`: what the server serves, and whether a model folder works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from inference_server.clients.native import Client
from inference_server.commands.client import LOCAL, AsJson, Certificate, Server, Token
from inference_server.commands.serve import Models
from inference_server.errors import InferenceServerError, ModelLoadError
from inference_server.settings import load_settings

app = typer.Typer(help="List, show or check models.", no_args_is_help=False, invoke_without_command=True)


@app.callback()
def default(
    context: typer.Context, server: Server = LOCAL, token: Token = None, certificate: Certificate = None
) -> None:
    """List the models that the server serves."""
    if context.invoked_subcommand is None:
        list_models(server, token, certificate)


@app.command("list")
def list_models(
    server: Server = LOCAL, token: Token = None, certificate: Certificate = None, as_json: AsJson = False
) -> None:
    """List the models that the server serves."""
    with Client(server, token=token, certificate=certificate) as client:
        models = client.models()
    if as_json:
        typer.echo(json.dumps(models))
        return
    table = Table("id", "version", "images", "labels", box=None)
    for model in models:
        channels = ", ".join(channel["name"] for channel in model["channels"])
        labels = ", ".join(label["name"] for label in model["labels"].values())
        table.add_row(model["id"], model["version"], channels, labels)
    Console().print(table)


@app.command("show")
def show_model(
    model: Annotated[str, typer.Argument(help="The model's id.")],
    server: Server = LOCAL,
    token: Token = None,
    certificate: Certificate = None,
    as_json: AsJson = False,
) -> None:
    """Show one model's manifest."""
    with Client(server, token=token, certificate=certificate) as client:
        manifest = client.model(model)
    typer.echo(json.dumps(manifest) if as_json else yaml.safe_dump(dict(manifest), sort_keys=False).rstrip())


@app.command("check")
def check_models(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="One model's folder, or a folder of models: check these alone.")
    ] = None,
    models: Models = None,
    only: Annotated[str | None, typer.Option("--model", help="Check this model alone.")] = None,
) -> None:
    """Load every model here, run it on its example and say what it did. Needs no running server."""
    from inference_server.models.check import check_model
    from inference_server.models.engine import open_engine
    from inference_server.models.registry import plain_registry

    settings = load_settings(
        {"models_dirs": str(folder.absolute()), "zoo": False} if folder else {"models_dirs": _joined(models)}
    )
    registry = plain_registry(settings)
    engine = open_engine(settings, registry)
    failures = [f"{folder}: {why}" for folder, why in registry.problems().items()]
    chosen = [model for model in registry.models() if only in (None, model.manifest.id)]
    if only is not None and not chosen and not failures:
        registry.get(only)  # says which there are
    for model in chosen:
        try:
            typer.echo(check_model(model, engine))
        except InferenceServerError as error:
            failures.append(f"{model.manifest.id}: {error.message}")
    for failure in failures:
        typer.echo(failure, err=True)
    if failures:
        raise ModelLoadError(f"{len(failures)} model(s) do not work.")


def _joined(models: list[Path] | None) -> str | None:
    return ",".join(str(path.absolute()) for path in models) if models else None
