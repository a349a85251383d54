from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from case_zips import image, model, zipped
from records import HOLDER

from inference_server.errors import (
    DeviceFailed,
    InferenceServerError,
    InvalidVolume,
    ModelLoadError,
    OutOfMemory,
    StoreUnavailable,
    UnknownModel,
)
from inference_server.imaging.volume import Volume
from inference_server.models.case import Case, Report, Result, Segmentation
from inference_server.models.hooks import Hooks
from inference_server.models.manifest import LabelName, Manifest
from inference_server.models.registry import Model
from inference_server.models.warmth import Warmth
from inference_server.settings import Settings
from inference_server.tasks import children, room
from inference_server.tasks.blobs import LocalBlobs
from inference_server.tasks.children import Child
from inference_server.tasks.claims import Claims, Wish
from inference_server.tasks.database import Database
from inference_server.tasks.queue import CeleryTurns
from inference_server.tasks.record import Claim, NewTask, Problem, Status, Task, new_uid
from inference_server.tasks.result_zip import Content, read_result, write_result
from inference_server.tasks.runner import Runner
from inference_server.tasks.store import Store

WISH = (("default",), HOLDER, 60.0)
"""Queues, holder and lease of a claim."""

Compute = Callable[[Case, Hooks], Result]


def bright(case: Case, hooks: Hooks) -> Result:
    """Mark what is above 10."""
    for phase in ("loading", "preparing"):
        hooks.phase(phase)
    hooks.phase("predicting")
    with hooks.hold():
        hooks.progress(1.0)
    hooks.phase("restoring")
    volume = case.reference
    labels = Volume((volume.array > 10).astype(np.uint8), volume.geometry, volume.nifti_header)
    report = Report(
        "m", "1.0.0", "d1", "cpu", "float32", timings_s={"predicting": 0.25}, notes=("Directions were assumed.",)
    )
    return Result((Segmentation("labels", labels, {1: LabelName(name="BRIGHT")}),), {"benign": 0.75}, report=report)


class Engine:
    """Models that do what a test says."""

    device_id = "cpu"

    def __init__(self, manifests: Mapping[str, Manifest] | None = None) -> None:
        self.manifests = dict(manifests or {"1.0.0": model()})
        self.compute: Compute = bright
        self.loaded: list[tuple[str, str]] = []
        self.broken: set[str] = set()
        self.asked = ("", "", "")

    @property
    def registry(self) -> Engine:
        return self

    def get(self, id: str, version: str | None = None, digest: str = "") -> Model:  # noqa: A002
        self.asked = (id, version or "", digest)
        if id != "m" or version not in self.manifests:
            raise UnknownModel
        return Model(self.manifests[version], Path(), "d1")

    def models(self) -> tuple[Model, ...]:
        return tuple(Model(manifest, Path(), "d1") for manifest in self.manifests.values())

    def run(self, model: Model, case: Case, hooks: Hooks) -> Result:
        return self.compute(case, hooks)

    def warmth(self) -> Warmth:
        return Warmth()

    def load(self, model: Model, hooks: Hooks) -> None:
        if model.id in self.broken:
            raise ModelLoadError
        self.loaded.append((model.id, model.version))


