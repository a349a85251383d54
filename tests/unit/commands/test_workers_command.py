from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from inference_server.cli import app
from inference_server.clients import Client
from inference_server.commands import workers as module

GPU: dict[str, Any] = {
    "name": "box:41", "state": "ready", "device": "cuda:0 (GPU)", "models": ["ct:1", "mr:2"], "tasks": ["0af3"],
    "memory_bytes": 24 * 2**30, "memory_used_bytes": 6 * 2**30, "utilisation": 0.375,
}  # fmt: skip
CPU: dict[str, Any] = {
    **GPU, "name": "box:42", "state": "silent", "device": "cpu", "models": [], "tasks": [],
    "memory_used_bytes": None, "utilisation": None,
}  # fmt: skip


class Stub(Client):
    """A client of a server with two workers."""

    def __init__(self, server: str, **given: Any) -> None:
        super().__init__(server, **given)
        answer = httpx.Response(200, json={"workers": [GPU, CPU]})
        self._http = httpx.Client(base_url=server, transport=httpx.MockTransport(lambda _: answer))


@pytest.fixture(autouse=True)
def _stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Client", Stub)


def test_workers_are_shown_in_a_table() -> None:
    done = CliRunner().invoke(app, ["workers"])
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [
        ["worker", "state", "device", "memory", "busy", "models", "tasks"],
        ["box:41", "ready", "cuda:0", "(GPU)", "6", "GiB", "of", "24", "GiB", "38%", "ct:1", "0af3"],
        ["mr:2"],
        ["box:42", "silent", "cpu", "24", "GiB"],
    ]


def test_programs_get_all_that_is_known() -> None:
    done = CliRunner().invoke(app, ["workers", "--json"])
    assert json.loads(done.stdout) == [GPU, CPU]
