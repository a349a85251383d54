"""A task's trace, from the worker's process to a collector that speaks OTLP over HTTP."""

from __future__ import annotations

import gzip
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from broker import Redis
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from servers import LIMIT_S, Server, Worker, settings_for

from inference_server.tasks.spans import Spans
from inference_server.tasks.traces import open_traces


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.sent: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self.spans: dict[str, str] = {}

    def await_spans(self, names: set[str]) -> None:
        """Wait for spans, and keep the id of the trace of each by its name."""
        while not names <= self.spans.keys():
            path, body = self.sent.get(timeout=LIMIT_S)
            assert path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    self.spans.update({span.name: span.trace_id.hex() for span in scope.spans})


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        packed = self.headers.get("Content-Encoding") == "gzip"
        self.server.sent.put((self.path, gzip.decompress(body) if packed else body))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, daemon=True)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def test_door_and_worker_tell_one_trace(collector: Collector, tmp_path: Path, redis: Redis) -> None:
    url = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    server = Server(settings_for(tmp_path, redis.url, traces_url=url, worker_children=1))
    worker = Worker(server, tmp_path / "worker.log")
    try:
        task = server.ended(server.submit())
        traces = open_traces(server.settings)
        traces.submitted(task, task.created_at - 1.0, task.created_at)
        names = {"submit", "queued", "run", "reading", "predicting", "restoring", "writing"}
        collector.await_spans(names)
        assert isinstance(traces, Spans)
        traces._provider.shutdown()
    finally:
        worker.close()
    assert collector.spans == dict.fromkeys(names, task.uid)
