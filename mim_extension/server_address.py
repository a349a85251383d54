"""The address of a server, with its secret kept apart from what may be shown."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import SplitResult, quote, unquote, urlsplit

from .errors import SettingsError


@dataclass(frozen=True)
class ServerAddress:
    """Where a server is. ``shown`` may be logged; ``auth`` (user and secret, UTF-8) never is."""

    base_url: str
    shown: str
    auth: tuple[bytes, bytes] | None = field(default=None, repr=False)
    is_exposed: bool = False

    @property
    def tasks_url(self) -> str:
        return f"{self.base_url}/api/tasks/"

    def task_url(self, uid: str) -> str:
        return self.tasks_url + quote(uid, safe="")


def parse_server_url(server_url: str) -> ServerAddress:
    """Split a ``server_url`` into the address, what may be shown of it, and the secret in its user-info.

    Args:
        server_url: ``http://`` or ``https://``, host, optional port and path, optional ``user:secret@``.

    Returns:
        The address without the user-info; ``is_exposed`` where it is plain HTTP to another computer.

    Raises:
        SettingsError: it is no such address. The sentence repeats no part of it.
    """
    parts = _split(server_url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    netloc = f"{host}:{parts.port}" if parts.port else f"{host}"
    shown = f"{parts.scheme}://{netloc}"
    return ServerAddress(
        base_url=shown + parts.path.rstrip("/"),
        shown=shown,
        auth=_auth(parts),
        is_exposed=parts.scheme == "http" and not _is_this_computer(parts.hostname or ""),
    )


def _split(server_url: str) -> SplitResult:
    try:
        parts = urlsplit(server_url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise _not_an_address() from None
    # A '/', '?' or '#' in the secret ends the host early and would put the rest of the secret where it is shown.
    if not usable or "@" in parts.path + parts.query + parts.fragment:
        raise _not_an_address()
    return parts


def _not_an_address() -> SettingsError:
    return SettingsError(
        "server_url is not the address of a server. It reads like https://server.hospital.example, or "
        "https://user:secret@server.hospital.example with the characters /, ?, #, @ and : of a secret written "
        "as %2F, %3F, %23, %40 and %3A."
    )


def _auth(parts: SplitResult) -> tuple[bytes, bytes] | None:
    if parts.username is None:
        return None
    return unquote(parts.username).encode(), unquote(parts.password or "").encode()


def _is_this_computer(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
