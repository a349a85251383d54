from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from door_support import Doors, queued_task
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from inference_server.errors import SettingsError
from inference_server.settings import Settings
from inference_server.tasks.record import Task, new_uid
from inference_server.tasks.spans import Spans
from inference_server.tasks.traces import NO_TRACES, open_traces

UID = "0123456789abcdef0123456789abcdef"
S = 1_000_000_000


def task(**changes: Any) -> Task:
    given: dict[str, Any] = {"uid": UID, "queued_at": 100.0, "started_at": 103.0, "attempts": 1}
    return Task(**{**vars(queued_task()), **given, **changes})


@pytest.fixture
def told() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(told: InMemorySpanExporter) -> Spans:
    return Spans(SimpleSpanProcessor(told))


def by_name(spans: Sequence[ReadableSpan]) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans}


def parent(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def lasting(span: ReadableSpan) -> tuple[float, float]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time / S, span.end_time / S


def test_all_that_happens_to_a_task_is_one_trace_whose_id_is_its_uid(spans: Spans, told: InMemorySpanExporter) -> None:
    others = InMemorySpanExporter()
    spans.submitted(task(), 99.0, 100.0)
    of_worker = Spans(SimpleSpanProcessor(others))  # in another process, on another machine
    course = [("reading", 103.0), ("predicting", 104.0), ("writing", 108.0)]
    of_worker.ran(task(), course, 109.0, None)
    spans.fetched(task(), 120.0)
    found = by_name((*told.get_finished_spans(), *others.get_finished_spans()))
    assert {f"{span.context.trace_id:032x}" for span in found.values() if span.context} == {UID}
    root = found["submit"]
    assert root.parent is None
    assert root.context is not None
    assert {name: lasting(span) for name, span in found.items()} == {
        "submit": (99.0, 100.0),
        "queued": (100.0, 103.0),
        "run": (103.0, 109.0),
        "reading": (103.0, 104.0),
        "predicting": (104.0, 108.0),
        "writing": (108.0, 109.0),
        "fetch": (120.0, 120.0),
    }
    run = found["run"].context
    assert run is not None
    assert {parent(found[name]) for name in ("queued", "run", "fetch")} == {root.context.span_id}
    assert {parent(found[name]) for name in ("reading", "predicting", "writing")} == {run.span_id}
    assert dict(found["run"].attributes or {}) == {
        "model": "one", "version": "1", "queue": "default", "dialect": "mim", "attempt": 2,
    }  # fmt: skip


def test_a_failure_is_told_by_its_code(spans: Spans, told: InMemorySpanExporter) -> None:
    spans.ran(task(), [], 104.0, "out_of_memory")
    run = by_name(told.get_finished_spans())["run"]
    assert (run.status.status_code.name, run.status.description) == ("ERROR", "out_of_memory")


def test_spans_of_different_tasks_do_not_mix(spans: Spans, told: InMemorySpanExporter) -> None:
    uids = [new_uid() for _ in range(3)]
    for uid in uids:
        spans.submitted(task(uid=uid), 1.0, 2.0)
        spans.ran(task(uid=uid), [("reading", 103.0)], 104.0, None)
    found = told.get_finished_spans()
    assert len({span.context.span_id for span in found if span.context}) == len(found) == 12
    assert {f"{span.context.trace_id:032x}" for span in found if span.context} == set(uids)


def test_what_is_left_out_by_sampling_is_left_out_everywhere(
    monkeypatch: pytest.MonkeyPatch, told: InMemorySpanExporter
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    sampled = Spans(SimpleSpanProcessor(told))
    for digit in "0123456789abcdef":
        uid = UID[:16] + digit * 16
        sampled.submitted(task(uid=uid), 1.0, 2.0)
        sampled.ran(task(uid=uid), [], 104.0, None)
    traces = [span.context.trace_id for span in told.get_finished_spans() if span.context]
    assert {traces.count(trace) for trace in traces} == {3}
    assert 0 < len(set(traces)) < 16


def test_the_doors_tell_of_submitting_and_fetching(tmp_path: Path, spans: Spans, told: InMemorySpanExporter) -> None:
    doors = Doors(tmp_path)
    doors.tasks._traces = spans
    uid = doors.finished()
    assert doors.client.get(f"/api/v1/tasks/{uid}/result", buffered=True).status_code == 200
    doors.close()
    assert [(span.name, f"{span.context.trace_id:032x}") for span in told.get_finished_spans() if span.context] == [
        ("submit", uid), ("fetch", uid),
    ]  # fmt: skip


def test_without_a_setting_there_are_none() -> None:
    assert open_traces(Settings()) is NO_TRACES


def test_nothing_of_it_is_imported_unasked() -> None:
    modules = "inference_server.api.app, inference_server.tasks.children, inference_server.tasks.worker"
    code = f"import sys, {modules}; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"


def test_without_the_packages_the_setting_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "inference_server.tasks.spans", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"inference-server\[traces\]"):
        open_traces(Settings(traces_url="http://127.0.0.1:1/v1/traces"))
