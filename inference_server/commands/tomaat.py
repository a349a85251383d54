"""`tomaat`: services of the TOMAAT protocol on the command line, ours and others."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from inference_server.clients.fingerprints import KnownCertificates, Trust, host_of
from inference_server.clients.tomaat import Inputs, Output, Progress, TomaatClient
from inference_server.clients.tomaat.connections import parse_url
from inference_server.clients.tomaat.inputs import described, usage
from inference_server.clients.tomaat.progress import Show
from inference_server.errors import BadRequest

Url = Annotated[str, typer.Argument(help="The service's URL, such as https://server:8443/tomaat/ct-body.")]
Fingerprint = Annotated[
    str | None,
    typer.Option(
        envvar="INFERENCE_SERVER_FINGERPRINT",
        help="SHA-256 fingerprint of the server's certificate, to be trusted without asking or remembering.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

app = typer.Typer(help="Services of the TOMAAT protocol, as 3D Slicer uses them.", no_args_is_help=True)
progress = Console(stderr=True)


@app.command()
def discover(
    url: Annotated[str, typer.Argument(help="The announcement service's URL, with or without /discover.")],
    fingerprint: Fingerprint = None,
    as_json: AsJson = False,
) -> None:
    """List the services that an announcement service knows."""
    with TomaatClient(_trust(fingerprint)) as client:
        found = client.discover(url)
    if as_json:
        typer.echo(json.dumps([asdict(service) for service in found]))
        return
    _echo_rows([(each.name, each.modality, each.anatomy, each.task, each.prediction_url) for each in found])


@app.command()
def interface(url: Url, fingerprint: Fingerprint = None, as_json: AsJson = False) -> None:
    """Show what a service asks for, and how to give it."""
    with TomaatClient(_trust(fingerprint)) as client:
        elements = client.interface(url)
    if as_json:
        typer.echo(json.dumps([asdict(element) for element in elements]))
        return
    rows = [(usage(element), described(element), "" if element.required else "may be left out") for element in elements]
    _echo_rows(rows)


@app.command()
def predict(
    url: Url,
    volume: Annotated[list[str] | None, typer.Option("--volume", help="An image as destination=FILE.")] = None,
    value: Annotated[list[str] | None, typer.Option("--set", help="A value as destination=VALUE.")] = None,
    points: Annotated[list[str] | None, typer.Option("--points", help="Points as destination=FILE.")] = None,
    transform: Annotated[list[str] | None, typer.Option("--transform", help="A transform as destination=FILE.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for what the service gives.")] = Path(),
    timeout: Annotated[float | None, typer.Option(min=1, help="Seconds to wait for the result.")] = None,
    first_generation: Annotated[
        bool, typer.Option("--first-generation", help="The service is an old one: one volume, and a threshold.")
    ] = False,
    fingerprint: Fingerprint = None,
    as_json: AsJson = False,
) -> None:
    """Send images and values to a service, wait, and write what it gives into a folder."""
    inputs = Inputs(
        volumes=_files("--volume", volume),
        values=_pairs("--set", value),
        points=_files("--points", points),
        transforms=_files("--transform", transform),
    )
    with TomaatClient(_trust(fingerprint)) as client, _progress_line() as show:
        if first_generation:
            [image], threshold = _old(inputs)
            given = client.predict_first_generation(
                url, image, out, threshold=threshold, timeout_s=timeout, on_progress=show
            )
        else:
            given = client.predict(url, inputs, out, timeout_s=timeout, on_progress=show)
    _print(given, as_json)


@app.command()
def forget(url: Annotated[str, typer.Argument(help="A URL of the server.")]) -> None:
    """Trust a server's certificate no longer; the next command asks for it anew."""
    host = host_of(parse_url(url))
    if not KnownCertificates().forget(host):
        raise BadRequest(f"No certificate of {host} is remembered.")


def _trust(fingerprint: str | None) -> Trust:
    return Trust(fingerprint, confirm=_confirmed if sys.stdin.isatty() else None)


def _confirmed(host: str, fingerprint: str) -> bool:
    typer.echo(
        f"The certificate of {host} is not signed by an authority known here. Its SHA-256 fingerprint is\n"
        f"{fingerprint}\n(`inference-server certs` prints it on the server's machine).",
        err=True,
    )
    return typer.confirm("Trust it from now on?", err=True)


def _pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in given or ()]
    for name, separator, said in pairs:
        if not name or not separator or not said:
            raise BadRequest(f"This is given as {option} destination={'VALUE' if option == '--set' else 'FILE'}.")
    return {name: said for name, _, said in pairs}


def _files(option: str, given: Sequence[str] | None) -> dict[str, Path]:
    return {name: Path(said) for name, said in _pairs(option, given).items()}


def _old(inputs: Inputs) -> tuple[list[Path], float]:
    """Return the volume and the threshold of a service of the first generation."""
    if len(inputs.volumes) != 1 or set(inputs.values) - {"threshold"} or inputs.points or inputs.transforms:
        raise BadRequest(
            "A service of the first generation takes one volume, --volume images=FILE, and --set threshold=NUMBER."
        )
    try:
        return list(inputs.volumes.values()), float(inputs.values.get("threshold", 0.5))
    except ValueError as exc:
        raise BadRequest("The threshold must be a number.", field="threshold") from exc


@contextmanager
def _progress_line() -> Iterator[Show]:
    with progress.status("preparing") as line:

        def show(now: Progress) -> None:
            line.update(f"sending {now.fraction:.0%}" if now.fraction is not None else now.phase)

        yield show


def _print(outputs: Sequence[Output], as_json: bool) -> None:
    for output in outputs:
        if output.path is None:
            progress.print(Text(f"left out: '{output.label}' of type {output.type}, which this client does not know"))
        elif output.text is not None:
            progress.print(Text(f"{output.label}: {output.text}" if output.label else output.text))
    if as_json:
        typer.echo(json.dumps([{**asdict(output), "path": output.path and str(output.path)} for output in outputs]))
        return
    for output in outputs:
        if output.path is not None:
            typer.echo(output.path)


def _echo_rows(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
