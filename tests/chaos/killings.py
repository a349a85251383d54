"""Faults that end processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from chaos.arena import Arena, Hit, recovery
from chaos.records import Held
from chaos.repository import STEADY
from chaos.site import send
from inference_server.stack.redis import running_url

Strike = Callable[[Arena], Hit]
TRIES = 5
PART_LIMIT_S = 60.0


def on_child(kind: str, number: signal.Signals) -> Strike:
    """Return the fault that sends a signal to the worker child of a running task."""
    return lambda arena: _hit(arena, kind, number, lambda held: held.pid)


def on_worker(kind: str, number: signal.Signals) -> Strike:
    """Return the fault that sends a signal to the worker of a running task."""
    return lambda arena: _hit(arena, kind, number, lambda held: held.worker_pid)


def child_told_to_stop(arena: Arena) -> Hit:
    """Send SIGTERM to the worker child of a running task, which goes on: to stop is its worker's decision.

    It strikes until a task was really running when the signal was there, and follows that one to its end. One that ends
    its process by itself would tell nothing.
    """
    for _ in range(TRIES):
        if (held := arena.victim(of=STEADY)) is None:
            continue
        send(held.pid, signal.SIGTERM)
        if not arena.records.holds(held):
            continue
        interrupted = recovery(arena.records, held, time.monotonic()) is not None or not _is_alive(held.pid)
        return Hit("term_child", (held.uid,), f"pid {held.pid}", interrupted=interrupted)
    return Hit("term_child", (), "nothing ran, or it ended first")


def _hit(arena: Arena, kind: str, number: signal.Signals, pid_of: Callable[[Held], int]) -> Hit:
    """Strike until a task was really hit: one that ends in the very moment is none."""
    for _ in range(TRIES):
        if (held := arena.victim()) is None:
            break
        struck_at = time.monotonic()
        send(pid_of(held), number)
        if (lasted_s := recovery(arena.records, held, struck_at)) is not None:
            return Hit(kind, (held.uid,), f"pid {pid_of(held)}", lasted_s)
    return Hit(kind, (), "nothing ran, or it ended first")


def on_part(kind: str, part: str, number: signal.Signals) -> Strike:
    """Return the fault that sends a signal to a part of the stack, and waits until it is there again."""

    def strike(arena: Arena) -> Hit:
        before = _there(arena, part)
        running = arena.moment()
        struck_at = time.monotonic()
        send(before.pid, number)
        after = _there(arena, part, other_than=before.pid)
        back_s = time.monotonic() - struck_at
        return Hit(kind, _uids(running), f"pid {before.pid}, pid {after.pid} {back_s:.1f} s later")

    return strike


def api_process(arena: Arena) -> Hit:
    """Kill one of the API's processes; the others go on."""
    running = arena.moment()
    if not (processes := _there(arena, "api").children()):
        return Hit("kill_api_process", (), "there was none")
    doomed = arena.random.choice(processes)
    send(doomed.pid, signal.SIGKILL)
    return Hit("kill_api_process", _uids(running), f"pid {doomed.pid}")


def everything_killed(arena: Arena) -> Hit:
    """Kill all processes at once, as a power cut does, start the server again and wait until what ran runs again."""
    running = arena.moment()
    arena.site.kill()
    arena.site.start()
    started_at = time.monotonic()
    times_s = (recovery(arena.records, held, started_at) for held in running)
    lasted_s = next((time_s for time_s in times_s if time_s is not None), None)
    return Hit("kill_everything", _uids(running), "counted from the start", lasted_s)


def everything_stopped(arena: Arena) -> Hit:
    """Stop the server by SIGTERM and start it again."""
    running = arena.moment()
    arena.site.stop()
    arena.site.start()
    return Hit("term_everything", _uids(running))


def redis_down(arena: Arena) -> Hit:
    """Keep Redis down for a while: whatever the supervisor starts is killed."""
    running = arena.moment()
    until, killed = time.monotonic() + arena.random.uniform(*arena.outage_s), 0
    while time.monotonic() < until:
        if process := arena.site.part("redis"):
            send(process.pid, signal.SIGKILL)
            killed += 1
        time.sleep(0.05)
    _there(arena, "redis")
    return Hit("redis_down", _uids(running), f"killed {killed} times")


def redis_hangs(arena: Arena) -> Hit:
    """Let Redis hang, its connections open."""
    process = _there(arena, "redis")
    running = arena.moment()
    process.suspend()
    try:
        lasted_s = arena.pause()
    finally:
        with suppress(psutil.NoSuchProcess):
            process.resume()
    return Hit("redis_hangs", _uids(running), f"{lasted_s:.1f} s")


def flushed(arena: Arena) -> Hit:
    """Empty Redis: all turns are gone."""
    import redis

    _there(arena, "redis")
    running = arena.moment()
    _, _, address = (running_url(arena.data) or "").partition("://:")
    password, _, socket = address.partition("@")
    with redis.Redis(unix_socket_path=socket, password=password) as client:
        client.flushall()
    return Hit("flushall", _uids(running))


def _there(arena: Arena, part: str, other_than: int | None = None) -> psutil.Process:
    deadline = time.monotonic() + PART_LIMIT_S
    while time.monotonic() < deadline:
        process = arena.site.part(part)
        if process is not None and process.pid != other_than:
            return process
        time.sleep(0.02)
    raise TimeoutError(f"the part '{part}' is not there")


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _uids(running: list[Held]) -> tuple[str, ...]:
    return tuple(held.uid for held in running)
