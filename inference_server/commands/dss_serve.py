"""`dss serve`: the bridge."""

from __future__ import annotations

import hashlib
import signal
from pathlib import Path
from typing import Annotated

import typer

from inference_server.clients.dss.bridge import Bridge, Desk, Journal, Offer, Patience
from inference_server.clients.dss.connection import Connection
from inference_server.clients.dss.provider import Provider
from inference_server.clients.native import Client
from inference_server.commands.client import LOCAL, Token, parameters
from inference_server.commands.dss_options import Certificate, Server, connected
from inference_server.errors import BadRequest
from inference_server.logs import configure_logging
from inference_server.settings import load_settings


def serve(
    server: Server,
    service: Annotated[list[str], typer.Option(help="Hash of a service whose tickets are served; may be repeated.")],
    model: Annotated[str, typer.Option(help="The model that serves them.")],
    provider: Annotated[str, typer.Option(help="The provider's name.")],
    code: Annotated[str, typer.Option(help="The name of this instance of the provider.")] = "bridge",
    param: Annotated[list[str] | None, typer.Option("--param", help="A parameter of the model as name=value.")] = None,
    state: Annotated[Path | None, typer.Option(help="Folder for the tickets in hand; one for each bridge.")] = None,
    at_once: Annotated[int, typer.Option(min=1, help="How many tickets may be in hand.")] = 2,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds to the next look, where no ticket waits.")] = 15.0,
    certificate: Certificate = None,
    inference_server: Annotated[str, typer.Option(envvar="INFERENCE_SERVER_SERVER", help="Our server's URL.")] = LOCAL,
    token: Token = None,
    inference_certificate: Annotated[
        Path | None, typer.Option(help="Certificate (PEM) to trust, for a server of ours with its own.")
    ] = None,
) -> None:
    """Serve tickets of a DSS server with a model of ours, until stopped; those in hand go on at the next start."""
    configure_logging(load_settings())
    folder = state or _default_state(server, provider, code)
    with (
        connected(server, certificate) as connection,
        Client(inference_server, token=token, certificate=inference_certificate) as client,
        Journal.opened(folder) as journal,
    ):
        _check(connection, client, model, service)
        given = parameters(param or [])
        desk = Desk(Provider(connection), client, journal, Patience(connection), model, given)
        bridge = Bridge(desk, Offer(service, provider, code), at_once=at_once, poll_s=poll)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: bridge.stop())
        typer.echo(f"serving {connection.server}")
        bridge.run()


def _check(connection: Connection, client: Client, model: str, services: list[str]) -> None:
    """Look for what would never come right by waiting."""
    client.model(model)
    provided = {each.hash for each in Provider(connection).services()}
    for service in services:
        if service not in provided:
            raise BadRequest(f"You are not a provider of the service {service} on this DSS server.", field="service")


def _default_state(server: str, provider: str, code: str) -> Path:
    name = hashlib.sha256(f"{server.rstrip('/')} {provider} {code}".encode()).hexdigest()[:16]
    return Path(typer.get_app_dir("inference-server")) / "dss-bridges" / name
