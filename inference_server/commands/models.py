"""`models list`, `models show`, `models check`: what the server serves, and whether a model folder works."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from inference_server.clients.native import Client
from inference_server.commands.client import LOCAL, AsJson, Certificate, Server, Token
from inference_server.commands.serve import Models
from inference_server.errors import InferenceServerError, ModelLoadError
from inference_server.settings import Settings, load_settings

if TYPE_CHECKING:
    from inference_server.models.check import ModelCheck

WIDE = 10_000
"""Columns where nobody looks at a terminal."""

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
    as_json: AsJson = False,
) -> None:
    """Load every model here, run it on its example and say what it did. Needs no running server."""
    settings = load_settings(
        {"models_dirs": str(folder.absolute()), "zoo": False} if folder else {"models_dirs": _joined(models)}
    )
    rows = list(_checked(settings, only))
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
    else:
        _print(rows)
    if broken := [row for row in rows if row.problem]:
        raise ModelLoadError(f"{len(broken)} of {len(rows)} models do not work.")


@dataclass(frozen=True)
class _Row:
    """What is said of one model; `problem` is empty if it works."""

    model: str
    problem: str = ""
    computes_in: str = ""
    seconds: float | None = None
    found: Mapping[str, float] = field(default_factory=dict)
    unit: str = ""


def _checked(settings: Settings, only: str | None) -> Iterator[_Row]:
    from inference_server.models.check import check_model
    from inference_server.models.engine import open_engine
    from inference_server.models.registry import plain_registry

    registry = plain_registry(settings)
    engine = open_engine(settings, registry)
    chosen = [model for model in registry.models() if only in (None, model.id)]
    if only is not None and not chosen and not registry.problems():
        registry.get(only)  # says which there are
    for model in chosen:
        try:
            yield _row(check_model(model, engine))
        except InferenceServerError as error:
            yield _Row(f"{model.id} {model.version}", error.message)
    yield from (_Row(str(folder), why) for folder, why in registry.problems().items())


def _row(check: ModelCheck) -> _Row:
    ran = check.volumes_cc is not None
    seconds = round(sum(check.report.timings_s.values()), 2) if ran else None
    if check.classifications:
        return _Row(check.model, "", check.mode, seconds, check.classifications)
    return _Row(check.model, "", check.mode, seconds, check.volumes_cc or {}, "cc")


def _print(rows: Sequence[_Row]) -> None:
    """Print a table, as wide as the terminal; where there is none, every row on one line."""
    table = Table("model", "", "computes in", "seconds", "", box=None, pad_edge=False)
    for row in rows:
        found = ", ".join(f"{name} {value:.4g} {row.unit}".rstrip() for name, value in row.found.items())
        seconds = f"{row.seconds:.2f}" if row.seconds is not None else ""
        told = row.problem or found or "it declares no example to run"
        state = "[red]broken" if row.problem else "[green]works" if row.seconds is not None else "[green]loads"
        table.add_row(escape(row.model), state, escape(row.computes_in), seconds, escape(told))
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


def _joined(models: list[Path] | None) -> str | None:
    return ",".join(str(path.absolute()) for path in models) if models else None
