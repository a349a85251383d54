"""The page on several hosts: its settings are ones that the server takes, its rows are brokers that it can speak to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kombu import Connection

from inference_server.settings import PREFIX, load_settings
from inference_server.tasks.blobs import S3Blobs, open_blobs
from inference_server.tasks.queue import make_celery

PAGE = Path(__file__).resolve().parents[2] / "docs" / "several-hosts.md"
BROKERS = re.findall(r"^\| `(\w+://[^`]+)` \|", PAGE.read_text(), re.MULTILINE)


@pytest.fixture(autouse=True)
def _as_the_page_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (block,) = re.findall(r"^```ini\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        monkeypatch.setenv(*line.split("=", 1))
    monkeypatch.setenv(PREFIX + "DATA_DIR", str(tmp_path))


def test_the_settings_of_the_example_are_taken_and_lead_to_a_bucket() -> None:
    settings = load_settings()
    assert isinstance(open_blobs(settings), S3Blobs)
    assert make_celery(settings).connection().as_uri().startswith("amqps://inference:**@broker.hospital.example")


def test_there_is_a_row_for_every_kind_of_broker() -> None:
    assert [url.partition(":")[0] for url in BROKERS] == ["redis", "rediss", "sentinel", "amqp", "amqps"]


@pytest.mark.parametrize("url", BROKERS)
def test_a_broker_of_the_page_can_be_spoken_to(url: str) -> None:
    app = make_celery(load_settings({"broker_url": url}))
    connection = app.connection()
    assert isinstance(connection, Connection)
    assert connection.transport.driver_type in ("redis", "amqp")