class Bench:
    """A runner on real records and files."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.settings = Settings(data_dir=folder, lease_s=60.0)
        self.store, self.claims, self.engine = Store(database), Claims(database), Engine()
        self.blobs = LocalBlobs(folder / "blobs")

    def queue(self, members: Mapping[str, Any] | None = None, **changes: Any) -> str:
        key = self.blobs.put(zipped(self.blobs.stage(), members or {"tmp_0000.nii.gz": image()}))
        given = {"model": "m", "version": "1.0.0", "case_blob": key, **changes}
        new = NewTask(uid=new_uid(), digest="d1", queue="default", dialect="native", case_size_bytes=1, **given)
        return self.store.add(new)[0].uid

    def claim(self, members: Mapping[str, Any] | None = None, **changes: Any) -> Claim:
        self.queue(members, **changes)
        claim = self.claims.claim(*WISH)
        assert claim is not None
        return claim

    def run(self, claim: Claim, claims: Claims | None = None) -> Task:
        Runner(self.settings, claims or self.claims, self.blobs, self.engine).run(claim)
        return self.store.get(claim.task.uid)

    def problem(self, claim: Claim) -> Problem:
        task = self.run(claim)
        assert task.status is Status.FAILED
        assert task.problem is not None
        return task.problem

    def keys(self) -> set[str]:
        return set(self.blobs.older_than(-1.0))


@pytest.fixture
def bench(database: Database, tmp_path: Path) -> Bench:
    return Bench(database, tmp_path)


def raising(error: BaseException) -> Compute:
    def compute(case: Case, hooks: Hooks) -> Result:
        raise error

    return compute


def test_the_result_is_stored_and_committed_with_how_it_was_made(bench: Bench) -> None:
    task = bench.run(bench.claim())
    assert task.status is Status.FINISHED
    assert bench.engine.asked == ("m", "1.0.0", "d1")
    with bench.blobs.as_file(task.result_blob or "") as path:
        assert path.stat().st_size == task.result_size_bytes
        (segmentation,) = read_result(path)
    assert int((segmentation.labels.array == 1).sum()) == 13  # of 0 … 23
    timings_s = task.report["timings_s"]
    assert set(timings_s) == {"queued", "device_wait", "reading", "writing", "predicting"}
    assert 0.2 < timings_s["predicting"] <= 0.25
    assert task.report["classifications"] == {"benign": 0.75}
    assert task.report["notes"] == ["Directions were assumed."]
    assert (task.report["device"], task.report["precision"]) == ("cpu", "float32")


def test_meshes_and_volumes_are_made_where_they_are_asked_for(bench: Bench) -> None:
    plain, asked = (bench.run(bench.claim(outputs=outputs)) for outputs in ((), ("meshes", "volumes")))
    labels = {"kind": "labels", "name": "labels", "member": "labels.nii.gz"}
    mesh = {"kind": "mesh", "name": "labels", "label": "BRIGHT", "member": "meshes/labels BRIGHT.vtk"}
    assert plain.report["contents"] == [labels]
    assert "volumes_cc" not in plain.report
    assert asked.report["contents"] == [labels, mesh]
    assert asked.report["volumes_cc"] == {"labels": {"BRIGHT": pytest.approx(13 * 12 / 1000)}}
    assert plain.report["grid"] == asked.report["grid"]
    assert (asked.report["grid"]["size"], asked.report["grid"]["spacing"]) == ([2, 3, 4], [2, 2, 3])


def test_the_wait_of_a_task_that_is_tried_again_counts_from_then(database: Database, tmp_path: Path) -> None:
    bench, clock = Bench(database, tmp_path), [time.time() - 100]
    bench.store, bench.claims = (kind(database, clock=lambda: clock[0]) for kind in (Store, Claims))
    claim = bench.claim()
    bench.claims.fail(claim, Problem("internal", "Failed."), {}, 1.0)
    clock[0] += 80
    bench.store.retry(claim.task.uid)
    clock[0] += 7.5
    again = bench.claims.claim(["default"], HOLDER, 60.0)
    assert again is not None
    assert bench.run(again).report["timings_s"]["queued"] == pytest.approx(7.5, abs=1e-3)


@pytest.mark.parametrize("error", [InvalidVolume("Too flat."), OutOfMemory(), ModelLoadError("Broken.")])
def test_an_error_with_a_code_is_told_as_it_is(bench: Bench, error: InferenceServerError) -> None:
    bench.engine.compute = raising(error)
    assert bench.problem(bench.claim()) == Problem(error.code, error.message)


def test_memory_that_runs_out_anywhere_is_told(bench: Bench) -> None:
    bench.engine.compute = raising(MemoryError())
    assert bench.problem(bench.claim()).code == "out_of_memory"


def test_any_other_error_is_told_in_one_neutral_sentence_and_logged_without_values(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.engine.compute = raising(KeyError("DOE^JANE"))
    with caplog.at_level(logging.DEBUG):
        problem = bench.problem(bench.claim())
    assert problem == Problem("internal", "The server failed on this case. Please tell its operator.")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.__dict__["error"] == "KeyError"
    assert any("test_runner.py" in frame and "compute" in frame for frame in record.__dict__["frames"])
    assert "DOE^JANE" not in str([vars(record) for record in caplog.records])
    assert "DOE^JANE" not in caplog.text


def test_a_case_that_cannot_be_read_fails_as_at_the_door(bench: Bench) -> None:
    array = np.full((4, 3, 2), np.nan, np.float32)
    assert bench.problem(bench.claim({"tmp_0000.nii.gz": image(array)})).code == "invalid_volume"


def test_a_case_whose_bytes_are_gone_is_asked_for_again(bench: Bench) -> None:
    problem = bench.problem(bench.claim(case_blob=new_uid()))
    assert problem == Problem("internal", "The stored case is missing on the server. Please send it again.")


def test_a_version_that_was_withdrawn_is_named(bench: Bench) -> None:
    problem = bench.problem(bench.claim(version="0.9.0"))
    assert problem.code == "unknown_model"
    assert problem.message.startswith("The model 'm', version 0.9.0, has been withdrawn since the case was sent.")


def test_a_result_nobody_waits_for_is_dropped(bench: Bench) -> None:
    claim = bench.claim()
    before = bench.keys()

    def cancelled_meanwhile(case: Case, hooks: Hooks) -> Result:
        bench.store.cancel(claim.task.uid)
        return bright(case, hooks)

    bench.engine.compute = cancelled_meanwhile
    assert bench.run(claim).status is Status.CANCELLED
    assert bench.keys() == before


def test_nothing_stays_staged_when_the_result_cannot_be_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, result: Result, **options: bool) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("inference_server.tasks.runner.write_result", full)
    claim = bench.claim()
    before = bench.keys()
    bench.settings = bench.settings.model_copy(update={"store_wait_s": 0.0})
    problem = bench.problem(claim)
    assert (problem.code, "no room for the result" in problem.message) == ("storage_full", True)
    assert bench.keys() == before
    bench.store.retry(claim.task.uid)
    monkeypatch.undo()
    again = bench.claims.claim(["default"], HOLDER, 60.0)
    assert again is not None
    assert bench.run(again).status is Status.FINISHED


def test_a_result_that_finds_no_room_waits_for_it_and_is_not_computed_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, refused = [], [OSError(28, "No space left on device"), OSError(27, "File too large")]

    def flaky(path: Path, result: Result, **options: bool) -> tuple[Content, ...]:
        if refused:
            raise refused.pop()
        return write_result(path, result, **options)

    def counted(case: Case, hooks: Hooks) -> Result:
        computed.append(True)
        return bright(case, hooks)

    monkeypatch.setattr("inference_server.tasks.runner.write_result", flaky)
    monkeypatch.setattr(room, "FIRST_PAUSE_S", 0.01)
    bench.engine.compute = counted
    task = bench.run(bench.claim())
    assert (task.status, task.attempts, computed) == (Status.FINISHED, 0, [True])
    assert [event.text for event in bench.store.events(task.uid)].count(room.WRITING.waiting) == 1
    with bench.blobs.as_file(task.result_blob or "") as path:
        assert read_result(path)


class Away(LocalBlobs):
    """Files that cannot be reached the first time that one is wanted."""

    asked = 0

    def as_file(self, key: str) -> AbstractContextManager[Path]:
        self.asked += 1
        if self.asked == 1:
            raise StoreUnavailable
        return super().as_file(key)


def test_a_case_that_cannot_be_reached_is_waited_for(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "FIRST_PAUSE_S", 0.01)
    bench.blobs = away = Away(tmp_path / "blobs")
    task = bench.run(bench.claim())
    assert (task.status, task.attempts, away.asked) == (Status.FINISHED, 0, 2)
    assert [event.text for event in bench.store.events(task.uid)].count(room.READING.waiting) == 1


class Flaky(Claims):
    """Records that are away at the first commit; `after` that they were written, or before."""

    after = False
    failures = 1

    def finish(self, claim: Claim, **result: Any) -> bool:
        written = self.after and super().finish(claim, **result)
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable
        return written or super().finish(claim, **result)


@pytest.mark.parametrize("after", [False, True])
def test_a_commit_that_was_not_acknowledged_is_tried_again_and_loses_no_result(
    bench: Bench, database: Database, after: bool
) -> None:
    claims = Flaky(database)
    claims.after = after
    task = bench.run(bench.claim(), claims)
    assert task.status is Status.FINISHED
    with bench.blobs.as_file(task.result_blob or "") as path:
        assert read_result(path)


def test_the_newest_version_of_each_model_of_the_queues_is_loaded_before_the_first_case(bench: Bench) -> None:
    declared = [
        model(id="a", version="2.0"),
        model(id="a", version="1.0"),
        model(id="broken"),
        model(id="elsewhere", queue="large"),
        model(id="rare", preload=False),
        model(id="z"),
    ]
    bench.engine.manifests = {str(number): manifest for number, manifest in enumerate(declared)}
    bench.engine.broken = {"broken"}
    Runner(bench.settings, bench.claims, bench.blobs, bench.engine).preload()
    assert sorted(bench.engine.loaded) == [("a", "2.0"), ("z", "1.0.0")]


def test_a_failed_device_ends_the_process_and_leaves_the_task_to_another(bench: Bench) -> None:
    bench.engine.compute = raising(DeviceFailed())
    claim, ended = bench.claim(), []
    Runner(bench.settings, bench.claims, bench.blobs, bench.engine, end=lambda: ended.append(True)).run(claim)
    assert ended == [True]
    assert bench.store.get(claim.task.uid).status is Status.RUNNING  # the worker's parent returns it
    assert "The device failed." in bench.store.events(claim.task.uid)[-1].text


def test_a_device_that_fails_while_models_are_loaded_ends_the_process(bench: Bench) -> None:
    def load(model: Model, hooks: Hooks) -> None:
        raise DeviceFailed

    ended: list[bool] = []
    bench.engine.load = load  # type: ignore[method-assign]
    Runner(bench.settings, bench.claims, bench.blobs, bench.engine, end=lambda: ended.append(True)).preload()
    assert ended == [True]


def test_with_the_commit_of_a_result_the_next_task_is_claimed_if_it_is_wished(bench: Bench) -> None:
    first = bench.claim()
    bench.queue()
    runner = Runner(bench.settings, bench.claims, bench.blobs, bench.engine)
    assert runner.run(first) is None
    second = bench.claims.claim(*WISH)
    assert second is not None
    third, asked = bench.queue(), []
    following = runner.run(second, lambda: asked.append(bench.store.get(second.task.uid).status) or Wish(*WISH))
    assert asked == [Status.RUNNING]
    assert following is not None
    assert following.task == bench.store.get(third)


def test_a_task_that_fails_asks_for_no_other(bench: Bench) -> None:
    bench.engine.compute = raising(ValueError())
    claim, waiting = bench.claim(), bench.queue()
    runner = Runner(bench.settings, bench.claims, bench.blobs, bench.engine)
    assert runner.run(claim, lambda: pytest.fail("it was asked")) is None
    assert bench.store.get(waiting).status is Status.QUEUED


class Turns(CeleryTurns):
    """So many turns wait at the broker."""

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting

    def take(self, queues: Sequence[str]) -> bool:
        assert list(queues) == ["default"]
        self.waiting -= 1
        return self.waiting >= 0


@pytest.fixture
def sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def row(bench: Bench, turns: Turns, *, parent: int | None = None) -> list[Status]:
    """Have a child take a turn where five tasks wait, and return what became of them."""
    child = Child(bench.settings, "w", lambda _: bench.engine, lambda *_: None)
    child._parent = parent or os.getppid()
    child._claims, child._turns = bench.claims, turns
    child._runner = Runner(bench.settings, bench.claims, bench.blobs, bench.engine)
    uids = [bench.queue() for _ in range(5)]
    child.take_turn()
    return [bench.store.get(uid).status for uid in uids]


@pytest.mark.usefixtures("sigterm")
def test_a_child_without_a_further_turn_runs_one_task(bench: Bench) -> None:
    done, waits = Status.FINISHED, Status.QUEUED
    assert row(bench, Turns(0)) == [done, waits, waits, waits, waits]


@pytest.mark.usefixtures("sigterm")
def test_a_child_takes_a_turn_for_each_further_task(bench: Bench) -> None:
    done, waits, turns = Status.FINISHED, Status.QUEUED, Turns(2)
    assert row(bench, turns) == [done, done, done, waits, waits]
    assert turns.waiting == -1  # asked for once more


@pytest.mark.usefixtures("sigterm")
def test_turns_too_many_end_a_row(bench: Bench) -> None:
    turns = Turns(50)
    assert row(bench, turns) == [Status.FINISHED] * 5
    assert turns.waiting == 45


@pytest.mark.usefixtures("sigterm")
def test_a_child_whose_parent_is_gone_claims_nothing_more(bench: Bench) -> None:
    turns = Turns(50)
    assert row(bench, turns, parent=os.getpid()) == [Status.FINISHED, *[Status.QUEUED] * 4]
    assert turns.waiting == 50


@pytest.mark.usefixtures("sigterm")
def test_a_child_does_not_go_on_after_long_tasks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "ROW_S", -1.0)
    turns = Turns(50)
    assert row(bench, turns) == [Status.FINISHED, *[Status.QUEUED] * 4]
    assert turns.waiting == 50
