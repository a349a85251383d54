from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from worker_rows import worker_row

from inference_server.models.manifest import Manifest
from inference_server.settings import Settings
from inference_server.tasks import housekeeping
from inference_server.tasks.audit import Audit
from inference_server.tasks.blobs import LocalBlobs
from inference_server.tasks.caller import Caller, Scope
from inference_server.tasks.claims import Claims
from inference_server.tasks.database import open_database
from inference_server.tasks.housekeeping import BLOBS_EVERY_S, PATIENCE_S, Housekeeper
from inference_server.tasks.metrics import Metrics
from inference_server.tasks.metrics_listener import metrics_listener
from inference_server.tasks.record import Holder, NewTask, Priority, Problem, Status, Task, new_uid
from inference_server.tasks.store import Store
from inference_server.tasks.tickets import rows
from inference_server.tasks.tickets.record import Service, TicketStatus
from inference_server.tasks.tickets.tickets import Tickets
from inference_server.tasks.workers import FORGOTTEN_S, Workers

HOLDER = Holder("worker", 1)


@dataclass
class Clock:
    now: float = field(default_factory=time.time)

    def __call__(self) -> float:
        return self.now


@dataclass
class CountedTurns:
    """Turns that lie in a list and are never taken."""

    sent: list[str] = field(default_factory=list)
    reachable: bool = True

    def send(self, queue: str, priority: Priority = Priority.NORMAL) -> bool:
        self.sent.append(queue)
        return True

    def ready(self, queue: str) -> int | None:
        return self.sent.count(queue) if self.reachable else None


