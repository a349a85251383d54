from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from records import PROBLEM, claimed

from inference_server.errors import (
    BadRequest,
    Cancelled,
    Conflict,
    InferenceServerError,
    InvalidVolume,
    NotFinished,
    PredictionError,
    QueueFull,
    ResultGone,
    StorageFull,
    StoreUnavailable,
    TaskError,
    UnknownModel,
    UnknownTask,
)
from inference_server.models.manifest import Manifest
from inference_server.models.parameter import Parameter
from inference_server.models.resources import Resources
from inference_server.settings import Settings
from inference_server.tasks.admission import Bounds
from inference_server.tasks.blobs.memory import MemoryBlobs
from inference_server.tasks.caller import LOCAL, Caller, Scope
from inference_server.tasks.claims import Claims
from inference_server.tasks.record import NewTask, Priority, Problem, Status, Task
from inference_server.tasks.service import Tasks
from inference_server.tasks.store import Store, TaskFilter
from inference_server.tasks.submission import Submission

CASE = b"the zip of a case"


@dataclass
class _Turns:
    sent: list[tuple[str, Priority]] = field(default_factory=list)
    broker_is_up: bool = True

    def send(self, queue: str, priority: Priority = Priority.NORMAL) -> bool:
        if self.broker_is_up:
            self.sent.append((queue, priority))
        return self.broker_is_up


@dataclass(frozen=True)
class _Model:
    manifest: Manifest
    digest: str = "d1"


class _Models:
    def get(self, model_id: str, /) -> _Model:
        if model_id != "ct-body":
            raise UnknownModel(f"The server does not know the model '{model_id}'. Known models: ct-body.")
        parameter = Parameter(name="threshold", type="number", default=0.5)
        resources = Resources(queue="gpu", time_limit_s=60.0)
        return _Model(Manifest(id="ct-body", version="2.1", parameters=(parameter,), resources=resources))


def _check_case(path: Path, manifest: Manifest, settings: Settings) -> None:
    if path.read_bytes() != CASE:
        raise InvalidVolume("That is not a case.", field="tmp_0000.nii.gz")


@pytest.fixture
def turns() -> _Turns:
    return _Turns()


@pytest.fixture
def blobs(tmp_path_factory: pytest.TempPathFactory) -> MemoryBlobs:
    return MemoryBlobs(tmp_path_factory.mktemp("blobs"))


@pytest.fixture
def tasks(store: Store, blobs: MemoryBlobs, turns: _Turns) -> Tasks:
    return Tasks(Settings(), store, blobs, turns, _Models(), _check_case)


def _submit(tasks: Tasks, content: bytes = CASE, **changes: Any) -> tuple[Task, bool]:
    staged = tasks.stage()
    staged.write_bytes(content)
    try:
        return tasks.submit(Submission(**{"model": "ct-body", "staged": staged, "dialect": "native", **changes}))
    finally:
        assert not staged.exists()


def test_outputs_are_kept_once_each_and_unknown_ones_refused(tasks: Tasks) -> None:
    task, _ = _submit(tasks, outputs=("volumes", "meshes", "volumes"))
    assert task.outputs == ("meshes", "volumes")
    with pytest.raises(BadRequest, match=r"'pictures' is not known here\. Outputs: meshes, volumes") as caught:
        _submit(tasks, outputs=("meshes", "pictures"))
    assert caught.value.field == "outputs"


def _stored(blobs: MemoryBlobs) -> list[str]:
    return blobs.older_than(-1.0)


def test_an_accepted_task_has_its_case_stored_and_a_turn_sent(tasks: Tasks, blobs: MemoryBlobs, turns: _Turns) -> None:
    task, created = _submit(tasks, priority=Priority.URGENT, parameters={"threshold": "0.25"})
    assert created
    assert (task.model, task.version, task.digest, task.queue) == ("ct-body", "2.1", "d1", "gpu")
    assert (task.parameters, task.case_size_bytes, task.time_limit_s) == ({"threshold": 0.25}, len(CASE), 60.0)
    assert turns.sent == [("gpu", Priority.URGENT)]
    assert task.case_blob is not None
    with blobs.open(task.case_blob) as case:
        assert case.read() == CASE


