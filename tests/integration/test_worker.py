"""Real workers on a real broker, which are cancelled, killed and stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import Redis
from servers import ARRAY, Server, Worker, is_alive, settings_for, until

from inference_server.imaging.volume import IDENTITY
from inference_server.tasks.figures import Figure, read
from inference_server.tasks.record import Phase, Status
from inference_server.tasks.result_zip import read_result
from inference_server.tasks.workers import SILENT_S, Workers, WorkerState


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis: Redis) -> Server:
    return Server(settings_for(tmp_path_factory.mktemp("server"), redis.url))


@pytest.fixture(scope="module")
def running_worker(server: Server) -> Iterator[Worker]:
    worker = Worker(server, server.settings.data_dir / "worker.log")
    yield worker
    worker.close()


@pytest.fixture
def worker(server: Server, running_worker: Worker) -> Worker:
    """The worker that most tests share, with both children up."""
    server.go.unlink(missing_ok=True)
    until(lambda: len(running_worker.children()) == 2)
    return running_worker


def test_a_case_goes_in_and_its_labels_come_out(server: Server, worker: Worker) -> None:
    task = server.ended(server.submit())
    assert task.status is Status.FINISHED, task.problem
    assert (task.progress, task.attempts) == (1.0, 0)
    with server.blobs.as_file(task.result_blob or "") as path:
        assert path.stat().st_size == task.result_size_bytes
        (segmentation,) = read_result(path)
    assert (segmentation.labels.array == (ARRAY > 0)).all()
    assert segmentation.labels.geometry.direction != IDENTITY  # RAS in the file, LPS here
    assert segmentation.names[1].name == "BRIGHT"
    assert set(task.report["timings_s"]) == {"queued", "device_wait", "reading", "predicting", "writing"}


def test_turns_too_many_do_nothing(server: Server, worker: Worker) -> None:
    uids = [server.submit(turns=4) for _ in range(3)]
    assert [server.ended(uid).status for uid in uids] == [Status.FINISHED] * 3
    until(lambda: server.turns.ready(server.queue) == 0)
    assert all(server.texts(uid) == ["Accepted.", "A worker started.", "Finished."] for uid in uids)


def test_a_model_that_fails_leaves_its_child_as_it_was(server: Server, worker: Worker) -> None:
    children = worker.children()
    failed, exhausted = server.ended(server.submit("fail")), server.ended(server.submit("exhaust"))
    assert failed.problem is not None
    assert exhausted.problem is not None
    assert (failed.problem.code, exhausted.problem.code) == ("internal", "out_of_memory")
    assert [server.ended(server.submit()).status for _ in range(4)] == [Status.FINISHED] * 4
    assert worker.children() == children


def test_the_log_says_where_a_model_failed_but_not_with_what(server: Server, worker: Worker) -> None:
    task = server.ended(server.submit("fail"))
    until(lambda: task.uid in worker.log and "ValueError" in worker.log)
    assert "stand_in.py" in worker.log
    assert "DOE^JANE" not in worker.log


def test_a_model_of_a_withdrawn_version_is_named(server: Server, worker: Worker) -> None:
    task = server.ended(server.submit(model="gone"))
    assert task.problem is not None
    assert task.problem.code == "unknown_model"
    assert "'gone', version 1.0.0, has been withdrawn" in task.problem.message


def test_a_model_may_use_processes(server: Server, worker: Worker) -> None:
    task = server.ended(server.submit("fork"))
    assert task.status is Status.FINISHED, worker.log


def test_a_worker_says_how_it_is_and_what_it_runs(server: Server, worker: Worker) -> None:
    uid = server.submit("wait")
    server.running(uid, Phase.PREDICTING)
    until(lambda: listed(server, worker).state is WorkerState.READY)
    said = listed(server, worker)
    assert (said.device, said.device_id, said.children) == (server.settings.device, server.settings.device, 2)
    assert (said.queues, said.models, said.tasks) == (server.settings.queue_names, ("stand-in:1.0.0",), (uid,))
    assert (said.memory_used_bytes, said.utilisation) == (None, None)  # nobody says it of this device
    server.go.touch()
    server.ended(uid)
    until(lambda: listed(server, worker).tasks == ())
    until(lambda: listed(server, worker).beat_at > said.beat_at)
    until(lambda: any(figure.detail == "hit" and figure.counted > 0 for figure in figures_of(server)))


def listed(server: Server, worker: Worker) -> Any:
    """Return what a worker says of itself, once it does."""
    return until(lambda: next((one for one in Workers(server.database).all() if one.name == worker.name), None))


def figures_of(server: Server) -> list[Figure]:
    with server.database.reading() as connection:
        return [figure for figure in read(connection) if figure.figure == "warm"]


def test_a_cancelled_model_that_listens_keeps_its_child(server: Server, worker: Worker) -> None:
    children = worker.children()
    uid = server.submit("wait")
    server.running(uid, Phase.PREDICTING)
    server.store.cancel(uid)
    assert server.ended(server.submit()).status is Status.FINISHED
    assert worker.children() == children
    assert server.task(uid).status is Status.CANCELLED


def test_a_cancelled_model_that_does_not_listen_ends_with_its_child_alone(server: Server, worker: Worker) -> None:
    children = worker.children()
    uid = server.submit("ignore")
    server.running(uid, Phase.PREDICTING)
    server.store.cancel(uid)
    until(lambda: len(worker.children() - children) == 1)
    assert len(worker.children() & children) == 1
    assert [server.ended(server.submit()).status for _ in range(3)] == [Status.FINISHED] * 3
    assert server.task(uid).status is Status.CANCELLED


def test_what_a_model_has_started_ends_with_it(server: Server, worker: Worker) -> None:
    uid = server.submit("spawn")
    grandchild = server.settings.data_dir / "grandchild"
    until(lambda: grandchild.exists() and grandchild.read_text())
    pid = int(grandchild.read_text())
    assert is_alive(pid)
    server.store.cancel(uid)
    until(lambda: not is_alive(pid))


def test_a_model_that_hangs_with_the_global_lock_held_is_ended(server: Server, worker: Worker) -> None:
    children = worker.children()
    uid = server.submit("hold_gil")
    until(lambda: "Timeout" in worker.log)  # written from C
    server.store.cancel(uid)
    until(lambda: worker.children() - children)
    assert server.ended(server.submit()).status is Status.FINISHED


def test_a_task_over_its_time_limit_fails_and_says_so(server: Server, worker: Worker) -> None:
    task = server.ended(server.submit("ignore", time_limit_s=0.2))
    assert task.problem is not None
    assert task.problem.code == "timed_out"
    assert server.ended(server.submit()).status is Status.FINISHED


def test_a_task_whose_children_die_is_tried_again_at_once_and_then_given_up(server: Server, worker: Worker) -> None:
    uid = server.submit("die")
    task = server.ended(uid, server.settings.lease_s)  # sooner than its claim would lapse twice
    assert task.problem is not None
    assert (task.problem.code, task.attempts) == ("worker_lost", 2)
    assert server.texts(uid).count("A worker started.") == 2


def test_a_child_that_is_killed_while_idle_is_replaced(server: Server, worker: Worker) -> None:
    children = worker.children()
    os.kill(min(children), signal.SIGKILL)
    until(lambda: len(worker.children()) == 2 and min(children) not in worker.children())
    uids = [server.submit("wait"), server.submit("wait")]
    until(lambda: all(server.task(uid).status is Status.RUNNING for uid in uids))
    server.go.touch()
    assert {server.ended(uid).status for uid in uids} == {Status.FINISHED}
    until(lambda: "signal 9 (SIGKILL)" in worker.log)
    assert not [line for line in worker.log.splitlines() if line.startswith("Process ")]  # but with a time and a level


def test_a_child_that_is_told_to_stop_goes_on_since_that_is_its_workers_decision(
    server: Server, worker: Worker
) -> None:
    uid = server.submit("wait")
    server.running(uid, Phase.PREDICTING)
    pid = server.holder_pid(uid)
    os.kill(pid, signal.SIGTERM)
    server.go.touch()
    task = server.ended(uid)
    assert (task.status, task.attempts) == (Status.FINISHED, 0)
    assert server.texts(uid).count("A worker started.") == 1
    assert pid in worker.children()


def test_one_case_is_computed_at_a_time_while_another_is_read(server: Server, worker: Worker) -> None:
    first, second = server.submit("wait"), server.submit()
    server.running(first, Phase.PREDICTING)
    server.running(second)
    server.go.touch()
    assert server.ended(first).status is server.ended(second).status is Status.FINISHED


@pytest.fixture
def other(tmp_path: Path, redis: Redis) -> Server:
    """A server whose workers a test may kill."""
    return Server(settings_for(tmp_path, redis.url))


@pytest.fixture
def start(other: Server, tmp_path: Path) -> Iterator[type[Worker]]:
    started: list[Worker] = []

    def start_worker(**environment: str) -> Worker:
        started.append(Worker(other, tmp_path / "worker.log", environment))
        return started[-1]

    yield start_worker  # type: ignore[misc]
    for worker in started:
        worker.close()


def test_everything_ends_with_a_killed_parent(other: Server, start: type[Worker]) -> None:
    worker = start()
    uid = other.submit("spawn")
    grandchild = other.settings.data_dir / "grandchild"
    until(lambda: grandchild.exists() and grandchild.read_text())
    pids = {*worker.children(), int(grandchild.read_text())}
    listed(other, worker)
    worker.signal(signal.SIGKILL)
    worker.wait()
    later = Workers(other.database, clock=lambda: time.time() + SILENT_S + 1)
    assert [one.state for one in later.all()] == [WorkerState.SILENT]
    until(lambda: not any(is_alive(pid) for pid in pids))
    assert other.claims.lose(worker.name) == [uid]
    assert (other.task(uid).status, other.task(uid).attempts) == (Status.QUEUED, 1)


def test_sigterm_lets_running_tasks_finish(other: Server, start: type[Worker]) -> None:
    worker = start()
    uid = other.submit("wait")
    other.running(uid, Phase.PREDICTING)
    children = worker.children()
    worker.signal(signal.SIGTERM)
    until(lambda: "drain" in worker.log)
    until(lambda: listed(other, worker).state is WorkerState.DRAINING)
    later = other.submit()
    other.go.touch()
    assert worker.wait() == 0
    assert other.task(uid).status is Status.FINISHED
    assert not any(is_alive(pid) for pid in children)
    assert Workers(other.database).all() == []
    start()
    assert other.ended(later).status is Status.FINISHED


def test_a_worker_that_drains_too_long_hands_its_tasks_back(tmp_path: Path, redis: Redis) -> None:
    server = Server(settings_for(tmp_path, redis.url, drain_s=0.3))
    worker = Worker(server, tmp_path / "worker.log")
    uid = server.submit("ignore")
    server.running(uid, Phase.PREDICTING)
    worker.signal(signal.SIGTERM)
    assert worker.wait(5.0) == 0
    worker.close()
    assert (server.task(uid).status, server.task(uid).attempts) == (Status.QUEUED, 0)


def test_sigterm_remapped_hands_tasks_back_at_once_and_the_next_worker_takes_them(
    other: Server, start: type[Worker]
) -> None:
    worker = start(REMAP_SIGTERM="SIGQUIT")
    assert other.ended(other.submit("terminate")).status is Status.FINISHED  # what a model starts hears it, too
    uids = [other.submit("wait"), other.submit("wait")]
    until(lambda: all(other.task(uid).status is Status.RUNNING for uid in uids))
    children = worker.children()
    worker.signal(signal.SIGTERM)
    assert worker.wait(3.0) == 0
    assert not any(is_alive(pid) for pid in children)
    assert {(other.task(uid).status, other.task(uid).attempts) for uid in uids} == {(Status.QUEUED, 0)}
    other.go.touch()
    start()
    assert {other.ended(uid).status for uid in uids} == {Status.FINISHED}


def test_a_worker_whose_engine_cannot_be_opened_stops_and_says_why(other: Server, start: type[Worker]) -> None:
    worker = start(INFERENCE_SERVER_DEVICE="missing")
    assert worker.wait() == os.EX_CONFIG
    assert "There is no device 'missing'" in worker.log


@pytest.mark.parametrize("do", ["gorge", "gorge_elsewhere"])
def test_a_task_that_takes_too_much_memory_fails_for_that_and_is_not_tried_again(
    do: str, tmp_path: Path, redis: Redis
) -> None:
    server = Server(settings_for(tmp_path, redis.url, child_memory_bytes=700 * 2**20))
    worker = Worker(server, tmp_path / "worker.log")
    children = worker.children()
    try:
        task = server.ended(server.submit(do))
        assert task.problem is not None
        assert (task.problem.code, task.attempts) == ("out_of_memory", 0)
        until(lambda: len(worker.children()) == 2 and worker.children() != children)
        assert server.ended(server.submit()).status is Status.FINISHED
        assert server.texts(task.uid).count("A worker started.") == 1
    finally:
        worker.close()


def test_children_die_before_anything_else_when_the_machine_runs_out_of_memory(server: Server, worker: Worker) -> None:
    scores = {int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in worker.children()}
    parent = int(Path(f"/proc/{worker.process.pid}/oom_score_adj").read_text())
    assert scores == {500}
    assert parent < 500


def test_temporary_files_of_a_killed_child_are_private_and_go_with_it(server: Server, worker: Worker) -> None:
    folder = server.settings.data_dir / "scratch"
    assert {path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir()) if path.is_dir()} == {0o700}
    assert server.ended(server.submit("litter")).status is Status.FAILED
    litter = Path((server.settings.data_dir / "litter").read_text())
    assert folder in litter.parents
    until(lambda: len(worker.children()) == 2 and not litter.exists())
    until(lambda: len([path for path in folder.iterdir() if path.is_dir()]) == 2)
    assert not [path for path in folder.rglob("*") if path.is_file() and path.parent != folder]
