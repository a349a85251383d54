from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from sqlalchemy import text

from inference_server.errors import SettingsError
from inference_server.tasks.blobs import LocalBlobs
from inference_server.tasks.database import Database
from inference_server.tasks.metrics import Metrics
from inference_server.tasks.metrics_listener import metrics_listener


@pytest.fixture
def metrics(database: Database, tmp_path: Path) -> Metrics:
    models = SimpleNamespace(models=lambda: ())
    return Metrics(database, LocalBlobs(tmp_path / "blobs"), models, disk_low_bytes=7)


@pytest.fixture
def url(metrics: Metrics) -> Iterator[str]:
    with metrics_listener(metrics, "127.0.0.1", 0) as port:
        yield f"http://127.0.0.1:{port}"


def test_the_figures_are_told_without_a_token(url: str) -> None:
    answer = httpx.get(f"{url}/metrics")
    assert answer.status_code == 200
    assert "inference_server_disk_low_bytes 7.0" in answer.text.splitlines()


@pytest.mark.parametrize("path", ["/", "/metrics/x", "/api/v1/tasks"])
def test_nothing_else_is(url: str, path: str) -> None:
    assert httpx.get(url + path).status_code == 404
    assert httpx.post(f"{url}/metrics").status_code == 404


def test_while_the_records_are_away_it_says_so(url: str, database: Database) -> None:
    with database.writing() as connection:
        connection.execute(text("ALTER TABLE workers RENAME TO elsewhere"))
    assert httpx.get(f"{url}/metrics").status_code == 503


def test_an_address_that_is_taken_is_named(metrics: Metrics) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port}"), metrics_listener(metrics, "127.0.0.1", port):
            pytest.fail("the address is taken")
