"""Where sessions of DSS servers are kept."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import keyring
import keyring.backends.fail
import keyring.backends.null
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked

from inference_server.clients.dss.sessions import FileSessions, KeyringSessions, default_sessions

SERVER, OTHER = "https://dss.example.org", "http://127.0.0.1:8000"


class Desktop(KeyringBackend):
    """A keyring in memory, which may be locked."""

    priority = 5.0  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        self._check()
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._check()
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._check()
        self.kept.pop((service, username), None)

    def _check(self) -> None:
        if self.locked:
            raise KeyringLocked("locked")


@pytest.fixture
def desktop(monkeypatch: pytest.MonkeyPatch) -> Desktop:
    backend = Desktop()
    monkeypatch.setattr(keyring.core, "_keyring_backend", backend)
    return backend


@pytest.fixture
def file(tmp_path: Path) -> Iterator[FileSessions]:
    return FileSessions(tmp_path / "home" / "sessions")


def test_a_file_keeps_one_session_for_each_server_and_is_private(file: FileSessions) -> None:
    assert file.load(SERVER) is None
    for server, session in ((SERVER, "one"), (OTHER, "two"), (SERVER, "three")):
        file.save(server, session)
    assert (file.load(SERVER), file.load(OTHER)) == ("three", "two")
    file.forget(SERVER)
    assert (file.load(SERVER), file.load(OTHER)) == (None, "two")
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.path.parent.iterdir()] == ["sessions"]


def test_a_keyring_is_taken_where_there_is_one_under_the_name_of_the_published_package(
    desktop: Desktop, file: FileSessions
) -> None:
    assert isinstance(default_sessions(), KeyringSessions)
    sessions = KeyringSessions(file)
    sessions.save(SERVER, "one")
    assert desktop.kept == {("system", f"itksnap_dss_python:{SERVER}"): "one"}
    assert file.load(SERVER) is None
    assert sessions.load(SERVER) == "one"
    sessions.forget(SERVER)
    assert sessions.load(SERVER) is None


def test_while_a_keyring_is_locked_the_file_serves(desktop: Desktop, file: FileSessions) -> None:
    sessions, desktop.locked = KeyringSessions(file), True
    sessions.save(SERVER, "one")
    assert file.load(SERVER) == "one"
    assert sessions.load(SERVER) == "one"
    sessions.forget(SERVER)
    assert sessions.load(SERVER) is None


@pytest.mark.parametrize("backend", [keyring.backends.fail.Keyring, keyring.backends.null.Keyring])
def test_a_keyring_that_keeps_nothing_is_not_taken(backend: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring.core, "_keyring_backend", backend())
    assert isinstance(default_sessions(), FileSessions)
