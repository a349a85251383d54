from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from inference_server.cli import app
from inference_server.errors import SettingsError
from inference_server.settings import PREFIX, Settings, load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)


def options(command: Any) -> Iterator[Any]:
    yield from command.params
    for part in getattr(command, "commands", {}).values():
        yield from options(part)


def test_a_variable_that_a_command_reads_stops_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    read = {str(option.envvar) for option in options(typer.main.get_command(app)) if option.envvar}
    ours = {name for name in read if name.startswith(PREFIX)}
    assert PREFIX + "FINGERPRINT" in ours
    for name in ours:
        monkeypatch.setenv(name, "https://server.example")
    load_settings()


def test_an_unknown_variable_with_our_prefix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "PROT", "9000")
    with pytest.raises(SettingsError, match="INFERENCE_SERVER_PROT is unknown"):
        load_settings()


def test_a_malformed_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "PORT", "many")
    with pytest.raises(SettingsError, match=r"INFERENCE_SERVER_PORT: .*integer"):
        load_settings()


def test_a_log_level_that_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "LOG_LEVEL", "loud")
    with pytest.raises(SettingsError, match="INFERENCE_SERVER_LOG_LEVEL"):
        load_settings()


@pytest.mark.parametrize("queues", ["", " ", ",", " , "])
def test_a_worker_of_no_queue_is_refused(queues: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "QUEUES", queues)
    with pytest.raises(SettingsError, match="INFERENCE_SERVER_QUEUES"):
        load_settings()


def test_an_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "PORT", "9000")
    assert load_settings().port == 9000
    assert load_settings({"port": 9001, "host": None}).port == 9001


def test_settings_survive_the_way_to_a_child_process(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "port": 0,
        "data_dir": Path("/data"),
        "models_dirs": "/a,/b",
        "broker_url": "redis+socket://:secret@/x",
        "zoo": False,
        "lease_s": 2.5,
    }
    settings = load_settings(given)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings
    assert load_settings().model_folders == (Path("/a"), Path("/b"))
