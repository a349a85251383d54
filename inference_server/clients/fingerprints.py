"""Certificates that no authority signed, trusted by their fingerprint.

It is asked for once and remembered, as ssh does; another one is refused from then on.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httpx
import typer

from inference_server.clients.native import ServerError
from inference_server.errors import BadRequest

PROBE_S = 5.0
_HEX_DIGITS = 64
_LINE = re.compile(r"(\S+) sha256 ([0-9A-F]{2}(?::[0-9A-F]{2}){31})")


def parse_fingerprint(text: str) -> str:
    """Return a SHA-256 fingerprint as it is shown everywhere: upper case, with colons.

    Raises:
        BadRequest: the text is none.
    """
    digits = re.sub(r"^sha-?256[:= ]\s*", "", text.strip(), flags=re.IGNORECASE).replace(":", "").replace(" ", "")
    if len(digits) != _HEX_DIGITS or re.search("[^0-9a-fA-F]", digits):
        raise BadRequest(
            "A SHA-256 fingerprint has 64 digits of 0-9 and A-F, with or without colons between them; "
            "`inference-server certs` prints it on the server's machine.",
            field="fingerprint",
        )
    return bytes.fromhex(digits).hex(":").upper()


def host_of(url: httpx.URL) -> str:
    """Return whom a certificate is remembered for: `host:port`."""
    host = url.raw_host.decode()
    return f"[{host}]:{url.port or 443}" if ":" in host else f"{host}:{url.port or 443}"


def unreachable(url: httpx.URL) -> ServerError:
    """Return the error for a server that does not answer."""
    return ServerError(f"The server at {url.scheme}://{url.netloc.decode()} does not answer.")


class PinnedContext(ssl.SSLContext):
    """Connects to whoever holds the key of one certificate, and to nobody else.

    Attributes:
        pinned: the certificate's fingerprint; None connects to nobody and only notes who was there.
        met: fingerprint of the certificate that the last server showed.
    """

    pinned: str | None = None
    met: str | None = None

    def check(self, certificate: bytes | None) -> None:
        """Compare the certificate of a server that has just proved to hold its key; nothing else was sent yet."""
        self.met = hashlib.sha256(certificate or b"").digest().hex(":").upper()
        if self.met != self.pinned:
            raise ssl.SSLCertVerificationError("the certificate has another fingerprint")


class _PinnedSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        cast(PinnedContext, self.context).check(self.getpeercert(binary_form=True))


class _PinnedObject(ssl.SSLObject):
    def do_handshake(self) -> None:
        super().do_handshake()
        cast(PinnedContext, self.context).check(self.getpeercert(binary_form=True))


def pinned_context(fingerprint: str | None) -> PinnedContext:
    """Return what connects to the holder of the certificate with this fingerprint alone."""
    context = PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # no authority is asked: `check` compares the certificate itself
    context.sslsocket_class, context.sslobject_class = _PinnedSocket, _PinnedObject
    context.pinned = fingerprint
    return context


def default_path() -> Path:
    """Return where trusted certificates are remembered: a file in the user's configuration folder."""
    return Path(typer.get_app_dir("inference-server")) / "known_certificates"


