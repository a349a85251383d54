"""A fleet: one worker for each of several devices, each a process group of its own, started and stopped together."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from inference_server.errors import StoreUnavailable
from inference_server.settings import Settings
from inference_server.stack.part import Part, own_part
from inference_server.tasks.claims import Claims
from inference_server.tasks.database import open_database
from inference_server.tasks.queue import CeleryTurns, send_turns
from inference_server.tasks.record import worker_name
from inference_server.tasks.service import Turns
from inference_server.tasks.workers import Workers

log = logging.getLogger(__name__)

WATCH_S = 0.1
STOP_MARGIN_S = 10.0
"""How much longer than it drains a worker may take to end."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)


def run_fleet(settings: Settings, devices: Sequence[str], *, ready: Callable[[str], None]) -> None:
    """Run a worker on each device until SIGINT or SIGTERM; one that dies is started again, with back-off.

    Signals are passed on: with the first one the workers finish what they run, with the second they hand it back.

    Args:
        settings: of each worker, but for its device.
        devices: as the setting `device` names them.
        ready: called once with the workers' names when all of them are up.

    Raises:
        StoreUnavailable: the records cannot be reached.
        SettingsError: there is no broker.
    """
    log.info("a worker for each device", extra={"devices": list(devices)})
    claims = Claims(open_database(settings.database), max_attempts=settings.max_attempts)
    turns = CeleryTurns(settings)
    parts = [own_part("worker", settings.model_copy(update={"device": device})) for device in devices]
    limit_s = settings.drain_s + STOP_MARGIN_S
    watch_parts(parts, ready, lambda pid: return_claims(settings, claims, turns, pid), stop_limit_s=limit_s)


def watch_parts(
    parts: Sequence[Part], ready: Callable[[str], None], died: Callable[[int], None], *, stop_limit_s: float
) -> None:
    """Keep parts running until a signal stops them.

    Args:
        parts: not started yet.
        ready: called once, with what the parts announced, when all of them are up.
        died: called with the process id of each that ended by itself.
        stop_limit_s: longest orderly stop; what is still there then is killed.
    """
    is_ready = False
    with _passing_on(parts) as stopped:
        for part in parts:
            part.start()
        while not stopped():
            _restart(parts, died)
            if not is_ready and all(part.ready.is_set() for part in parts):
                is_ready = True
                ready(" ".join(part.announced for part in parts))
            time.sleep(WATCH_S)
        _await_end(parts, time.monotonic() + stop_limit_s)


def return_claims(settings: Settings, claims: Claims, turns: Turns, pid: int) -> None:
    """Return what a dead worker held, also one that died while it was not all up, and list it no longer.

    Each of its children may have had a turn for which nothing was claimed yet, so there are as many new ones.
    """
    try:
        claims.lose(worker_name(pid), alive_pids=())
        Workers(claims.database).leave(worker_name(pid))
        send_turns(turns, settings.queue_names, settings.worker_children)
    except StoreUnavailable:
        log.warning("claims of the dead worker are left to housekeeping")


def _restart(parts: Sequence[Part], died: Callable[[int], None]) -> None:
    for part in parts:
        if (status := part.died()) is not None:
            pid, pause_s = part.pid, part.plan_restart()
            log.error("part died", extra={"part": part.spec.name, "exit_status": status, "pause_s": pause_s})
            if pid is not None:
                died(pid)
        if part.restart_if_due():
            log.info("part restarted", extra={"part": part.spec.name})


def _await_end(parts: Sequence[Part], deadline: float) -> None:
    for part in parts:
        if not part.wait(deadline - time.monotonic()):
            log.warning("part killed", extra={"part": part.spec.name})
            part.kill()


@contextmanager
def _passing_on(parts: Sequence[Part]) -> Iterator[Callable[[], bool]]:
    """Pass signals on to the parts; give a function that tells whether there was one."""
    caught: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        caught.append(number)
        for part in parts:
            part.signal(signal.Signals(number))

    before = {number: signal.signal(number, pass_on) for number in STOPPING}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
