"""`doctor`: checks what the server needs on this machine, and says how to mend what is wrong."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from inference_server.commands.serve import Data, Models, Port, SocketPort
from inference_server.errors import InferenceServerError, SettingsError
from inference_server.settings import GIB, Settings, load_settings
from inference_server.stack.redis import find_redis, running_url

LEFT_DAYS = 30
"""A certificate that is valid for less is due to be replaced."""
Only = Annotated[str, typer.Option("--only", help="Names of checks, separated by commas; all where not given.")]
NO_TOKEN = "none yet; whoever is at this machine may do everything, and nobody else gets in"


@dataclass(frozen=True)
class Finding:
    """One thing looked at: well or not, what was seen, and how to mend it."""

    name: str
    well: bool
    seen: str
    mend: str = ""


def doctor(
    data: Data = None, models: Models = None, port: Port = None, image_socket_port: SocketPort = None, only: Only = ""
) -> None:
    """Check Redis, database, blobs, disk, device, models, ports, tokens and certificate; says how to mend each."""
    joined = ",".join(str(path.absolute()) for path in models) if models else None
    given = {"data_dir": data, "models_dirs": joined, "port": port, "image_socket_port": image_socket_port}
    settings = load_settings(given)
    findings = [_run(name, CHECKS[name], settings) for name in _chosen(only)]
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.well else 'BAD '} {finding.name}: {finding.seen}")
        if finding.mend:
            typer.echo(f"     {finding.mend}")
    if bad := [finding.name for finding in findings if not finding.well]:
        raise SettingsError(f"Not well: {', '.join(bad)}.")


def _chosen(only: str) -> list[str]:
    names = [part.strip() for part in only.split(",") if part.strip()]
    if unknown := [name for name in names if name not in CHECKS]:
        raise SettingsError(f"There is no check '{unknown[0]}'. The checks are {', '.join(CHECKS)}.")
    return names or list(CHECKS)


def _run(name: str, check: Callable[[Settings], Finding], settings: Settings) -> Finding:
    try:
        return check(settings)
    except InferenceServerError as error:
        return Finding(name, False, error.message)


def _broker(settings: Settings) -> Finding:
    url = settings.broker_url or running_url(settings.data_dir)
    if url is None:
        return Finding("broker", True, f"`up` would start {find_redis().name}; none runs on this data folder")
    from inference_server.tasks.queue import CeleryTurns

    turns = CeleryTurns(settings.model_copy(update={"broker_url": url}))
    reachable = turns.ready(settings.queue_names[0]) is not None
    mend = (
        "" if reachable else "Start it, or correct INFERENCE_SERVER_BROKER_URL; tasks are accepted meanwhile and wait."
    )
    return Finding("broker", reachable, "answers" if reachable else "does not answer", mend)


def _database(settings: Settings) -> Finding:
    from inference_server.tasks.database import open_database

    if settings.database.startswith("sqlite") and not settings.data_dir.is_dir():
        return Finding("database", True, "none yet; it is made at the first start")
    with open_database(settings.database).reading():
        pass
    return Finding("database", True, "answers")


def _blobs(settings: Settings) -> Finding:
    from inference_server.tasks.blobs import blobs_folder
    from inference_server.tasks.blobs.s3_store import PREFIX

    if settings.blobs.startswith(PREFIX):
        return _bucket(settings)
    folder = blobs_folder(settings.blobs)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    well = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    mend = "" if well else f"Let this user write into {existing}, or correct INFERENCE_SERVER_BLOBS_URL."
    return Finding("blobs", well, "can be written" if well else "cannot be written", mend)


def _bucket(settings: Settings) -> Finding:
    from inference_server.tasks.blobs.s3_store import why_unusable

    why = why_unusable(settings)
    mend = f"Correct INFERENCE_SERVER_BLOBS_URL and INFERENCE_SERVER_S3_…; the object store says: {why}" if why else ""
    return Finding("blobs", not why, "cannot be written" if why else "can be written", mend)


def _disk(settings: Settings) -> Finding:
    folder = settings.data_dir.absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    well = free > settings.disk_low_bytes
    mend = "" if well else "Free space, or set INFERENCE_SERVER_DISK_LOW_BYTES lower; uploads are refused below it."
    return Finding("disk", well, f"{free / GIB:.1f} GiB free", mend)


def _device(settings: Settings) -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("device", True, "no torch here: this machine serves the API, workers run elsewhere")
    from inference_server.models.device import describe_device, open_device

    return Finding("device", True, describe_device(open_device(settings.device)))


def _models(settings: Settings) -> Finding:
    from inference_server.models.registry import plain_registry

    registry = plain_registry(settings)
    names = ", ".join(f"{model.manifest.id} {model.manifest.version}" for model in registry.models())
    broken = "; ".join(f"{folder}: {why}" for folder, why in registry.problems().items())
    return Finding("models", bool(names) and not broken, names or "none", broken)


def _queues(settings: Settings) -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("queues", True, "no worker can run here")
    from inference_server.models.machine import this_machine
    from inference_server.models.registry import plain_registry
    from inference_server.tasks.fitness import MEND, explained, judge

    manifests = [model.manifest for model in plain_registry(settings).models()]
    fitness = judge(settings.queue_names, manifests, this_machine(settings.device))
    elsewhere = sorted({manifest.queue for manifest in manifests} - set(settings.queue_names))
    served = f"a worker here listens to {', '.join(fitness.queues) or 'none'}"
    seen = served + (f"; other workers are to listen to {', '.join(elsewhere)}" if elsewhere else "")
    return Finding("queues", not fitness.unfit, seen, f"{explained(fitness)} {MEND}" if fitness.unfit else "")


def _port(settings: Settings) -> Finding:
    return _listening("port", (settings.host, settings.port), settings, option="--port")


def _image_socket(settings: Settings) -> Finding:
    if settings.image_socket_port is None:
        return Finding("image-socket", True, "off")
    if unserved := _unserved_codes(settings):
        mend = "Correct INFERENCE_SERVER_IMAGE_SOCKET_MODELS, or add the models; clients that ask for these get a 3."
        return Finding("image-socket", False, f"no model that fits for {', '.join(unserved)}", mend)
    address = (settings.image_socket_host or settings.host, settings.image_socket_port)
    return _listening("image-socket", address, settings, option="--image-socket-port")


def _unserved_codes(settings: Settings) -> list[str]:
    from inference_server.api.image_socket.models import parse_models
    from inference_server.models.registry import plain_registry

    served = {model.manifest.id: model.manifest for model in reversed(plain_registry(settings).models())}
    choices = parse_models(settings.image_socket_models)
    return [
        code for code, choice in choices.items() if not (choice.model in served and choice.fits(served[choice.model]))
    ]


def _listening(name: str, address: tuple[str, int], settings: Settings, *, option: str) -> Finding:
    host, port = address
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as exc:
            mend = f"A server that runs already uses it; another program can be avoided with {option}."
            return Finding(name, running_url(settings.data_dir) is not None, f"{port} {exc.strerror}", mend)
    return Finding(name, True, f"{port} is free")


def _tokens(settings: Settings) -> Finding:
    if settings.database.startswith("sqlite") and not settings.data_dir.is_dir():
        return Finding("tokens", True, NO_TOKEN)
    from inference_server.tasks.database import open_database
    from inference_server.tasks.tokens import Tokens

    states = [token.state(time.time()) for token in Tokens(open_database(settings.database)).all()]
    if not states:
        return Finding("tokens", True, NO_TOKEN)
    valid = states.count("valid")
    mend = "" if valid else "Nobody gets in. Make one with `inference-server tokens create NAME`."
    return Finding("tokens", valid > 0, f"{valid} valid, {len(states) - valid} expired or revoked", mend)


def _certificate(settings: Settings) -> Finding:
    if not settings.tls and not settings.certificate.exists():
        return Finding("certificate", True, "none; HTTPS is off")
    from inference_server.stack.certificates import shown

    left = shown(settings.certificate).until - datetime.now(UTC)
    well = left > timedelta(days=LEFT_DAYS)
    mend = (
        "" if well else "Make another one with `inference-server certs --replace`, or renew your own; tell the clients."
    )
    return Finding("certificate", well, f"valid for {left.days} more days" if left.days >= 0 else "expired", mend)


CHECKS = {
    "broker": _broker,
    "database": _database,
    "blobs": _blobs,
    "disk": _disk,
    "device": _device,
    "models": _models,
    "queues": _queues,
    "port": _port,
    "image-socket": _image_socket,
    "tokens": _tokens,
    "certificate": _certificate,
}
