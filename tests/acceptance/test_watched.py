"""Watching a whole server: what its clients did is what its workers and figures say."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from inference_server.clients import Client, ServerError
from inference_server.stack.launch import LaunchedServer

LIMIT_S = 60.0
PROCESSES = 2


def figure(server: LaunchedServer, name: str, **labels: str) -> float:
    """Return a sample of the page; 0 while there is none yet. Each request is a connection of its own."""
    page = httpx.get(f"{server.url}/metrics").raise_for_status().text
    samples = [one for family in text_string_to_metric_families(page) for one in family.samples]
    return sum(one.value for one in samples if (one.name, one.labels) == (f"inference_server_{name}", labels))


def until(question: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not question():
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.05)


def test_a_worker_lists_the_task_that_it_runs_and_the_model_that_it_has_loaded(
    server: LaunchedServer, client: Client, box: Path
) -> None:
    uid = client.submit("slow", [box]).uid
    until(lambda: [worker.tasks for worker in client.workers()] == [(uid,)])
    assert client.wait(uid, timeout_s=LIMIT_S).status == "finished"
    until(lambda: any(model.startswith("slow:") for model in client.workers()[0].models))
    (worker,) = client.workers()
    assert (worker.state, worker.tasks) == ("ready", ())
    assert worker.device.startswith("cpu")
    assert worker.memory_bytes is not None
    assert worker.utilisation is None


def test_every_process_of_the_api_tells_the_same_of_what_was_done(
    server: LaunchedServer, client: Client, box: Path
) -> None:
    done = {"model": "bright", "status": "finished"}
    before = figure(server, "tasks_ended_total", **done)
    computed = figure(server, "task_phase_seconds_count", model="bright", phase="predicting")
    assert client.wait(client.submit("bright", [box]).uid, timeout_s=LIMIT_S).status == "finished"
    assert {figure(server, "tasks_ended_total", **done) for _ in range(8 * PROCESSES)} == {before + 1}
    assert figure(server, "task_phase_seconds_count", model="bright", phase="predicting") == computed + 1
    until(lambda: figure(server, "warm_models_total", model="bright", outcome="load") >= 1)


def test_refusals_of_every_process_add_up(server: LaunchedServer, box: Path) -> None:
    refused = {"dialect": "native", "code": "unknown_model"}
    before = figure(server, "requests_refused_total", **refused)
    for _ in range(4 * PROCESSES):
        with Client(server.url) as client, pytest.raises(ServerError, match="does not know the model"):
            client.submit("unheard-of", [box])
    until(lambda: figure(server, "requests_refused_total", **refused) == before + 4 * PROCESSES)