@dataclass(frozen=True)
class KnownCertificates:
    """A file with a line for each host: `host:port sha256 <fingerprint>`.

    Blank lines and those that begin with `#` count for nothing.
    """

    path: Path = field(default_factory=default_path)

    def fingerprint(self, host: str) -> str | None:
        """Return what is remembered for a host, or None.

        Raises:
            BadRequest: the file cannot be read, or has a line of another form.
        """
        return dict(self._pairs()).get(host)

    def remember(self, host: str, fingerprint: str) -> None:
        """Add a host.

        Raises:
            BadRequest: the file cannot be written.
        """
        with _file_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w") as file:
                file.write(f"{host} sha256 {fingerprint}\n")

    def forget(self, host: str) -> bool:
        """Remove a host; tells whether it was there.

        Raises:
            BadRequest: the file cannot be read or written.
        """
        if self.fingerprint(host) is None:
            return False
        with _file_errors(self.path):
            kept = [line for line in self._lines() if line.split(" ")[0] != host]
            draft = self.path.with_name(f"{self.path.name}.new")
            draft.write_text("".join(f"{line}\n" for line in kept))
            draft.chmod(0o600)
            draft.replace(self.path)
        return True

    def _lines(self) -> list[str]:
        with _file_errors(self.path), suppress(FileNotFoundError):
            return self.path.read_text().splitlines()
        return []

    def _pairs(self) -> list[tuple[str, str]]:
        pairs = []
        for number, line in enumerate(self._lines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if not match:
                raise BadRequest(
                    f"Line {number} of {self.path} is not `host:port sha256 <fingerprint>`; please mend or remove it."
                )
            pairs.append((match[1], match[2]))
        return pairs


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise BadRequest(f"The known certificates in {path} cannot be read or written: {exc.strerror}.") from exc


@dataclass(frozen=True)
class Trust:
    """Whose certificates are good.

    With a `fingerprint` that one's; else, where `known` remembers the host, that one's. Of other hosts those that an
    authority signed, and those that `confirm(host, fingerprint)` says yes to, which are remembered then.
    """

    fingerprint: str | None = None
    confirm: Callable[[str, str], bool] | None = None
    known: KnownCertificates = field(default_factory=KnownCertificates)

    def verification(self, url: httpx.URL) -> ssl.SSLContext | bool:
        """Return what to verify a server with; unless it is known how, the server is called, and the user asked.

        Raises:
            ServerError: the server's certificate is not trusted, or it does not answer.
            BadRequest: a fingerprint or the file of known certificates cannot be used.
        """
        if url.scheme != "https":
            return True
        pinned = parse_fingerprint(self.fingerprint) if self.fingerprint else self.known.fingerprint(host_of(url))
        if pinned:
            return pinned_context(pinned)
        return True if _signed(url) else pinned_context(self._confirmed(url))

    def refusal(self, url: httpx.URL, met: str) -> ServerError:
        """Return the error for a server that showed a certificate with fingerprint `met` where another was expected."""
        host = host_of(url)
        if self.fingerprint:
            message = f"{host} has a certificate with another fingerprint than the one given: {met}. Nothing was sent."
        else:
            message = (
                f"THE CERTIFICATE OF {host} HAS CHANGED. Somebody may be in between, or the server was given another "
                f"one. Remembered is {self.known.fingerprint(host)}, what came is {met}. Nothing was sent. If the "
                f"server's operator confirms the latter, say `inference-server tomaat forget https://{host}` and try "
                "again."
            )
        return ServerError(message, problem_code="certificate")

    def _confirmed(self, url: httpx.URL) -> str:
        host, met = host_of(url), _met(url)
        if self.confirm is None or not self.confirm(host, met):
            raise ServerError(
                f"The certificate of {host} is not signed by an authority known here, and not trusted yet. Its SHA-256 "
                f"fingerprint is {met}; if the server's operator confirms it, give it with --fingerprint.",
                problem_code="certificate",
            )
        self.known.remember(host, met)
        return met


def _signed(url: httpx.URL) -> bool:
    try:
        _probe(url, True)
    except httpx.ConnectError as exc:
        if "CERTIFICATE_VERIFY_FAILED" in str(exc):
            return False
        raise unreachable(url) from exc
    return True


def _met(url: httpx.URL) -> str:
    nobody = pinned_context(None)
    with suppress(httpx.ConnectError):
        _probe(url, nobody)
    if nobody.met is None:
        raise unreachable(url)
    return nobody.met


def _probe(url: httpx.URL, verify: ssl.SSLContext | bool) -> None:
    """Connect; what a server answers, and whether, is of no interest here."""
    with httpx.Client(verify=verify, timeout=PROBE_S) as http, suppress(httpx.ReadTimeout, httpx.RemoteProtocolError):
        http.head(url.copy_with(path="/", query=None, fragment=None, username=None, password=None))
