"""TOMAAT, first generation: one JSON message with a volume, one with its labels."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from door_support import Doors, FakeModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import added
from tomaat_support import GRID, damaged, finish, in_lines, labels, mha, only_task, result, voxels, without_tasks

from inference_server.imaging.mha import mha_to_nifti
from inference_server.imaging.nifti import read_volume
from inference_server.models.manifest import Channel, Manifest
from inference_server.models.parameter import Parameter
from inference_server.tasks.case_zip import read_case
from inference_server.tasks.record import Problem, Status
from inference_server.tasks.store import TaskFilter

SEGMENTER = Manifest(
    id="segmenter", parameters=(Parameter(name="threshold", type="number", default=0.5, minimum=0, maximum=1),)
)


class World(Doors):
    """Doors with a worker that is done before anybody waits; `ends` is what it does."""

    def __init__(self, folder: Path, **given: Any) -> None:
        super().__init__(folder, tomaat_root="segmenter", **given)
        self.models.known["segmenter"] = FakeModel(SEGMENTER)
        self.ends: Any = lambda: finish(self)
        self.turns.send = lambda queue, priority=1: self.ends() is None  # type: ignore[method-assign]

    def post(self, body: bytes, address: str = "/tomaat/segmenter", **more: Any) -> Any:
        """Post as `requests` does with a text: without a type."""
        return self.client.post(address, data=body, buffered=True, **more)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("doors"))
    yield world
    world.close()


@pytest.fixture
def world(shared: World) -> World:
    """A world without tasks whose worker gives labels."""
    without_tasks(shared)
    shared.ends = lambda: finish(shared)
    return shared


def message(**changes: Any) -> bytes:
    said = {"content_mha": in_lines(mha()).decode(), "threshold": 0.25, "module_version": 0.01}
    return json.dumps({**said, **changes}).encode()


def error(answer: Any) -> str:
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    said = answer.json
    assert list(said) == ["content_mha", "error", "status", "time"]
    assert (said["content_mha"], said["status"], said["time"]) == ("", 1, 0)
    return str(said["error"])


@pytest.mark.parametrize("address", ["/tomaat/segmenter", "/tomaat/segmenter/", "/", "//"])
def test_the_fielded_clients_message_is_answered_with_labels_on_the_inputs_grid(
    world: World, address: str, tmp_path: Path
) -> None:
    answer = world.post(message(), "/", environ_overrides={"PATH_INFO": address})
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    said = answer.json
    assert list(said) == ["content_mha", "error", "status", "time"]
    assert (said["error"], said["status"]) == ("", 0)
    assert isinstance(said["time"], int)
    (tmp_path / "labels.mha").write_bytes(base64.decodebytes(said["content_mha"].encode("ascii")))
    assert mha_to_nifti(tmp_path / "labels.mha", tmp_path / "labels.nii", limit_bytes=10**6) == GRID
    assert np.array_equal(read_volume(tmp_path / "labels.nii", max_bytes=10**6).array, labels())


def test_threshold_and_volume_reach_the_model(world: World) -> None:
    world.post(message())
    task = only_task(world)
    assert (task.parameters, task.dialect) == ({"threshold": 0.25}, "tomaat")
    with world.blobs.as_file(task.case_blob) as path:
        case = read_case(path, SEGMENTER, world.settings, parameters=task.parameters)
    assert np.array_equal(case.channels["image"].array, voxels())
    assert case.channels["image"].geometry.origin_mm == GRID.origin_mm


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_the_type_of_the_message_does_not_matter(world: World, kind: str) -> None:
    assert world.post(message(), content_type=kind).json["status"] == 0


def test_a_model_without_a_threshold_is_not_disturbed_by_one(world: World) -> None:
    assert world.post(message(threshold=7), "/tomaat/one").json["status"] == 0
    assert only_task(world).parameters == {"level": 0.5}


def test_a_number_may_come_as_a_text(world: World) -> None:
    world.post(message(threshold="0.75"))
    assert only_task(world).parameters == {"threshold": 0.75}


BAD: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"P6 3 3", "JSON object"),
    "nothing": (b"", "JSON object"),
    "cut off": (message()[:-1], "JSON object"),
    "a list": (b"[1]", "JSON object"),
    "no volume": (b'{"threshold": 0.5}', "no 'content_mha'"),
    "a volume that is a number": (message(content_mha=3), "no 'content_mha'"),
    "no base64": (message(content_mha="QUJD!"), "base64"),
    "no MHA": (message(content_mha="QUJD"), "MHA"),
    "empty": (message(content_mha=""), "MHA"),
    "beyond the range": (message(threshold=1.5), "'threshold' must be a number from 0 to 1; '1.5' came"),
    "infinite": (message().replace(b"0.25", b"1e999"), "'threshold' must be a number"),
    "a long text": (message(threshold="1" * 100_000), "longer than 65536 bytes"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_told_in_a_sentence_and_leaves_nothing(world: World, fault: str) -> None:
    body, sentence = BAD[fault]
    assert sentence in error(world.post(body))
    assert world.blob_files() == []


def test_an_unknown_model_is_told_of(world: World) -> None:
    assert "does not know the model 'none'" in error(world.post(message(), "/tomaat/none"))


def test_a_model_that_needs_more_than_one_volume_says_what(world: World) -> None:
    said = error(world.post(message(), "/tomaat/two"))
    assert said.startswith("Clients of this generation send one volume; the model 'two' needs: t1, t2.")


def test_a_model_that_gives_no_labels_says_so(world: World) -> None:
    manifest = Manifest(id="sorts", kind="classification", classes=("a", "b"), channels=(Channel(),))
    world.models.known["sorts"] = FakeModel(manifest)
    assert "gives none" in error(world.post(message(), "/tomaat/sorts"))


@pytest.mark.parametrize("names", [(), ("a", "b")])
def test_a_result_without_one_label_volume_is_told_of_and_not_told_by_half(
    world: World, names: tuple[str, ...]
) -> None:
    from inference_server.models.case import Result

    world.ends = lambda: finish(world, result(*names) if names else Result(texts={"a": "b"}))
    assert f"gave {len(names)} label volumes" in error(world.post(message()))


def test_a_failed_task_is_told_of_with_its_sentence(world: World) -> None:
    world.ends = lambda: world.fail(world.claim(), Problem("prediction", "The model failed on this case."))
    assert error(world.post(message())) == "The model failed on this case."


def test_a_task_that_nobody_can_wait_for_any_longer_is_withdrawn(tmp_path: Path) -> None:
    world = World(tmp_path, task_time_limit_s=0.05)
    world.ends = lambda: None
    assert "could not finish the case" in error(world.post(message()))
    assert only_task(world).status is Status.CANCELLED
    world.close()


def test_who_waits_for_labels_is_one_of_the_half_of_the_threads_that_may(tmp_path: Path) -> None:
    """With the half taken, the next one is told so at once, and its task is withdrawn."""
    world = World(tmp_path, api_threads=2, api_processes=1)
    world.ends = lambda: None
    waits = world.client.application.extensions["inference_server"].waits
    waiting = replace(added(world.store), revision=-1)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(waits.ended, waiting, wait_s=60)
        try:
            while waits._slots._value:
                assert not other.done()
                time.sleep(0.005)
            assert "while this client waited" in error(world.post(message()))
        finally:
            waits.release()
    assert [task.status for task in world.store.page(TaskFilter(model="segmenter")).tasks] == [Status.CANCELLED]
    world.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_message_is_accepted_or_told_of_and_never_fails(world: World, data: Any) -> None:
    answer = world.post(data.draw(damaged(message())))
    assert answer.status_code == 200
    assert answer.json["status"] == 0 or "made an error" not in error(answer)
