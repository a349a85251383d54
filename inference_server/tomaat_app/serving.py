"""Serving the app of a script: its model folder, its certificate, and the embedded stack with HTTPS."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import typer
import yaml

from inference_server.errors import SettingsError
from inference_server.logs import configure_logging
from inference_server.settings import Settings, load_settings
from inference_server.stack.certificates import Pair, make_pair, shown
from inference_server.stack.supervisor import run_up
from inference_server.tomaat_app.config import Config
from inference_server.tomaat_app.folder import write_folder
from inference_server.tomaat_app.script import this_script
from inference_server.tomaat_app.service import TomaatService

MODELS, ANNOUNCERS = "app", "announcers.yaml"
"""What is written to the data folder: the repository of the one model, and where it is announced."""


def serve(service: TomaatService) -> None:
    """Serve a service until SIGINT or SIGTERM.

    Raises:
        SettingsError: the server cannot be started; the message says why.
    """
    config, script = service.checked, this_script()
    settings = service_settings(config)
    configure_logging(settings)

    def prepare() -> None:
        write_folder(settings.data_dir / MODELS / config.id, service.manifest, script)
        if config.announce:
            write_announcers(settings.data_dir / ANNOUNCERS, config)
        ensure_certificate(settings, config)

    run_up(settings, prepare=prepare, ready=lambda urls: tell(settings, urls))


def service_settings(config: Config) -> Settings:
    """Return the settings of the stack behind a service; those of the environment count where it says nothing.

    Raises:
        SettingsError: the environment's are not valid.
    """
    found = load_settings()
    has_folder = "data_dir" in found.model_fields_set
    folder = (found.data_dir if has_folder else found.data_dir / f"tomaat-{config.id}").absolute()
    pair = _own_pair(config.cert_path) if config.cert_path else None
    return load_settings(
        {
            "data_dir": folder,
            "models_dirs": str(folder / MODELS),
            "zoo": False,
            "host": "127.0.0.1",
            "port": 0,
            "tls": True,
            "tls_host": "0.0.0.0",
            "tls_port": config.port,
            "tls_certificate": pair and pair.certificate,
            "tls_key": pair and pair.key,
            "open": "tomaat",
            "open_alone": True,  # whoever calls run() wants this one door open, and may never make a token
            "tomaat_root": config.id,
            "tomaat_announcers": folder / ANNOUNCERS if config.announce else None,
            "public_url": _public_url(config),
        }
    )


def ensure_certificate(settings: Settings, config: Config) -> None:
    """Make a certificate where there is neither one nor a key."""
    pair = Pair(settings.certificate, settings.certificate_key)
    if not pair.certificate.exists() and not pair.key.exists():
        name = _name(config.host)
        make_pair(pair, (socket.gethostname(), *([name] if name else [])))


def write_announcers(path: Path, config: Config) -> None:
    """Write where the service is announced, and with which key, for the server's owner only."""
    told = {name: getattr(config, name) for name in ("modality", "anatomy", "task", "name", "description")}
    model = {"key": config.api_key, **told}
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        yaml.safe_dump([{"url": config.announcement, "models": {config.id: model}}], file)


def tell(settings: Settings, urls: str) -> None:
    """Print what tells the certificate from others, and where the service is.

    Args:
        settings: of the stack.
        urls: that it listens at, the one of HTTPS last.
    """
    certificate = shown(settings.certificate)
    port = urls.rpartition(":")[2]
    typer.echo(f"certificate  {settings.certificate}")
    typer.echo(f"SHA-256      {certificate.sha256}")
    typer.echo(f"ready {settings.public_url or f'https://{socket.gethostname()}:{port}'}")


def _own_pair(path: Path) -> Pair:
    """Return the certificate and the key that a path stands for.

    It names a file with both, a certificate with its key beside it (`.key`), a folder with `certificate.pem` and
    `key.pem`, or what the names of a `.crt` and a `.key` begin with; these are made where they are not there.
    """
    path = path.absolute()
    if path.is_dir():
        return Pair(path / "certificate.pem", path / "key.pem")
    if path.is_file():
        key = path.with_suffix(".key")
        return Pair(path, key if key.is_file() else path)
    return Pair(path.with_name(f"{path.name}.crt"), path.with_name(f"{path.name}.key"))


def _public_url(config: Config) -> str | None:
    """Return the base of the URLs that are announced; None where nothing has to be known of it."""
    host = config.host.rstrip("/")
    if "://" in host:
        return host
    if not host and not config.announce:
        return None
    if not config.port and ":" not in host:
        raise SettingsError(
            "A port that is found at start cannot be announced: give the config a `port` or a `host` with one."
        )
    host = host or socket.getfqdn()
    return f"https://{host}" if ":" in host else f"https://{host}:{config.port}"


def _name(host: str) -> str:
    """Return the name or address in a host of the config, without scheme and port."""
    return host.rpartition("//")[2].rstrip("/").rpartition(":")[0] or host.rpartition("//")[2].rstrip("/")
