"""`classify`: one chest X-ray over the image socket, and what the native API knows of the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from inference_server.clients.image_socket import (
    MEANINGS,
    PORT,
    ImageSocketClient,
    ImageSocketError,
    parse_address,
    tls,
)
from inference_server.clients.native import Client, ServerError
from inference_server.commands.client import LOCAL, AsJson, Certificate, Token

Address = Annotated[str, typer.Option("--server", help="The image socket as host:port.")]
Api = Annotated[
    str, typer.Option(envvar="INFERENCE_SERVER_SERVER", help="URL of the native API, which knows the probabilities.")
]
Tls = Annotated[bool, typer.Option("--tls", help="Speak TLS; --certificate says which certificate to trust.")]
ClientCertificate = Annotated[
    Path | None, typer.Option(help="One's own certificate (PEM), if the server asks for one.")
]
ClientKey = Annotated[Path | None, typer.Option(help="Its key (PEM), where that is another file.")]
Classes = Mapping[str, float]


@dataclass(frozen=True)
class Findings:
    """What the native API knows of a prediction, or why it tells nothing."""

    model: str = ""
    classes: Classes = field(default_factory=dict)
    members: Mapping[str, Classes] = field(default_factory=dict)
    why_not: str = ""


def classify(
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="PNG, JPEG or DICOM.")],
    code: Annotated[str, typer.Option(help="INCE, DENS, MYCN, VGG!, XCEP or ENSE.")] = "ENSE",
    server: Address = f"127.0.0.1:{PORT}",
    api: Api = LOCAL,
    token: Token = None,
    use_tls: Tls = False,
    certificate: Certificate = None,
    client_certificate: ClientCertificate = None,
    client_key: ClientKey = None,
    verify: Annotated[bool, typer.Option("--verify", help="Have the server compare the file's check sum.")] = False,
    as_json: AsJson = False,
) -> None:
    """Classify a chest X-ray over the image socket: prints P or N, and each model's probabilities."""
    host, port = parse_address(server)
    own = {"own_certificate": client_certificate, "own_key": client_key}
    context = tls(certificate=certificate, **own) if use_tls or client_certificate else None
    with ImageSocketClient(host, port, context=context) as client:
        if token:
            client.authorise(token)
        client.choose(code)
        client.send(image, verify=verify)
        letter = client.predict()
        uid = _uid(client)
    found = _findings(api, uid, token, certificate)
    _print(letter, code, uid, found, as_json=as_json)


def _uid(client: ImageSocketClient) -> str | None:
    try:
        return client.task()
    except ImageSocketError:
        return None  # a server of another make; it has answered all the same


def _findings(api: str, uid: str | None, token: str | None, certificate: Path | None) -> Findings:
    if uid is None:
        return Findings(why_not="this server does not tell which task it was.")
    try:
        with Client(api, token=token, certificate=certificate) as client:
            task = client.status(uid)
    except ServerError as error:
        return Findings(why_not=error.message)
    report: Mapping[str, Any] = task.raw.get("report", {})
    return Findings(task.model, report.get("classifications", {}), report.get("members", {}))


def _print(letter: str, code: str, uid: str | None, found: Findings, *, as_json: bool) -> None:
    if found.why_not:
        typer.echo(f"No probabilities: {found.why_not}", err=True)
    if as_json:
        record = {
            "answer": letter,
            "meaning": MEANINGS[letter],
            "code": code,
            "task": uid,
            "model": found.model or None,
        }
        typer.echo(json.dumps({**record, "probabilities": found.classes, "members": found.members}))
        return
    typer.echo(f"{letter} ({MEANINGS[letter]})")
    rows = {**({found.model: found.classes} if found.classes else {}), **found.members}
    width = max(map(len, rows), default=0)
    for name, classes in rows.items():
        typer.echo(f"{name:{width}}  " + ", ".join(f"{kind} {chance:.1%}" for kind, chance in classes.items()))
