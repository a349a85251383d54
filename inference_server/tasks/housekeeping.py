"""Housekeeping: what nobody else is left to do. Several of it do no harm."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from inference_server.errors import InferenceServerError, UnknownModel
from inference_server.settings import Settings
from inference_server.tasks.announcing import start_announcing
from inference_server.tasks.audit import Audit
from inference_server.tasks.blobs import Blobs, open_blobs
from inference_server.tasks.claims import Claims
from inference_server.tasks.database import open_database
from inference_server.tasks.metrics import Metrics
from inference_server.tasks.metrics_listener import metrics_listener
from inference_server.tasks.record import Problem, Status
from inference_server.tasks.scratch import SCRATCH, Scratch
from inference_server.tasks.service import Served, Turns, open_tasks
from inference_server.tasks.tickets.linked import Linked
from inference_server.tasks.tickets.tickets import open_tickets
from inference_server.tasks.tickets.upkeep import TicketUpkeep
from inference_server.tasks.workers import Workers

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""A task that has waited this long may have lost its turn."""
ANY_AGE_S = -1.0
"""Older than this is also what was queued this very moment."""
BLOBS_EVERY_S = 600.0
"""Looking at every file of the blob store, and at old lines of the audit log, is done this often."""


class Models(Protocol):
    """The model repository, as housekeeping uses it."""

    def models(self) -> Sequence[Served]:
        """Return all models."""

    def prune(self, needed: Collection[str]) -> None:
        """Remove what is kept of models that are not in service, apart from some digests."""


class Housekeeper:
    """Sweeps over records, turns and blobs.

    Args:
        settings: limits and ages.
        claims: the records.
        blobs: where cases and results lie.
        turns: the queue.
        models: the model repository.
        clock: monotonic seconds.
        also: what else is done at each sweep.
    """

    def __init__(
        self,
        settings: Settings,
        claims: Claims,
        blobs: Blobs,
        turns: Turns,
        models: Models,
        clock: Callable[[], float] = time.monotonic,
        also: Sequence[Callable[[], object]] = (),
    ) -> None:
        self._settings = settings
        self._claims = claims
        self._audit = Audit(claims.database)
        self._tickets = TicketUpkeep(open_tickets(settings, claims.database, blobs), settings)
        self._also = also
        self._blobs = blobs
        self._turns = turns
        self.models = models
        self._clock = clock
        self._scratch = Scratch(settings.data_dir / SCRATCH)
        self._missing_before: set[str] = set()
        self._short_before: dict[str, int] = {}
        self._blobs_swept_at = -BLOBS_EVERY_S

    def sweep(self) -> None:
        """Do everything once.

        Raises:
            StoreUnavailable: the records or the files cannot be reached; the next sweep goes on.
        """
        self._end_what_cannot_run()
        self._return_lapsed()
        self._send_missing_turns()
        self._remove_data()
        self._remove(self._blobs.abandoned())
        self._scratch.sweep()
        if self._clock() - self._blobs_swept_at >= BLOBS_EVERY_S:
            self._blobs_swept_at = self._clock()
            self._remove_orphans()
            self._prune_models()
            self._audit.forget(self._settings.audit_retention_s)
        self._tickets.sweep()
        for sweep in self._also:
            sweep()

    def _end_what_cannot_run(self) -> None:
        self._note("waited too long", self._claims.queue_timed_out(self._settings.queue_time_limit_s))
        missing = self._claims.waiting_models() - {model.manifest.id for model in self.models.models()}
        # Twice in a row, since a model's folder is away for a moment while it is replaced.
        for model in missing & self._missing_before:
            problem = Problem(UnknownModel.code, f"The model '{model}' is no longer served. Choose another one.")
            self._note("model withdrawn", self._claims.withdraw(model, problem))
        self._missing_before = missing

    def _return_lapsed(self) -> None:
        """Return what dead workers held, and say so at once: their own turns are gone with them."""
        lapsed = self._claims.expire_leases()
        self._note("returned to the queue after a lost worker", lapsed)
        for queue in self._claims.waiting(ANY_AGE_S) if lapsed else ():
            all(self._turns.send(queue) for _ in lapsed)  # the first that cannot be sent is the last that is tried

    def _send_missing_turns(self) -> None:
        """Send what is missing in a queue if as much was missing at the sweep before: it may have been on its way."""
        short: dict[str, int] = {}
        for queue, waiting in self._claims.waiting(PATIENCE_S).items():
            ready = self._turns.ready(queue)
            if ready is None:
                continue
            short[queue] = max(0, waiting - ready)
            missing = min(short[queue], self._short_before.get(queue, 0))
            sent = sum(self._turns.send(queue) for _ in range(missing))
            if sent:
                log.info("missing turns sent", extra={"queue": queue, "turns": sent})
                short[queue] -= sent
        self._short_before = short

    def _remove_data(self) -> None:
        """Remove what is no longer kept, also from the files of the records."""
        settings = self._settings
        self._remove(self._claims.expire(settings.retention_s, [Status.FINISHED]))
        self._remove(self._claims.expire(settings.failed_retention_s, [Status.FAILED]))
        self._remove(self._claims.expire(settings.cancelled_retention_s, [Status.CANCELLED]))
        if not settings.keep_case:
            self._remove(self._claims.drop_cases())
        self._claims.tidy()

    def _remove_orphans(self) -> None:
        old = self._blobs.older_than(self._settings.orphan_blob_s)
        self._remove(set(old) - self._claims.known_blobs(old) - self._tickets.known_blobs(old))

    def _prune_models(self) -> None:
        try:
            self.models.prune(self._claims.needed_digests())
        except OSError as exc:
            log.warning("copies of models not removed", extra={"why": exc.strerror})

    def _remove(self, keys: Collection[str]) -> None:
        for key in keys:
            self._blobs.delete(key)
        if keys:
            log.info("blobs removed", extra={"blobs": len(keys)})

    @staticmethod
    def _note(what: str, uids: Collection[str]) -> None:
        for uid in uids:
            log.warning(what, extra={"task": uid})


