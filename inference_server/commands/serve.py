"""`up`, `api`, `image-socket`, `worker`, `housekeeping`, `settings`: the server and its parts."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from inference_server.errors import SettingsError
from inference_server.logs import configure_logging
from inference_server.settings import PREFIX, Settings, load_settings
from inference_server.stack.redis import running_url

Data = Annotated[Path | None, typer.Option("--data", help="Folder of records, blobs and the embedded Redis.")]
Models = Annotated[list[Path] | None, typer.Option("--models", help="A folder of models; may be repeated.")]
Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")]
NoAuth = Annotated[bool | None, typer.Option("--no-auth", help="Let in everybody who reaches the server.")]
Open = Annotated[str | None, typer.Option("--open", help="Dialects that take clients without a token.")]
Tls = Annotated[bool | None, typer.Option("--tls", help="Listen for HTTPS beside HTTP.")]
TlsPort = Annotated[int | None, typer.Option(help="Port of HTTPS; 0 takes a free one.")]
TlsHost = Annotated[str | None, typer.Option(help="Address to listen on for HTTPS; that of HTTP where not given.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
SocketPort = Annotated[int | None, typer.Option(help="Port of the image socket, 50022 by its protocol.")]
SocketTls = Annotated[bool | None, typer.Option("--tls", help="Speak TLS, with the certificate of HTTPS.")]

Wait = Annotated[bool, typer.Option("--wait", hidden=True, help="Load libraries, and wait for a line before the rest.")]


def up(
    data: Data = None,
    models: Models = None,
    host: Host = None,
    port: Port = None,
    tls: Tls = None,
    tls_host: TlsHost = None,
    tls_port: TlsPort = None,
    image_socket_port: SocketPort = None,
    open_to: Open = None,
    no_auth: NoAuth = None,
    device: Device = None,
) -> None:
    """Run Redis, API, worker and housekeeping on this machine; prints `ready <url>` once all of it is."""
    from inference_server.stack.supervisor import run_up

    places = {"host": host, "port": port, "tls": tls, "tls_host": tls_host, "tls_port": tls_port}
    places["image_socket_port"] = image_socket_port
    given = {"data_dir": data, "models_dirs": models, **places, "open": open_to, "no_auth": no_auth, "device": device}
    run_up(_public_settings(given), ready=_announce)


def api(
    data: Data = None,
    models: Models = None,
    host: Host = None,
    port: Port = None,
    tls: Tls = None,
    tls_host: TlsHost = None,
    tls_port: TlsPort = None,
    open_to: Open = None,
    no_auth: NoAuth = None,
) -> None:
    """Run the HTTP API alone."""
    from inference_server.api.server import run_api

    places = {"host": host, "port": port, "tls": tls, "tls_host": tls_host, "tls_port": tls_port}
    given = {"data_dir": data, "models_dirs": models, **places, "open": open_to, "no_auth": no_auth}
    run_api(_with_broker(_public_settings(given)), ready=_announce)


def image_socket(
    data: Data = None,
    models: Models = None,
    host: Host = None,
    port: SocketPort = None,
    tls: SocketTls = None,
    open_to: Open = None,
    no_auth: NoAuth = None,
) -> None:
    """Run the image socket alone: chest X-rays over TCP."""
    from inference_server.api.image_socket.server import run_image_socket

    places = {"image_socket_host": host, "image_socket_port": port, "image_socket_tls": tls}
    given = {"data_dir": data, "models_dirs": models, **places, "open": open_to, "no_auth": no_auth}
    run_image_socket(_with_broker(_public_settings(given)), ready=_announce)


def worker(data: Data = None, models: Models = None, device: Device = None, wait: Wait = False) -> None:
    """Run a worker alone, or one on each GPU: start more of them to compute more cases at a time."""
    from inference_server.tasks.gpus import worker_devices

    loaded = _with_broker(_settings({"data_dir": data, "models_dirs": models, "device": device}))
    devices = worker_devices(loaded.device, os.environ)
    if len(devices) > 1:
        from inference_server.stack.fleet import run_fleet

        run_fleet(loaded, devices, ready=_announce)
        return
    from inference_server.tasks.worker import run_worker

    run_worker(loaded, ready=_announce, begin=_await_line if wait else None)


def housekeeping(data: Data = None, models: Models = None) -> None:
    """Run housekeeping alone: it returns lost tasks to the queue and removes what has expired."""
    from inference_server.tasks.housekeeping import run_housekeeping

    run_housekeeping(_with_broker(_settings({"data_dir": data, "models_dirs": models})), ready=_announce)


def settings() -> None:
    """List every setting with its value and meaning."""
    values = load_settings()
    for name, field in Settings.model_fields.items():
        value = getattr(values, name)
        shown = re.sub(r"(://[^:@/]*):[^@/]+@", r"\1:***@", str(value)) if field.repr or not value else "***"
        typer.echo(f"{PREFIX}{name.upper()}={shown}  # {field.description}")


def _settings(given: dict[str, Any]) -> Settings:
    if models := given.pop("models_dirs"):
        given["models_dirs"] = ",".join(str(path.absolute()) for path in models)
    loaded = load_settings(given)
    configure_logging(loaded)
    return loaded


def _public_settings(given: dict[str, Any]) -> Settings:
    """Refuse to listen beyond this machine while nothing tells users from strangers, unless told that this is meant."""
    loaded = _settings(given)
    others = [loaded.tls_host if loaded.tls else None, loaded.image_socket_host]
    hosts = [loaded.host, *(host for host in others if host)]
    beyond = [host for host in hosts if not _is_loopback(host)]
    is_meant = loaded.no_auth or (loaded.open_alone and loaded.opened)
    if beyond and not is_meant and not _has_tokens(loaded):
        raise SettingsError(
            f"The server would be open to everybody who reaches {beyond[0]}: there is no access token. Make one with "
            "`inference-server tokens create NAME` (and the same --data), or listen on 127.0.0.1, or say --no-auth if "
            "everybody there may do everything."
        )
    return loaded


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _has_tokens(loaded: Settings) -> bool:
    from inference_server.tasks.database import open_database
    from inference_server.tasks.tokens import Tokens

    return Tokens(open_database(loaded.database)).any()


def _with_broker(loaded: Settings) -> Settings:
    """Fall back to the embedded Redis of an `up` that runs on the same data folder."""
    if loaded.broker_url:
        return loaded
    if url := running_url(loaded.data_dir):
        return loaded.model_copy(update={"broker_url": url})
    raise SettingsError(
        f"No broker is known. Set {PREFIX}BROKER_URL, or run `inference-server up` on this data folder first."
    )


def _await_line() -> None:
    if not sys.stdin.readline():
        raise typer.Exit  # whoever might have wanted this process is gone


def _announce(what: str) -> None:
    typer.echo(f"ready {what}".rstrip())
