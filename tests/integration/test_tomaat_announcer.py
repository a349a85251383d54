"""The announcement service as a process of its own, and a server that announces its models to it by HTTPS."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from inference_server.cli import app
from inference_server.models.manifest import Manifest
from inference_server.settings import Settings
from inference_server.tasks import announcing
from inference_server.tasks.announcing import Announcing, Post, load_announcers, start_announcing

PUBLIC = "https://server.example"
NOBODY = "http://127.0.0.1:1/announce"


class Announcer:
    """A running announcement service with one key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.invoke("certs")
        self.certificate = folder / "tls" / "certificate.pem"
        self.key = self.invoke("announcer", "keys", "create", "lab").strip()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words = ["announcer", "--port", "0", "--tls", "--tls-port", str(self.port), "--data", str(folder)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "inference_server", *words], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url, self.secure_url = self.process.stdout.readline().removeprefix("ready ").split()

    def invoke(self, *words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--data", str(self.folder)])
        assert done.exit_code == 0, done.output
        return str(done.stdout)

    def listed(self) -> list[str]:
        return [found["prediction_url"] for found in httpx.get(f"{self.url}/discover").json()]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def announcer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Announcer]:
    announcer = Announcer(tmp_path_factory.mktemp("announcer"))
    yield announcer
    announcer.stop()


def settings(folder: Path, services: list[dict[str, Any]]) -> Settings:
    path = folder / "announcers.yaml"
    path.write_text(yaml.safe_dump(services))
    return Settings(tomaat_announcers=path, public_url=PUBLIC)


def models() -> list[Any]:
    return [SimpleNamespace(manifest=Manifest(id="body"), digest="")]


def eventually(true: Any, limit_s: float = 20.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_models_are_announced_by_https_while_another_service_is_down(
    announcer: Announcer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "LOOK_S", 0.01)
    trusted = {"url": f"{announcer.secure_url}/announce", "certificate": str(announcer.certificate)}
    given = settings(
        tmp_path,
        [{"url": NOBODY, "models": {"body": "k"}}, {**trusted, "models": {"body": announcer.key}}],
    )
    stop = threading.Event()
    thread = start_announcing(given, models, stop)
    assert thread is not None
    assert eventually(lambda: announcer.listed() == [f"{PUBLIC}/tomaat/body/predict"])
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_what_is_wrong_is_told_and_never_raised(announcer: Announcer, tmp_path: Path) -> None:
    there = f"{announcer.secure_url}/announce"
    services = [
        {"url": NOBODY, "models": {"body": announcer.key}},
        {"url": there, "models": {"body": announcer.key}},  # its certificate is not trusted
        {"url": f"{announcer.url}/announce", "models": {"body": "isk_unknown"}},
        {"url": f"{announcer.url}/nothing", "models": {"body": announcer.key}},
    ]
    announcers = load_announcers(settings(tmp_path, services))
    post = Post(announcers)
    told = {}
    Announcing(announcers, models, lambda url, message: told.setdefault(url, post(url, message))).look()
    assert told[NOBODY] == told[there] == "no answer that counts: ConnectError"
    assert told[f"{announcer.url}/announce"].startswith("The api_key is not known here.")
    assert told[f"{announcer.url}/nothing"]


def test_it_has_the_announcement_service_and_nothing_else(announcer: Announcer) -> None:
    found = {path: httpx.get(announcer.url + path).status_code for path in ("/discover", "/discovery")}
    assert found == {"/discover": 200, "/discovery": 200}
    assert httpx.get(f"{announcer.url}/api/v1/models").status_code == 404
    assert httpx.post(f"{announcer.url}/announce", content=b"x").json()["status"] == 1


def test_a_revoked_key_takes_its_service_off_the_list_of_a_running_one(announcer: Announcer) -> None:
    key = announcer.invoke("announcer", "keys", "create", "other").strip()
    names = ("prediction_url", "interface_url", "name", "modality", "anatomy", "task", "description")
    message = dict.fromkeys(names, "https://other.example/predict")
    httpx.post(f"{announcer.url}/announce", json={**message, "api_key": key}).raise_for_status()
    assert "https://other.example/predict" in announcer.listed()
    assert announcer.invoke("announcer", "keys", "revoke", "other").startswith("revoked ")
    assert "https://other.example/predict" not in announcer.listed()
    assert announcer.invoke("announcer", "keys", "list").count("revoked") == 1


def test_no_announcers_no_thread() -> None:
    assert start_announcing(Settings(), models, threading.Event()) is None
