"""The worker: a Celery parent process that never computes, and the children that do."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from types import FrameType

from billiard.common import REMAP_SIGTERM
from celery import signals
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool
from celery.worker import WorkController, state
from celery.worker.request import Request
from kombu import Queue

from inference_server import __version__
from inference_server.models.device_use import device_use
from inference_server.models.memory import host_memory_bytes
from inference_server.models.resources import Machine
from inference_server.settings import Settings
from inference_server.tasks.children import Child, OpenEngine
from inference_server.tasks.claims import Claims
from inference_server.tasks.database import open_database
from inference_server.tasks.fitness import with_fit_queues
from inference_server.tasks.guardian import Guardian
from inference_server.tasks.presence import Presence
from inference_server.tasks.queue import TURN, CeleryTurns, make_celery
from inference_server.tasks.record import worker_name
from inference_server.tasks.workers import Worker, Workers, WorkerState

log = logging.getLogger(__name__)

NEVER_S = 86_400.0
CHILD_POLL_S = 0.1
NOISE = {
    "celery.worker.strategy": logging.WARNING,  # a line for every turn
    "celery.app.trace": logging.WARNING,
    "celery.worker.request": logging.CRITICAL,  # a traceback of its own code for every child that died
}
"""What Celery says less of: the guardian and the runner log what matters."""


class _Children(AsynPool):  # type: ignore[misc]
    """Celery's pool, which looks for dead children more often than every 5 s.

    It is told of a death by a pipe that closes a moment before the process can be waited for, and then waits for its
    next look before it starts another child and lets go of the dead one's message.
    """

    @property
    def timers(self) -> dict[Callable[[], None], float]:
        return {self.maintain_pool: CHILD_POLL_S}


class _Request(Request):  # type: ignore[misc]
    """Celery's, for which an acknowledgement that fails is the loss of the connection that it is.

    Celery logs it only, and the place of the message stays taken. When all places are, nothing is asked of the broker
    any more: the worker would never learn that its connection is gone, and never take a turn again.
    """

    acknowledged: bool

    def acknowledge(self) -> None:
        if not self.acknowledged:
            self._on_ack(log, ())  # errors that it is to log: none, so that they reach the loop, which connects anew
            self.acknowledged = True


class _Pool(TaskPool):  # type: ignore[misc]
    Pool = _Children


def run_worker(
    settings: Settings,
    *,
    ready: Callable[[str], None] | None = None,
    begin: Callable[[], None] | None = None,
    open_engine: OpenEngine | None = None,
) -> None:
    """Run a worker until SIGINT or SIGTERM; must be called in the main thread.

    The first signal lets running tasks finish for `drain_s`; the second, SIGQUIT, or any where the environment has
    `REMAP_SIGTERM=SIGQUIT`, hands them back at once. Children end with the parent, however it ends.

    Args:
        settings: of the server; `broker_url` must be set.
        ready: called once with the worker's name when all children are up and warm.
        begin: called when the libraries are loaded, before anything that others see; returns when the worker may begin.
        open_engine: makes the engine in a child; default: the one of `models.engine`.

    Raises:
        StoreUnavailable: the records cannot be reached.
        SettingsError: there is no broker, or no queue whose models this machine can run.
    """
    machine = Machine(settings.device, "cpu", host_memory_bytes(), host_memory_bytes(), settings.device)
    if open_engine is None:
        open_engine = _engine_opener()
        if begin:
            begin()
        settings, machine = _fitted(settings)
        prune_models(settings)
    name = worker_name(os.getpid())
    database = open_database(settings.database)
    claims = Claims(database, max_attempts=settings.max_attempts)
    presence = _presence(settings, Workers(database), name, machine)
    guardian = Guardian(settings, name, claims, CeleryTurns(settings), presence, ready or (lambda _: None))
    child = Child(settings, name, open_engine, guardian.announce)
    controller = _controller(settings, name, child)
    claims.lose(name)  # what a predecessor of the same name, in a restarted container, has left
    _catch_signals(guardian)
    guardian.start()
    controller.start()
    guardian.end(controller.exitcode or os.EX_OK)


def _engine_opener() -> OpenEngine:
    """Import the model libraries here, once: children share them, and a new child is up in a fraction of a second.

    Only importing is safe before a fork; a forward pass in this process would hang every child.
    """
    # Read when torch is loaded. Threads that wait would otherwise spin, on cores that the other child reads and writes
    # its case with.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from inference_server.models.engine import open_engine
    from inference_server.models.registry import open_registry

    return lambda settings: open_engine(settings, open_registry(settings))


def _presence(settings: Settings, workers: Workers, name: str, machine: Machine) -> Presence:
    now = time.time()
    worker = Worker(
        name=name,
        host=socket.gethostname(),
        version=__version__,
        device=machine.device,
        device_kind=machine.kind,
        device_id=machine.device_id,
        queues=settings.queue_names,
        state=WorkerState.STARTING,
        children=settings.worker_children,
        started_at=now,
        beat_at=now,
        memory_bytes=machine.memory_bytes,
    )
    return Presence(workers, worker, every_s=settings.beat_s, look=partial(device_use, machine.device_id))


def _fitted(settings: Settings) -> tuple[Settings, Machine]:
    """Return the settings with the queues that this machine can serve, and what it has."""
    from inference_server.models.machine import this_machine
    from inference_server.models.registry import open_registry

    # A process that has asked for its GPUs cannot be forked into ones that use them.
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as apart:
        machine = apart.submit(this_machine, settings.device).result()
    return with_fit_queues(settings, [model.manifest for model in open_registry(settings).models()], machine), machine


def prune_models(settings: Settings) -> None:
    """Remove copies of models that no task needs any more: housekeeping does so on its own host alone."""
    from inference_server.models.registry import open_registry

    database = open_database(settings.database)
    try:
        open_registry(settings).prune(Claims(database, max_attempts=settings.max_attempts).needed_digests())
    except OSError as exc:
        log.warning("copies of models not removed", extra={"why": exc.strerror})
    finally:
        database.close()


def _catch_signals(guardian: Guardian) -> None:
    def stop(number: int, _frame: FrameType | None) -> None:
        if guardian.draining or number == signal.SIGQUIT or REMAP_SIGTERM == "SIGQUIT":
            guardian.end()
        guardian.drain()
        state.should_stop = os.EX_OK

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, stop)


def _controller(settings: Settings, name: str, child: Child) -> WorkController:
    app = make_celery(settings)
    app.conf.update(
        task_queues=[Queue(queue, routing_key=queue) for queue in settings.queue_names],
        broker_channel_error_retry=True,  # RabbitMQ closes the channel of whoever keeps a message for half an hour
        broker_connection_retry_on_startup=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_prefetch_count_reduction=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_lost_wait=CHILD_POLL_S,
        worker_prefetch_multiplier=1,
        worker_proc_alive_timeout=NEVER_S,  # loading models takes as long as it takes; a dead child is noticed anyway
        worker_redirect_stdouts=False,
        worker_send_task_events=settings.celery_events,
    )
    app.task(name=TURN, Request=_Request)(child.take_turn)
    signals.worker_process_init.connect(lambda **_: child.start(), weak=False)
    signals.setup_logging.connect(lambda **_: None, weak=False)  # logging is the entry point's
    for noisy, level in NOISE.items():
        logging.getLogger(noisy).setLevel(level)
    return WorkController(
        app=app,
        hostname=name,
        pool=_Pool,
        concurrency=settings.worker_children,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=not settings.celery_events,
    )