def test_defaults_of_the_manifest_are_recorded(tasks: Tasks) -> None:
    assert _submit(tasks)[0].parameters == {"threshold": 0.5}


def test_a_task_is_accepted_although_the_broker_is_down(tasks: Tasks, turns: _Turns) -> None:
    turns.broker_is_up = False
    task, created = _submit(tasks)
    assert created
    assert tasks.get(task.uid, LOCAL).status is Status.QUEUED


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model": "ct-nobody"}, UnknownModel),
        ({"parameters": {"threshold": "high"}}, BadRequest),
        ({"parameters": {"colour": "red"}}, BadRequest),
        ({"content": b"something else"}, InvalidVolume),
    ],
)
def test_a_refused_request_leaves_nothing_behind(
    changes: dict[str, Any], error: type[InferenceServerError], tasks: Tasks, blobs: MemoryBlobs, turns: _Turns
) -> None:
    with pytest.raises(error):
        _submit(tasks, **changes)
    assert _stored(blobs) == []
    assert turns.sent == []
    assert tasks.page(TaskFilter(), LOCAL).tasks == ()


def test_a_full_queue_leaves_no_bytes_behind(tasks: Tasks, blobs: MemoryBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.store, "_bounds", Bounds(0, 1, 1))
    with pytest.raises(QueueFull):
        _submit(tasks)
    assert _stored(blobs) == []


