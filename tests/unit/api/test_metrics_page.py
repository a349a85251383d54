"""The page of figures: what was done stands in it, and reading it costs the same however much that was."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from door_support import Doors, case, form, part
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from records import new_task
from sqlalchemy import insert
from sqlalchemy import text as sql
from worker_rows import worker_row

from inference_server.tasks.caller import Scope
from inference_server.tasks.figures import Figure
from inference_server.tasks.record import Problem
from inference_server.tasks.schema import tasks
from inference_server.tasks.store import _columns
from inference_server.tasks.tokens import Tokens
from inference_server.tasks.workers import Workers, WorkerState

QUEUES = ("default", "large")


class Page:
    """The samples of a page, by name and labels."""

    def __init__(self, text: str, parse: Any = text_string_to_metric_families) -> None:
        samples = [sample for family in parse(text) for sample in family.samples]
        self.values = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
        assert len(self.values) == len(samples)

    def __call__(self, name: str, **labels: str) -> float:
        return self.values[f"inference_server_{name}", frozenset(labels.items())]

    def labels(self, name: str, label: str) -> set[str]:
        """Return the values that a label has in a figure."""
        return {dict(labels)[label] for found, labels in self.values if found == f"inference_server_{name}"}


def page(doors: Doors) -> Page:
    answer = doors.client.get("/metrics")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return Page(answer.text)


def finished(doors: Doors, timings_s: dict[str, float]) -> str:
    return doors.finished(report={"timings_s": timings_s})


def test_what_was_submitted_and_how_it_ended_stands_in_it(doors: Doors) -> None:
    for predicting_s in (0.2, 0.3, 40.0):
        finished(doors, {"queued": 1.0, "predicting": predicting_s})
    doors.failed(Problem("prediction", "The model failed."))
    doors.cancelled()
    seen = page(doors)
    size_bytes = len(case())
    assert seen("tasks_submitted_total", model="one", dialect="native") == 5
    assert seen("case_bytes_total", model="one", dialect="native") == 5 * size_bytes
    ends = {
        status: seen("tasks_ended_total", model="one", status=status) for status in ("finished", "failed", "cancelled")
    }
    assert ends == {"finished": 3, "failed": 1, "cancelled": 1}
    assert seen("tasks_failed_total", model="one", code="prediction") == 1
    assert seen("task_phase_seconds_count", model="one", phase="predicting") == 3
    assert seen("task_phase_seconds_sum", model="one", phase="predicting") == pytest.approx(40.5)
    counts = [
        seen("task_phase_seconds_bucket", model="one", phase="predicting", le=limit)
        for limit in ("0.1", "0.25", "0.5", "60.0")
    ]
    assert counts == [0, 1, 2, 3]
    assert seen("task_phase_seconds_bucket", model="one", phase="predicting", le="+Inf") == 3


def test_ends_that_have_not_happened_are_zero_so_that_the_first_one_is_a_rise(doors: Doors) -> None:
    seen = page(doors)
    for model in ("one", "two"):
        assert [seen("tasks_ended_total", model=model, status=end) for end in ("finished", "failed", "cancelled")] == [
            0
        ] * 3
        assert [seen("tasks_failed_total", model=model, code=code) for code in ("worker_lost", "internal")] == [0, 0]
    doors.failed(Problem("worker_lost", "Its worker died."))
    doors.models.known.clear()
    assert page(doors)("tasks_failed_total", model="one", code="worker_lost") == 1


def test_queues_are_shown_with_their_depth_and_age_also_the_empty_ones(doors: Doors) -> None:
    doors.submitted()
    doors.claim()
    for _ in range(2):
        doors.submitted()
    with doors.database.writing() as connection:
        connection.execute(sql("UPDATE tasks SET queued_at = queued_at - 500 WHERE seq = 2"))
    seen = page(doors)
    depths = {
        queue: (seen("queue_waiting_tasks", queue=queue), seen("queue_running_tasks", queue=queue)) for queue in QUEUES
    }
    assert depths == {"default": (2, 1), "large": (0, 0)}
    assert 500 <= seen("queue_oldest_wait_seconds", queue="default") < 600
    assert seen("queue_oldest_wait_seconds", queue="large") == 0


def test_workers_and_their_devices_are_shown(doors: Doors) -> None:
    workers, now = Workers(doors.database), time.time()
    on_gpu = worker_row(beat_at=now)
    workers.beat(on_gpu)
    workers.beat(replace(on_gpu, name="worker-2", beat_at=now - 1, memory_used_bytes=1))  # of the same device, earlier
    silent = {"name": "worker-3", "device_id": "GPU-9", "beat_at": now - 100}
    workers.beat(worker_row(**silent))
    on_cpu = {"name": "worker-4", "device_id": "cpu", "memory_used_bytes": None, "utilisation": None}
    workers.beat(worker_row(beat_at=now, state=WorkerState.STARTING, queues=("default",), **on_cpu))
    seen = page(doors)
    states = {state.value: seen("workers", state=state.value) for state in WorkerState}
    assert states == {"ready": 2, "silent": 1, "starting": 1, "draining": 0}
    assert seen("device_memory_bytes", host="box", device="GPU-1") == 24 * 2**30
    assert seen("device_memory_used_bytes", host="box", device="GPU-1") == 6 * 2**30
    assert seen("device_utilisation_ratio", host="box", device="GPU-1") == 0.5
    assert seen.labels("device_memory_bytes", "device") == {"GPU-1", "cpu"}
    assert seen.labels("device_memory_used_bytes", "device") == {"GPU-1"}
    assert seen.labels("device_utilisation_ratio", "device") == {"GPU-1"}
    assert seen("queue_waiting_tasks", queue="big-gpu") == 0


def test_what_a_worker_counted_of_its_models_stands_in_it(doors: Doors) -> None:
    more = [Figure("warm", "one", "hit", counted=3), Figure("warm", "one", "load", counted=1)]
    Workers(doors.database).beat(worker_row(), more)
    seen = page(doors)
    assert (
        seen("warm_models_total", model="one", outcome="hit"),
        seen("warm_models_total", model="one", outcome="load"),
    ) == (3, 1)


def test_refusals_are_counted_by_door_and_code(doors: Doors) -> None:
    for _ in range(2):
        doors.client.post("/api/v1/tasks", **form(part("model", "unheard-of"), part("case", case(), "c.zip")))
    doors.client.get("/api/tasks/nothing/")
    doors.client.get("/nowhere")
    seen = page(doors)
    assert seen("requests_refused_total", dialect="native", code="unknown_model") == 2
    assert seen("requests_refused_total", dialect="mim", code="unknown_task") == 1
    assert seen("requests_refused_total", dialect="none", code="bad_request") == 1
    assert seen("sign_ins_refused_total") == 0


def test_the_disk_and_the_software_are_shown(doors: Doors) -> None:
    seen = page(doors)
    assert seen("disk_free_bytes") > 0
    assert seen("disk_low_bytes") == 0
    assert seen.labels("info", "version") == {"0.1.0"}


@pytest.fixture
def tokens(doors: Doors) -> dict[str, dict[str, str]]:
    """Headers of an operator and of somebody else."""
    made = Tokens(doors.database)
    scopes = {"operator": [Scope.OPERATE], "user": [Scope.SUBMIT, Scope.READ_OWN]}
    return {name: {"Authorization": f"Bearer {made.create(name, given)[1]}"} for name, given in scopes.items()}


def test_it_is_for_operators_and_wrong_tokens_are_counted(doors: Doors, tokens: dict[str, dict[str, str]]) -> None:
    wrong = {"Authorization": "Bearer ist_0123456789ab_nonsense"}
    assert doors.client.get("/metrics").status_code == 401
    assert doors.client.get("/metrics", headers=tokens["user"]).status_code == 403
    assert doors.client.get("/metrics", headers=wrong).status_code == 401
    answer = doors.client.get("/metrics", headers=tokens["operator"])
    seen = Page(answer.text)
    assert answer.status_code == 200
    assert seen("sign_ins_refused_total") == 1
    assert seen("requests_refused_total", dialect="native", code="not_authorised") == 2
    assert seen("requests_refused_total", dialect="native", code="forbidden") == 1


def test_no_label_names_a_task_a_token_or_what_a_client_sent(doors: Doors) -> None:
    uid = finished(doors, {"predicting": 1.0})
    doors.client.get("/api/v1/tasks/DOE-JANE")
    doors.client.get("/DOE-JANE")
    doors.submitted()
    claim = doors.claim()
    Workers(doors.database).beat(worker_row(beat_at=time.time()))
    text = doors.client.get("/metrics").text
    assert not [word for word in (uid, claim.task.uid, "DOE", "local", "anonymous", "ist_") if word in text]
    assert set(re.findall(r'(\w+)="', text)) <= {
        "code", "device", "dialect", "host", "le", "model", "outcome", "phase", "queue", "state", "status", "version",
    }  # fmt: skip


def test_it_is_given_as_openmetrics_to_who_asks_for_that(doors: Doors) -> None:
    finished(doors, {"predicting": 1.0})
    answer = doors.client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert Page(answer.text, openmetrics)("tasks_ended_total", model="one", status="finished") == 1


def test_while_the_records_are_away_it_says_so(doors: Doors) -> None:
    with doors.database.writing() as connection:
        connection.execute(sql("ALTER TABLE figures RENAME TO elsewhere"))
    assert doors.client.get("/metrics").status_code == 503


@pytest.fixture
def two_servers(tmp_path: Path) -> Iterator[list[Doors]]:
    """One that has computed 20 tasks, and one that has computed 2,000."""
    served = []
    for ended in (20, 2000):
        folder = tmp_path / str(ended)
        folder.mkdir()
        doors = Doors(folder)
        finished(doors, {"predicting": 1.0})
        doors.submitted()
        _add_ended(doors, ended)
        served.append(doors)
    yield served
    for doors in served:
        doors.close()


def test_a_look_costs_the_same_however_many_tasks_have_ended(two_servers: list[Doors]) -> None:
    few, many = (_steps(doors) for doors in two_servers)
    assert few > 100
    assert many == few


def _add_ended(doors: Doors, number: int) -> None:
    ended = {**_columns(new_task(), 1.0), "status": "finished", "ended_at": 2.0}
    with doors.database.writing() as connection:
        connection.execute(insert(tasks), [{**ended, "uid": f"{index:032x}"} for index in range(number)])
        connection.execute(sql("UPDATE figures SET counted = 1"))


def _steps(doors: Doors) -> int:
    """Return how many instructions SQLite executes for a page."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    page(doors)
    with doors.database.engine.connect() as connection:  # the pool hands out the one that was given back last
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.set_progress_handler(count, 1)
    page(doors)
    raw.set_progress_handler(None, 1)
    return counted
