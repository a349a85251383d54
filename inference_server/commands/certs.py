"""`certs`: a certificate for HTTPS."""

from __future__ import annotations

from typing import Annotated

import typer

from inference_server.commands.serve import Data
from inference_server.errors import SettingsError
from inference_server.settings import load_settings


def certs(
    names: Annotated[list[str] | None, typer.Argument(help="Names and addresses that clients call it by.")] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long it is valid.")] = 825,
    replace: Annotated[bool, typer.Option("--replace", help="Make another one in place of the one there is.")] = False,
    data: Data = None,
) -> None:
    """Make a self-signed certificate, if there is none, and print its fingerprints."""
    from inference_server.stack.certificates import Pair, make_pair, shown

    settings = load_settings({"data_dir": data})
    pair = Pair(settings.certificate, settings.certificate_key)
    if settings.tls_certificate and (names or replace):
        raise SettingsError("INFERENCE_SERVER_TLS_CERTIFICATE names a certificate of yours, which is never replaced.")
    exists = settings.tls_certificate is not None or pair.certificate.exists()
    if exists and names and not replace:
        raise SettingsError(
            "There is a certificate already. With --replace another one takes its place; whoever trusts the old one "
            "has to be given the new one."
        )
    if replace or not exists:
        make_pair(pair, names or (), days=days)
    seen = shown(pair.certificate)
    typer.echo(f"certificate  {pair.certificate}")
    typer.echo(f"names        {', '.join(seen.names)}")
    typer.echo(f"valid until  {seen.until:%Y-%m-%d}")
    typer.echo(f"SHA-256      {seen.sha256}")
    typer.echo(f"SHA-1        {seen.sha1}")