def test_bytes_stay_when_it_is_not_sure_whether_the_record_was_committed(
    tasks: Tasks, blobs: MemoryBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(new: NewTask) -> tuple[Task, bool]:
        raise StoreUnavailable

    monkeypatch.setattr(tasks.store, "add", unavailable)
    with pytest.raises(StoreUnavailable):
        _submit(tasks)
    assert len(_stored(blobs)) == 1


def test_a_nearly_full_disk_takes_nothing(tasks: Tasks, blobs: MemoryBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    low = tasks.settings.disk_low_bytes
    monkeypatch.setattr(blobs, "free_bytes", lambda: low + 100)
    tasks.ensure_room(100)
    with pytest.raises(StorageFull):
        tasks.ensure_room(101)
    monkeypatch.setattr(blobs, "free_bytes", lambda: low - 1)
    with pytest.raises(StorageFull, match="nearly full"):
        _submit(tasks)
    assert _stored(blobs) == []


def test_the_same_request_under_the_same_key_is_one_task(tasks: Tasks, blobs: MemoryBlobs, turns: _Turns) -> None:
    first, _ = _submit(tasks, idempotency_key="k")
    second, created = _submit(tasks, idempotency_key="k")
    assert (second, created) == (first, False)
    assert _stored(blobs) == [first.case_blob]
    assert len(turns.sent) == 1


@pytest.mark.parametrize("changes", [{"parameters": {"threshold": 0.1}}, {"outputs": ("meshes",)}])
def test_another_request_under_the_same_key_is_refused(
    changes: dict[str, Any], tasks: Tasks, blobs: MemoryBlobs
) -> None:
    first, _ = _submit(tasks, idempotency_key="k")
    with pytest.raises(Conflict):
        _submit(tasks, idempotency_key="k", **changes)
    assert _stored(blobs) == [first.case_blob]


def test_other_images_under_the_same_key_are_refused(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    _submit(tasks, idempotency_key="k")
    monkeypatch.setattr(tasks, "_check_case", lambda *_: None)
    with pytest.raises(Conflict):
        _submit(tasks, content=b"other images", idempotency_key="k")


def test_a_task_of_somebody_else_is_an_unknown_one(tasks: Tasks) -> None:
    task, _ = _submit(tasks, token="alice")
    alice, bob = Caller("alice", frozenset({Scope.READ_OWN})), Caller("bob", frozenset({Scope.READ_OWN, Scope.SUBMIT}))
    for verb in (tasks.get, tasks.cancel, tasks.retry, tasks.delete, tasks.result, tasks.events):
        with pytest.raises(UnknownTask):
            verb(task.uid, bob)
    assert tasks.page(TaskFilter(token="alice"), bob).tasks == ()
    assert tasks.page(TaskFilter(), alice).tasks == (tasks.get(task.uid, alice),)


def _finish(tasks: Tasks, claims: Claims, content: bytes) -> Task:
    task, _ = _submit(tasks)
    claim = claimed(claims, queue="gpu")
    staged = tasks.stage()
    staged.write_bytes(content)
    key = tasks.blobs.put(staged)
    assert claims.finish(claim, blob=key, size_bytes=len(content), report={}, device_s=1.0)
    return task


def test_a_result_is_served_as_it_was_stored(tasks: Tasks, claims: Claims) -> None:
    result = tasks.result(_finish(tasks, claims, b"result").uid, LOCAL)
    assert result.size_bytes == 6
    assert result.task.status is Status.FINISHED
    with result.open() as stream:
        assert stream.read() == b"result"
    with result.as_file() as path:
        assert path.read_bytes() == b"result"


def test_a_result_whose_bytes_are_gone_says_so(tasks: Tasks, claims: Claims) -> None:
    result = tasks.result(_finish(tasks, claims, b"result").uid, LOCAL)
    tasks.blobs.delete(result.key)
    with pytest.raises(ResultGone):
        result.open()
    with pytest.raises(ResultGone), result.as_file():
        pass


def test_a_task_that_has_not_finished_has_no_result(tasks: Tasks, claims: Claims) -> None:
    task, _ = _submit(tasks)
    with pytest.raises(NotFinished):
        tasks.result(task.uid, LOCAL)
    claimed(claims, queue="gpu")
    with pytest.raises(NotFinished):
        tasks.result(task.uid, LOCAL)


def test_a_cancelled_task_has_no_result(tasks: Tasks) -> None:
    task, _ = _submit(tasks)
    tasks.cancel(task.uid, LOCAL)
    with pytest.raises(Cancelled):
        tasks.result(task.uid, LOCAL)


def test_an_expired_result_is_gone(tasks: Tasks, claims: Claims) -> None:
    task = _finish(tasks, claims, b"result")
    claims.expire(-1.0)
    with pytest.raises(ResultGone):
        tasks.result(task.uid, LOCAL)


@pytest.mark.parametrize(
    ("problem", "error"),
    [
        (PROBLEM, PredictionError),
        (Problem("invalid_volume", "The image holds NaN."), InvalidVolume),
        (Problem("of_a_later_release", "Something else."), TaskError),
    ],
)
def test_a_failed_task_answers_with_its_own_error(
    problem: Problem, error: type[InferenceServerError], tasks: Tasks, claims: Claims
) -> None:
    task, _ = _submit(tasks)
    claims.fail(claimed(claims, queue="gpu"), problem, {}, 1.0)
    with pytest.raises(InferenceServerError) as failure:
        tasks.result(task.uid, LOCAL)
    assert type(failure.value) is error
    assert failure.value.message == problem.message


def test_a_retried_task_gets_a_turn(tasks: Tasks, turns: _Turns) -> None:
    task, _ = _submit(tasks)
    tasks.cancel(task.uid, LOCAL)
    assert tasks.retry(task.uid, LOCAL).status is Status.QUEUED
    assert turns.sent == [("gpu", Priority.NORMAL)] * 2


def test_deleting_removes_all_bytes(tasks: Tasks, claims: Claims, blobs: MemoryBlobs) -> None:
    task = _finish(tasks, claims, b"result")
    assert len(_stored(blobs)) == 2
    tasks.delete(task.uid, LOCAL)
    assert _stored(blobs) == []
    with pytest.raises(UnknownTask):
        tasks.get(task.uid, LOCAL)


def test_a_deleted_task_is_gone_although_its_bytes_cannot_be_removed_yet(
    tasks: Tasks, blobs: MemoryBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(key: str) -> None:
        raise StoreUnavailable

    task, _ = _submit(tasks)
    monkeypatch.setattr(blobs, "delete", unavailable)
    tasks.delete(task.uid, LOCAL)
    with pytest.raises(UnknownTask):
        tasks.get(task.uid, LOCAL)


def test_the_log_is_read_through_the_service(tasks: Tasks) -> None:
    task, _ = _submit(tasks)
    first, *_ = tasks.events(task.uid, LOCAL)
    assert first.text == "Accepted."
    assert tasks.events(task.uid, LOCAL, first.seq) == []
