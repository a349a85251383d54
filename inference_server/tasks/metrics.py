"""The figures of the server as Prometheus reads them. Every process gives the same, since they are in the records.

No label names a task, a token, a patient or anything else of which there is no end.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, product
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from inference_server import __version__
from inference_server.errors import InferenceServerError, TaskError, all_errors
from inference_server.tasks.blobs import Blobs
from inference_server.tasks.database import Database
from inference_server.tasks.figures import BUCKETS_S, Figure, Kind
from inference_server.tasks.record import Status
from inference_server.tasks.service import Served
from inference_server.tasks.snapshot import Snapshot, take
from inference_server.tasks.workers import WorkerState

PREFIX = "inference_server_"
ENDS = (Status.FINISHED.value, Status.FAILED.value, Status.CANCELLED.value)
CODES = (InferenceServerError.code, *(error.code for error in all_errors() if issubclass(error, TaskError)))
Sample = tuple[tuple[str, ...], float]


class Models(Protocol):
    """The model repository."""

    def models(self) -> Sequence[Served]:
        """Return all models."""


class Metrics(Collector):
    """The page of figures.

    Args:
        database: migrated.
        blobs: whose disk is watched.
        models: whose queues are shown also while they are empty.
        disk_low_bytes: free space below which uploads are refused.
        before: called before the records are read.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        models: Models,
        *,
        disk_low_bytes: int,
        before: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._models = models
        self._disk_low_bytes = disk_low_bytes
        self._before = before
        self._clock = clock
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page in the newest format that an `Accept` header takes, and the type of that.

        Raises:
            StoreUnavailable: the records cannot be reached.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Return nothing: whoever registers a collector need not ask the records yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every figure, as of one moment."""
        self._before()
        served = [model.manifest for model in self._models.models()]
        queues = {manifest.queue for manifest in served}
        with self._database.reading() as connection:
            seen = take(connection, queues, self._clock())
        yield from _of_queues(seen)
        yield from _of_workers(seen)
        yield from _of_tasks(seen, {manifest.id for manifest in served})
        yield from _of_refusals(seen)
        yield from self._of_disk()
        yield _gauge("info", "The software that answers; its value is 1", ("version",), [((__version__,), 1)])

    def _of_disk(self) -> Iterator[Metric]:
        free_bytes = self._blobs.free_bytes()
        if free_bytes is not None:
            yield _gauge("disk_free_bytes", "Room for cases and results", (), [((), free_bytes)])
            yield _gauge("disk_low_bytes", "Room below which uploads are refused", (), [((), self._disk_low_bytes)])


def _of_queues(seen: Snapshot) -> Iterator[Metric]:
    told = {
        "queue_waiting_tasks": ("Tasks that wait", "waiting"),
        "queue_running_tasks": ("Tasks that workers have claimed", "running"),
        "queue_oldest_wait_seconds": ("How long the oldest waiting task has waited", "oldest_s"),
    }
    for name, (meaning, field) in told.items():
        samples = [((queue,), getattr(depth, field)) for queue, depth in seen.depths.items()]
        yield _gauge(name, meaning, ("queue",), samples)


def _of_workers(seen: Snapshot) -> Iterator[Metric]:
    states = [worker.state for worker in seen.workers]
    yield _gauge(
        "workers", "Workers by state", ("state",), [((state.value,), states.count(state)) for state in WorkerState]
    )
    told = {
        "device_memory_bytes": ("Memory of the device", "memory_bytes"),
        "device_memory_used_bytes": ("Memory of the device that is taken, by whomever", "memory_used_bytes"),
        "device_utilisation_ratio": ("Share of the last moments in which the device computed", "utilisation"),
    }
    for name, (meaning, field) in told.items():
        values = ((device, getattr(worker, field)) for device, worker in seen.devices.items())
        samples = [(device, value) for device, value in values if value is not None]
        yield _gauge(name, meaning, ("host", "device"), samples)


def _of_tasks(seen: Snapshot, served: Collection[str]) -> Iterator[Metric]:
    by_door = _of(seen, Kind.SUBMITTED)
    labels = ("model", "dialect")
    yield _counter("tasks_submitted", "Tasks accepted", labels, [(_names(one), one.counted) for one in by_door])
    yield _counter("case_bytes", "Bytes of the cases accepted", labels, [(_names(one), one.total) for one in by_door])
    models = {*served, *(one.model for one in by_door)}
    for name, meaning, label, kind, usual in (
        ("tasks_ended", "Tasks that ended", "status", Kind.ENDED, ENDS),
        ("tasks_failed", "Tasks that failed, by error code", "code", Kind.FAILED, CODES),
        ("warm_models", "How often a worker wanted a model, and if it was loaded already", "outcome", Kind.WARM, ()),
    ):
        yield _counter(name, meaning, ("model", label), _from_zero(_of(seen, kind), models, usual))
    yield _durations(_of(seen, Kind.PHASE))


def _from_zero(found: Iterable[Figure], models: Iterable[str], usual: Iterable[str]) -> list[Sample]:
    """Return counts, also those that are zero: from nothing to one is no rise to Prometheus, from zero to one is."""
    counts: dict[tuple[str, ...], float] = dict.fromkeys(product(sorted(models), usual), 0.0)
    counts.update({_names(one): one.counted for one in found})
    return list(counts.items())


def _of_refusals(seen: Snapshot) -> Iterator[Metric]:
    refused = [(tuple(one.detail.split("/", 1)), float(one.counted)) for one in _of(seen, Kind.REFUSED)]
    yield _counter("requests_refused", "Requests answered with an error", ("dialect", "code"), refused)
    wrong = sum(one.counted for one in _of(seen, Kind.SIGN_IN))
    yield _counter("sign_ins_refused", "Access tokens that were not valid", (), [((), wrong)])


def _durations(counted: Iterable[Figure]) -> Metric:
    found: Mapping[tuple[str, ...], list[Figure]] = defaultdict(list)
    for figure in counted:
        found[_names(figure)].append(figure)
    family = HistogramMetricFamily(
        f"{PREFIX}task_phase_seconds", "Duration of the phases of finished tasks", labels=("model", "phase")
    )
    for names, parts in found.items():
        family.add_metric(names, _cumulative(parts), sum(part.total for part in parts))
    return family


def _cumulative(parts: Iterable[Figure]) -> list[tuple[str, float]]:
    counts = {part.bucket: part.counted for part in parts}
    limits = [*map(str, BUCKETS_S), "+Inf"]
    return list(zip(limits, accumulate(counts.get(bucket, 0) for bucket in range(len(limits))), strict=True))


def _of(seen: Snapshot, kind: Kind) -> list[Figure]:
    return [figure for figure in seen.figures if figure.figure == kind]


def _names(figure: Figure) -> tuple[str, ...]:
    return figure.model, figure.detail


def _gauge(name: str, meaning: str, labels: tuple[str, ...], samples: Iterable[Sample]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, meaning, labels=labels)
    for names, value in samples:
        family.add_metric(names, value)
    return family


def _counter(name: str, meaning: str, labels: tuple[str, ...], samples: Iterable[Sample]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, meaning, labels=labels)
    for names, value in samples:
        family.add_metric(names, value)
    return family
