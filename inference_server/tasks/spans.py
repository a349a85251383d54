"""Traces as OpenTelemetry spans, sent by OTLP over HTTP. It needs the extra `traces`.

One trace for each task: `submit` is its root, `queued`, `run` and `fetch` are parts of it, the phases parts of `run`.
Spans are made when they are over, with the times that the record and the runner know.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from inference_server import __version__
from inference_server.tasks.record import Task
from inference_server.tasks.traces import Course

SEND_LIMIT_S = 2.0
"""Longest wait for the collector; a process that ends waits for it once."""
SEND_EVERY_MS = 1000
"""Spans are sent so often. A child that is killed takes those of its last second with it."""
SPAN_ID = slice(0, 16)
"""The digits of a UID that are the id of its trace's root, so that every process knows it."""


class _TaskIds(RandomIdGenerator):
    """Gives the root of a task's trace the ids that follow from its UID, and all else random ones."""

    def __init__(self) -> None:
        self._here = threading.local()

    @contextmanager
    def root_of(self, uid: str) -> Iterator[None]:
        self._here.uid = uid
        try:
            yield
        finally:
            self._here.uid = None

    def generate_trace_id(self) -> int:
        uid = getattr(self._here, "uid", None)
        return int(uid, 16) if uid else super().generate_trace_id()

    def generate_span_id(self) -> int:
        uid = getattr(self._here, "uid", None)
        return int(uid[SPAN_ID], 16) if uid else super().generate_span_id()


class Spans:
    """Tells the way of tasks to a processor of spans. Safe to use from many threads; make it after a fork."""

    def __init__(self, processor: SpanProcessor) -> None:
        about = {"service.name": "inference-server", "service.version": __version__}
        self._ids = _TaskIds()
        self._provider = TracerProvider(resource=Resource.create(about), id_generator=self._ids)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("inference_server", __version__)

    def submitted(self, task: Task, began: float, ended: float) -> None:
        """Tell that a task was accepted, and from when to when that took."""
        with self._ids.root_of(task.uid):
            span = self._tracer.start_span(
                "submit", Context(), SpanKind.SERVER, _facts(task), start_time=_nanoseconds(began)
            )
        span.end(_nanoseconds(ended))

    def ran(self, task: Task, course: Course, ended: float, problem: str | None) -> None:
        """Tell how a worker's child ran a task: its phases, when it ended, and the error code if it failed."""
        root, started = self._root(task), task.started_at or task.queued_at
        self._add("queued", root, task.queued_at, started)
        run = self._begin("run", root, started, {**_facts(task), "attempt": task.attempts + 1})
        for (phase, moment), (_, end) in pairwise([*course, ("", ended)]):
            self._add(phase, set_span_in_context(run, Context()), moment, end)
        if problem is not None:
            run.set_status(Status(StatusCode.ERROR, problem))
        run.end(_nanoseconds(ended))

    def fetched(self, task: Task, at: float) -> None:
        """Tell that somebody is given a task's result."""
        self._add("fetch", self._root(task), at, at)

    def _root(self, task: Task) -> Context:
        trace_id = int(task.uid, 16)
        decision = self._provider.sampler.should_sample(None, trace_id, "submit").decision
        is_told = decision is Decision.RECORD_AND_SAMPLE
        flags = TraceFlags(TraceFlags.SAMPLED if is_told else TraceFlags.DEFAULT)
        root = SpanContext(trace_id, int(task.uid[SPAN_ID], 16), is_remote=True, trace_flags=flags)
        return set_span_in_context(NonRecordingSpan(root), Context())

    def _add(self, name: str, parent: Context, began: float, ended: float) -> None:
        self._begin(name, parent, began).end(_nanoseconds(ended))

    def _begin(self, name: str, parent: Context, began: float, facts: Mapping[str, str | int] | None = None) -> Span:
        return self._tracer.start_span(name, parent, attributes=facts, start_time=_nanoseconds(began))


def spans_to(url: str) -> Spans:
    """Return spans that are sent to a collector, in the background; while it is away they are dropped."""
    logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.ERROR)  # one line for what was dropped is enough
    exporter = OTLPSpanExporter(endpoint=url, timeout=SEND_LIMIT_S)
    return Spans(BatchSpanProcessor(exporter, schedule_delay_millis=SEND_EVERY_MS))


def _facts(task: Task) -> dict[str, str | int]:
    return {"model": task.model, "version": task.version, "queue": task.queue, "dialect": task.dialect}


def _nanoseconds(moment: float) -> int:
    return int(moment * 1e9)