class World:
    """A housekeeper with real records and files, and a clock that a test moves."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.clock = Clock()
        self.settings = Settings(**{"data_dir": folder, "max_attempts": 2, **settings})
        database = open_database(self.settings.database)
        self.store = Store(database, clock=self.clock)
        self.claims = Claims(database, max_attempts=2, clock=self.clock)
        self.blobs = LocalBlobs(folder / "blobs")
        self.turns = CountedTurns()
        self.served: list[Any] = [SimpleNamespace(manifest=Manifest(id="m"), digest="")]
        self.needed: list[set[str]] = []
        models = SimpleNamespace(models=lambda: self.served, prune=self.needed.append)
        self.keeper = Housekeeper(self.settings, self.claims, self.blobs, self.turns, models, self.clock)

    def submit(self, digest: str = "") -> Task:
        staged = self.blobs.stage()
        staged.write_bytes(b"case")
        new = NewTask(
            uid=new_uid(), model="m", version="1", digest=digest, queue="default", dialect="native",
            case_blob=self.blobs.put(staged), case_size_bytes=4,
        )  # fmt: skip
        return self.store.add(new)[0]

    def pass_by(self, seconds: float) -> None:
        self.clock.now += seconds

    def age_files(self, seconds: float) -> None:
        for path in (p for p in self.settings.data_dir.rglob("blobs/*/*") if p.is_file()):
            os.utime(path, (time.time() - seconds,) * 2)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def statuses(world: World, tasks: Sequence[Task]) -> list[Status]:
    return [world.store.get(task.uid).status for task in tasks]


def test_a_missing_turn_is_sent_when_it_was_missing_twice(world: World) -> None:
    world.submit()
    world.pass_by(PATIENCE_S + 1)
    world.keeper.sweep()
    assert world.turns.sent == []
    world.keeper.sweep()
    assert world.turns.sent == ["default"]
    world.keeper.sweep()
    world.keeper.sweep()
    assert world.turns.sent == ["default"]


def test_nothing_is_sent_while_the_broker_is_away(world: World) -> None:
    world.submit()
    world.pass_by(PATIENCE_S + 1)
    world.turns.reachable = False
    world.keeper.sweep()
    world.keeper.sweep()
    assert world.turns.sent == []


def test_a_lapsed_lease_returns_the_task_until_its_attempts_are_used_up(world: World) -> None:
    task = world.submit()
    expected = [Status.QUEUED, Status.FAILED]
    for status in expected:
        assert world.claims.claim(["default"], HOLDER, 15)
        world.pass_by(16)
        world.keeper.sweep()
        assert world.store.get(task.uid).status is status
    problem = world.store.get(task.uid).problem
    assert problem
    assert problem.code == "worker_lost"


def test_a_task_that_was_returned_gets_its_turn_at_once(world: World) -> None:
    world.submit()
    assert world.claims.claim(["default"], HOLDER, 15)
    world.pass_by(16)
    world.keeper.sweep()
    assert world.turns.sent == ["default"]


def test_a_task_that_waited_too_long_fails(world: World) -> None:
    task = world.submit()
    world.pass_by(world.settings.queue_time_limit_s + 1)
    world.keeper.sweep()
    assert world.store.get(task.uid).problem.code == "queue_timed_out"  # type: ignore[union-attr]


def test_tasks_of_a_withdrawn_model_fail_but_not_at_its_first_absence(world: World) -> None:
    task = world.submit()
    world.served.clear()
    world.keeper.sweep()
    assert statuses(world, [task]) == [Status.QUEUED]
    world.keeper.sweep()
    problem = world.store.get(task.uid).problem
    assert problem
    assert problem.code == "unknown_model"
    assert "'m' is no longer served" in problem.message


def ended(world: World, status: Status) -> Task:
    """Return a task that ended in a status, with its case and, if it finished, a result."""
    uid = world.submit().uid
    if status is Status.CANCELLED:
        return world.store.cancel(uid)
    claim = world.claims.claim(["default"], HOLDER, 15)
    assert claim
    if status is Status.FAILED:
        assert world.claims.fail(claim, Problem("prediction", "."), {}, 0.0)
    else:
        blob = world.blobs.put(world.blobs.stage())
        assert world.claims.finish(claim, blob=blob, size_bytes=0, report={}, device_s=0.0)
    return world.store.get(uid)


RETENTIONS = {Status.FINISHED: 100.0, Status.FAILED: 300.0, Status.CANCELLED: 200.0}


def test_case_and_result_go_after_the_time_of_their_status_and_the_bare_record_stays(tmp_path: Path) -> None:
    world = World(tmp_path, retention_s=100.0, failed_retention_s=300.0, cancelled_retention_s=200.0)
    tasks = {status: ended(world, status) for status in RETENTIONS}
    for passed_s in (99.0, 199.0, 299.0, 301.0):
        world.clock.now = tasks[Status.FINISHED].ended_at or 0.0
        world.pass_by(passed_s)
        world.keeper.sweep()
        kept = {status for status, task in tasks.items() if world.store.get(task.uid).status is not Status.EXPIRED}
        assert kept == {status for status, limit_s in RETENTIONS.items() if passed_s < limit_s}
        blobs = {key for status in kept for key in (tasks[status].case_blob, tasks[status].result_blob) if key}
        assert set(world.blobs.older_than(-10)) == blobs


@pytest.mark.parametrize("keep_case", [True, False])
def test_the_case_of_a_finished_task_goes_at_once_where_it_is_not_kept(keep_case: bool, tmp_path: Path) -> None:
    world = World(tmp_path, keep_case=keep_case)
    tasks = [ended(world, status) for status in RETENTIONS]
    world.keeper.sweep()
    kept = [world.store.get(task.uid).case_blob is not None for task in tasks]
    assert kept == [keep_case, True, True]
    blobs = {key for task in tasks for key in (task.case_blob, task.result_blob) if key}
    gone = set() if keep_case else {tasks[0].case_blob}
    assert set(world.blobs.older_than(-10)) == blobs - gone


def test_a_file_without_a_record_goes_after_its_time_and_one_with_a_record_stays(world: World) -> None:
    task = world.submit()
    orphan = world.blobs.put(world.blobs.stage())
    abandoned = world.blobs.stage().name
    world.keeper.sweep()
    assert {orphan, abandoned, task.case_blob} == set(world.blobs.older_than(-10))
    world.age_files(world.settings.orphan_blob_s + 10)
    world.pass_by(601)
    world.keeper.sweep()
    assert world.blobs.older_than(-10) == [task.case_blob]


def test_copies_of_models_are_kept_while_tasks_need_them(world: World) -> None:
    tasks = [world.submit(digest) for digest in ("failed", "running", "waiting")]
    claim = world.claims.claim(["default"], HOLDER, 15.0)
    assert claim is not None
    world.claims.fail(claim, Problem("internal", "No."), {}, 0.0)
    assert world.claims.claim(["default"], HOLDER, 15.0)
    assert statuses(world, tasks) == [Status.FAILED, Status.RUNNING, Status.QUEUED]
    world.keeper.sweep()
    assert world.needed == [{"running", "waiting"}]
    world.keeper.sweep()
    assert len(world.needed) == 1
    world.pass_by(BLOBS_EVERY_S)
    world.keeper.sweep()
    assert len(world.needed) == 2


def test_lines_of_the_audit_log_are_forgotten_after_their_time(world: World) -> None:
    world.clock.now -= world.settings.audit_retention_s + 60
    world.submit()
    world.clock.now += world.settings.audit_retention_s + 60
    kept = world.submit().uid
    world.keeper.sweep()
    assert [entry.uid for entry in Audit(world.claims.database).entries()] == [kept]


def test_the_models_are_announced_while_housekeeping_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, world, told = threading.Event(), World(tmp_path), []
    stopped.set()
    monkeypatch.setattr(housekeeping, "_stop_event", lambda: stopped)
    monkeypatch.setattr(housekeeping, "open_housekeeper", lambda settings: world.keeper)
    monkeypatch.setattr(housekeeping, "start_announcing", lambda *given: told.append(given))
    housekeeping.run_housekeeping(world.settings)
    [(settings, models, stop)] = told
    assert (settings, models(), stop) == (world.settings, world.served, stopped)


def test_the_figures_are_told_at_a_port_of_their_own_while_housekeeping_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, world, seen = threading.Event(), World(tmp_path, metrics_port=0), []
    monkeypatch.setattr(housekeeping, "_stop_event", lambda: stopped)
    monkeypatch.setattr(housekeeping, "open_housekeeper", lambda settings: world.keeper)

    @contextmanager
    def listener(metrics: Metrics, host: str, port: int) -> Iterator[int]:
        with metrics_listener(metrics, host, port) as found:
            seen.append(httpx.get(f"http://{host}:{found}/metrics").text)
            stopped.set()
            yield found

    monkeypatch.setattr(housekeeping, "metrics_listener", listener)
    world.submit()
    housekeeping.run_housekeeping(world.settings)
    assert 'inference_server_queue_waiting_tasks{queue="default"} 1.0' in seen[0].splitlines()


def test_workers_that_fell_silent_long_ago_are_forgotten(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, broker_url="memory://", zoo=False)
    keeper = housekeeping.open_housekeeper(settings)
    workers = Workers(open_database(settings.database))
    now = time.time()
    for name, silence_s in (("alive", 0), ("silent", FORGOTTEN_S - 60), ("gone", FORGOTTEN_S + 60)):
        workers.beat(worker_row(name=name, beat_at=now - silence_s))
    keeper.sweep()
    assert [worker.name for worker in workers.all()] == ["alive", "silent"]


def test_files_of_tickets_are_no_orphans_and_silent_providers_are_noticed(world: World) -> None:
    tickets = Tickets(world.claims.database, world.blobs, clock=world.clock)
    caller = Caller("alice", frozenset({Scope.SUBMIT, Scope.READ_OWN}))
    ticket = tickets.create(Service("0" * 40, "s", "1", "s"), caller)
    staged = world.blobs.stage()
    staged.write_bytes(b"x")
    file = tickets.add_file(ticket.id, "a.itksnap", staged, caller)
    tickets.set_ready(ticket.id, caller)
    with world.claims.database.writing() as connection:
        rows.move(connection, ticket.id, TicketStatus.CLAIMED, sources=[TicketStatus.READY], at=time.time() - 1801)
    world.age_files(3601)
    world.keeper.sweep()
    assert tickets.get(ticket.id, caller).status is TicketStatus.TIMEOUT
    with world.blobs.open(file.blob) as opened:
        assert opened.read() == b"x"
    tickets.delete(ticket.id, caller)
    assert not [path for path in (world.settings.data_dir / "blobs").rglob("*") if path.is_file()]
