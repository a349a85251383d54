"""Where sessions of DSS servers are kept: in the keyring, else in a file that only its owner reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import typer

from inference_server.errors import BadRequest

SERVICE = "system"


def key_of(server: str) -> str:
    """Return the name of a session in the keyring; the `itksnap-dss` package uses the same, so that both share it."""
    return f"itksnap_dss_python:{server}"


class Sessions(Protocol):
    """Keeps one session for each server."""

    def load(self, server: str) -> str | None:
        """Return the session of a server, or None."""

    def save(self, server: str, session: str) -> None:
        """Keep a session instead of the one before."""

    def forget(self, server: str) -> None:
        """Remove a session, if there is one."""


def default_sessions() -> Sessions:
    """Return the keyring where a usable one is installed, else the file."""
    with suppress(ImportError):
        import keyring
        import keyring.core

        if keyring.core.recommended(keyring.get_keyring()):
            return KeyringSessions()
    return FileSessions()


def default_path() -> Path:
    """Return the file of sessions, in the user's configuration folder."""
    return Path(typer.get_app_dir("inference-server")) / "dss_sessions"


@dataclass(frozen=True)
class FileSessions:
    """A file with a line for each server: its URL and the session."""

    path: Path = field(default_factory=default_path)

    def load(self, server: str) -> str | None:
        """Return the session of a server, or None.

        Raises:
            BadRequest: the file cannot be read.
        """
        return self._all().get(server)

    def save(self, server: str, session: str) -> None:
        """Keep a session instead of the one before.

        Raises:
            BadRequest: the file cannot be written.
        """
        self._write({**self._all(), server: session})

    def forget(self, server: str) -> None:
        """Remove a session, if there is one."""
        self._write({known: session for known, session in self._all().items() if known != server})

    def _all(self) -> dict[str, str]:
        with _file_errors(self.path), suppress(FileNotFoundError):
            pairs = [line.split(" ", 1) for line in self.path.read_text().splitlines()]
            return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
        return {}

    def _write(self, sessions: dict[str, str]) -> None:
        """Replace the file as a whole; it is never readable for others, not even for a moment."""
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with _file_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o600), "w") as file:
                file.writelines(f"{server} {session}\n" for server, session in sessions.items())
            draft.replace(self.path)


@dataclass(frozen=True)
class KeyringSessions:
    """The keyring of the user's desktop; while it is locked or away, the file."""

    file: FileSessions = field(default_factory=FileSessions)

    def load(self, server: str) -> str | None:
        """Return the session of a server, or None."""
        return self._asked("get_password", server) or self.file.load(server)

    def save(self, server: str, session: str) -> None:
        """Keep a session instead of the one before."""
        self._asked("set_password", server, session)
        if self._asked("get_password", server) == session:
            self.file.forget(server)
        else:
            self.file.save(server, session)

    def forget(self, server: str) -> None:
        """Remove a session, if there is one."""
        self._asked("delete_password", server)
        self.file.forget(server)

    @staticmethod
    def _asked(verb: str, server: str, *more: str) -> str | None:
        """Ask the keyring; a keyring that is locked or away knows nothing."""
        import keyring
        from keyring.errors import KeyringError

        with suppress(KeyringError):
            return cast(str | None, getattr(keyring, verb)(SERVICE, key_of(server), *more))
        return None


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise BadRequest(f"The sessions in {path} cannot be read or written: {exc.strerror}.") from exc