def run_housekeeping(settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """Sweep until SIGTERM or SIGINT. A sweep that fails is logged, and the next one tries again.

    Raises:
        SettingsError: the address for the page of figures is taken, or not one of this machine.
        StoreUnavailable: the records cannot be reached.
    """
    stop = _stop_event()
    housekeeper = open_housekeeper(settings)
    start_announcing(settings, housekeeper.models.models, stop)
    with _figures_told(settings, housekeeper.models):
        if ready:
            ready("")
        while not stop.wait(settings.housekeeping_s):
            try:
                housekeeper.sweep()
            except InferenceServerError as error:
                log.warning("sweep not finished", extra={"code": error.code})
            except Exception:
                log.exception("sweep failed")


@contextmanager
def _figures_told(settings: Settings, models: Models) -> Iterator[None]:
    """Have the page of figures at a port of its own, where there is one for it."""
    if settings.metrics_port is None:
        yield
        return
    database, blobs = open_database(settings.database), open_blobs(settings)
    metrics = Metrics(database, blobs, models, disk_low_bytes=settings.disk_low_bytes)
    with metrics_listener(metrics, settings.metrics_host, settings.metrics_port):
        yield


def open_housekeeper(settings: Settings) -> Housekeeper:
    """Return the housekeeper of the records, files, broker and models that the settings name."""
    from inference_server.models.registry import open_registry

    models = open_registry(settings)
    tasks = open_tasks(settings, models)
    database, blobs = tasks.store.database, tasks.blobs
    claims = Claims(database, max_attempts=settings.max_attempts)
    linked = Linked(tasks, open_tickets(settings, database, blobs))
    also = [linked.sweep, Workers(database).forget]
    return Housekeeper(settings, claims, blobs, tasks.turns, models, also=also)


def _stop_event() -> threading.Event:
    stop = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return stop
