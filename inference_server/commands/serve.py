"""`up`, `api`, `worker`, `housekeeping`, `settings`: the server and its parts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from inference_server.errors import SettingsError
from inference_server.logs import configure_logging
from inference_server.settings import PREFIX, Settings, load_settings
from inference_server.stack.redis import running_url

LOOPBACK = ("127.0.0.1", "localhost", "::1")

Data = Annotated[Path | None, typer.Option("--data", help="Folder of records, blobs and the embedded Redis.")]
Models = Annotated[list[Path] | None, typer.Option("--models", help="A folder of models; may be repeated.")]
Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")]
NoAuth = Annotated[bool | None, typer.Option("--no-auth", help="Listen beyond this machine without access control.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def up(
    data: Data = None,
    models: Models = None,
    host: Host = None,
    port: Port = None,
    no_auth: NoAuth = None,
    device: Device = None,
) -> None:
    """Run Redis, API, worker and housekeeping on this machine; prints `ready <url>` once all of it is."""
    from inference_server.stack.supervisor import run_up

    given = {"data_dir": data, "models_dirs": models, "host": host, "port": port, "no_auth": no_auth, "device": device}
    run_up(_public_settings(given), ready=_announce)


def api(data: Data = None, models: Models = None, host: Host = None, port: Port = None, no_auth: NoAuth = None) -> None:
    """Run the HTTP API alone."""
    from inference_server.api.server import run_api

    given = {"data_dir": data, "models_dirs": models, "host": host, "port": port, "no_auth": no_auth}
    run_api(_with_broker(_public_settings(given)), ready=_announce)


def worker(data: Data = None, models: Models = None, device: Device = None) -> None:
    """Run a worker alone: start more of them to compute more cases at a time."""
    from inference_server.tasks.worker import run_worker

    given = {"data_dir": data, "models_dirs": models, "device": device}
    run_worker(_with_broker(_settings(given)), ready=_announce)


def housekeeping(data: Data = None, models: Models = None) -> None:
    """Run housekeeping alone: it returns lost tasks to the queue and removes what has expired."""
    from inference_server.tasks.housekeeping import run_housekeeping

    run_housekeeping(_with_broker(_settings({"data_dir": data, "models_dirs": models})), ready=_announce)


def settings() -> None:
    """List every setting with its value and meaning."""
    values = load_settings()
    for name, field in Settings.model_fields.items():
        shown = re.sub(r"(://[^:@/]*):[^@/]+@", r"\1:***@", str(getattr(values, name)))
        typer.echo(f"{PREFIX}{name.upper()}={shown}  # {field.description}")


def _settings(given: dict[str, Any]) -> Settings:
    if models := given.pop("models_dirs"):
        given["models_dirs"] = ",".join(str(path.absolute()) for path in models)
    loaded = load_settings(given)
    configure_logging(loaded)
    return loaded


def _public_settings(given: dict[str, Any]) -> Settings:
    loaded = _settings(given)
    if loaded.host not in LOOPBACK and not loaded.no_auth:
        raise SettingsError(
            f"The server would be open to everybody who reaches {loaded.host}. Listen on 127.0.0.1 behind a proxy that "
            "controls access, or say --no-auth if the network itself does."
        )
    return loaded


def _with_broker(loaded: Settings) -> Settings:
    """Fall back to the embedded Redis of an `up` that runs on the same data folder."""
    if loaded.broker_url:
        return loaded
    if url := running_url(loaded.data_dir):
        return loaded.model_copy(update={"broker_url": url})
    raise SettingsError(
        f"No broker is known. Set {PREFIX}BROKER_URL, or run `inference-server up` on this data folder first."
    )


def _announce(what: str) -> None:
    typer.echo(f"ready {what}".rstrip())
