"""Self-signed certificates for HTTPS, and what tells one from another."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from inference_server.errors import SettingsError

ALWAYS = ("localhost", "127.0.0.1", "::1")
"""Names under which a server's own machine calls it."""
CLOCKS_APART = timedelta(days=1)
"""A certificate is valid from this long before it is made, for clients whose clocks are late."""
_NAME_LIMIT = 64
_DNS_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True)
class Pair:
    """Where a certificate and its key lie, both in PEM form."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Shown:
    """What an operator tells to whoever has to trust a certificate. `until` is in UTC."""

    names: tuple[str, ...]
    until: datetime
    sha256: str
    sha1: str


def make_pair(pair: Pair, names: Sequence[str] = (), *, days: int = 825) -> None:
    """Write a self-signed certificate and its key, the key for its owner only.

    Args:
        pair: where to; files that are there are replaced.
        names: host names and addresses that clients call the server by; this machine's own where there is none.
        days: how long it is valid.

    Raises:
        SettingsError: a name is none, or the folder cannot be written.
    """
    called = tuple(dict.fromkeys((*(names or _own_names()), *ALWAYS)))
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _signed(key, called, days)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        pair.certificate.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(pair.key, secret, 0o600)
        _write(pair.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    except OSError as exc:
        raise SettingsError(f"The certificate cannot be written to {pair.certificate.parent}: {exc.strerror}.") from exc


def shown(certificate: Path) -> Shown:
    """Return what tells a certificate from others.

    Raises:
        SettingsError: the file is not there, or holds no certificate in PEM form.
    """
    try:
        read = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except OSError as exc:
        raise SettingsError(f"The certificate {certificate} cannot be read: {exc.strerror}.") from exc
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    except ValueError as exc:
        raise SettingsError(f"The file {certificate} holds no certificate in PEM form.") from exc
    prints = (_colons(read.fingerprint(kind)) for kind in (hashes.SHA256(), hashes.SHA1()))
    return Shown(tuple(str(name.value) for name in names), read.not_valid_after_utc, *prints)


def _signed(key: ec.EllipticCurvePrivateKey, names: Sequence[str], days: int) -> x509.Certificate:
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:_NAME_LIMIT])])
    usage = dict.fromkeys(_OTHER_USAGES, False)
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - CLOCKS_APART)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


_OTHER_USAGES = (
    "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
    "encipher_only", "decipher_only",
)  # fmt: skip


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        plain = name.encode("idna").decode()
    except UnicodeError:
        plain = ""
    if not _DNS_NAME.fullmatch(plain):
        raise SettingsError(f"'{name}' is not the name or address of a host.")
    return x509.DNSName(plain)


def _own_names() -> tuple[str, ...]:
    return (socket.gethostname(),)


def _write(path: Path, content: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)


def _colons(digest: bytes) -> str:
    return digest.hex(":").upper()
