"""`providers …` and `services …`: who offers external services to clients of the DSS dialect, and which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from inference_server.commands.client import AsJson
from inference_server.commands.serve import Data
from inference_server.settings import load_settings
from inference_server.tasks.tickets.document import decode_service
from inference_server.tasks.tickets.providers import Providers
from inference_server.tasks.tickets.record import Service

Provider = Annotated[str, typer.Argument(metavar="PROVIDER", help="The provider's name.")]
User = Annotated[str, typer.Argument(metavar="NAME", help="The name of an access token.")]

app = typer.Typer(help="Providers of external services for ITK-SNAP.", no_args_is_help=True)
services = typer.Typer(help="External services for ITK-SNAP.", no_args_is_help=True)


@app.command("list")
def list_providers(data: Data = None, as_json: AsJson = False) -> None:
    """List the providers, who may serve for them, and what they offer."""
    found = _providers(data)
    records = [_record(found, name) for name in found.names()]
    if as_json:
        typer.echo(json.dumps(records))
        return
    table = Table("provider", "users", "services", box=None)
    for record in records:
        offered = [f"{one['name']} {one['version']}" for one in record["services"]]
        table.add_row(record["provider"], ", ".join(record["users"]), ", ".join(offered))
    Console().print(table)


@app.command("add")
def add_provider(provider: Provider, data: Data = None) -> None:
    """Make a provider."""
    _providers(data).add(provider)


@app.command("remove")
def remove_provider(provider: Provider, data: Data = None) -> None:
    """Remove a provider; services that nobody else offers are no longer listed."""
    _providers(data).remove(provider)


@app.command("admit")
def admit(provider: Provider, name: User, data: Data = None) -> None:
    """Let the bearer of an access token claim tickets for a provider."""
    _providers(data).admit(provider, name)


@app.command("dismiss")
def dismiss(provider: Provider, name: User, data: Data = None) -> None:
    """Let somebody claim no more tickets for a provider."""
    _providers(data).dismiss(provider, name)


@services.command("list")
def list_services(data: Data = None, as_json: AsJson = False) -> None:
    """List the external services that somebody offers."""
    found = _providers(data).services()
    if as_json:
        typer.echo(json.dumps([_brief(service) for service in found]))
        return
    table = Table("hash", "name", "version", "description", box=None)
    for service in found:
        table.add_row(service.githash, service.name, service.version, service.shortdesc)
    Console().print(table)


@services.command("add")
def add_service(
    provider: Provider,
    document: Annotated[Path, typer.Argument(metavar="FILE", help="The service.json.", exists=True, dir_okay=False)],
    githash: Annotated[str | None, typer.Option(help="Its hash, 40 digits; default: a digest of the file.")] = None,
    data: Data = None,
) -> None:
    """Have a provider offer the service of a `service.json`; print the service's hash."""
    service = decode_service(document.read_bytes(), githash)
    _providers(data).offer(provider, service)
    typer.echo(service.githash)


@services.command("remove")
def remove_service(
    provider: Provider,
    githash: Annotated[str, typer.Argument(metavar="HASH", help="The service's hash.")],
    data: Data = None,
) -> None:
    """Have a provider offer a service no longer."""
    _providers(data).withdraw(provider, githash)


def _providers(data: Any) -> Providers:
    from inference_server.tasks.database import open_database

    return Providers(open_database(load_settings({"data_dir": data}).database))


def _record(found: Providers, name: str) -> dict[str, Any]:
    users = [member.name for member in found.members(name)]
    return {"provider": name, "users": users, "services": [_brief(service) for service in found.offers_of(name)]}


def _brief(service: Service) -> dict[str, str]:
    return {"hash": service.githash, "name": service.name, "version": service.version, "shortdesc": service.shortdesc}
