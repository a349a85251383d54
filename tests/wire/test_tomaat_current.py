"""TOMAAT, current generation: what the fielded Slicer extension sends and reads, byte for byte."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from door_support import BOUNDARY, Doors, FakeModel, case, form, part
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mha_files import HEADER
from tomaat_support import (
    GRID,
    ORIGIN,
    SPACING,
    VERSION,
    damaged,
    element,
    error,
    finish,
    in_lines,
    labels,
    mha,
    only_task,
    result,
    volume_part,
    voxels,
    without_tasks,
)

from inference_server.api.tomaat import answer as answer_module
from inference_server.api.tomaat.form import PART_LIMIT
from inference_server.errors import StoreUnavailable
from inference_server.imaging.mha import mha_to_nifti
from inference_server.imaging.nifti import read_volume
from inference_server.models.manifest import Channel, Manifest, NamedInput
from inference_server.models.parameter import Parameter
from inference_server.tasks.caller import LOCAL
from inference_server.tasks.case_zip import read_case
from inference_server.tasks.record import Problem

SERVICE = "/tomaat/one"
SEVERAL = Manifest(
    id="several",
    runtime="python-app",
    app="app.py:run",
    channels=(Channel(name="t1"), Channel(name="t2", required=False), Channel(name="t3", required=False)),
    points=(NamedInput(name="seeds"), NamedInput(name="tips", required=False)),
    transforms=(NamedInput(name="pose", required=False),),
    parameters=(
        Parameter(name="count", type="integer", minimum=1, maximum=9),
        Parameter(name="smooth", type="flag", default=True),
        Parameter(name="mode", type="choice", choices=("fast", "good"), default="good"),
    ),
)
NEEDED = (part("seeds", "1,2,3"), part("count", "3"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    doors = Doors(tmp_path_factory.mktemp("doors"), tomaat_patience_s=0.0, tomaat_root="one")
    doors.models.known["several"] = FakeModel(SEVERAL)
    yield doors
    doors.close()


@pytest.fixture
def eager(shared: Doors) -> Doors:
    """Doors whose clients are told at once to ask again; no task is there."""
    return without_tasks(shared)


def predicted(doors: Doors, *parts: bytes, service: str = SERVICE) -> Any:
    return doors.client.post(f"{service}/predict", buffered=True, **form(*parts))


def asked_again(doors: Doors, uid: str, service: str = SERVICE) -> Any:
    """Ask as Slicer does, with a form that is not multipart."""
    return doors.client.post(f"{service}/responses", data={"request_id": uid}, buffered=True)


def sent_case(doors: Doors, manifest: Manifest) -> Any:
    """Return the case of the one task as its worker reads it."""
    task = only_task(doors)
    with doors.blobs.as_file(task.case_blob) as path:
        return read_case(path, manifest, doors.settings, parameters=task.parameters)


def golden_body() -> bytes:
    """A body as `MultipartEncoder` makes it of a dict of texts: no file names, no types; the volume in lines."""
    return (
        b"--6a2f\r\n"
        b'Content-Disposition: form-data; name="image"\r\n\r\n' + in_lines(mha()) + b"\r\n"
        b"--6a2f\r\n"
        b'Content-Disposition: form-data; name="level"\r\n\r\n0.25\r\n'
        b"--6a2f\r\n"
        b'Content-Disposition: form-data; name="module_version"\r\n\r\nSlicer-v2\r\n'
        b"--6a2f--\r\n"
    )


# Interface


@pytest.mark.parametrize("address", ["/tomaat/one/interface", "/interface", "/tomaat//one///interface"])
def test_the_interface_is_a_json_list_that_every_page_may_read(eager: Doors, address: str) -> None:
    answer = eager.client.get("/", environ_overrides={"PATH_INFO": address})
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.data == (
        b'[{"type": "volume", "destination": "image"}, '
        b'{"type": "slider", "destination": "level", "minimum": 0.0, "maximum": 1.0, "default": 0.5}]'
    )


def test_where_nobody_announces_the_announce_point_is_empty(eager: Doors) -> None:
    assert eager.client.get("/tomaat/one/announcePoint").data == b'{"announced_at": ""}'
    assert eager.client.get("/announcePoint").data == b'{"announced_at": ""}'


@pytest.mark.parametrize("name", ["interface", "announcePoint"])
def test_an_unknown_model_has_no_interface(eager: Doors, name: str) -> None:
    answer = eager.client.get(f"/tomaat/none/{name}")
    assert (answer.status_code, answer.json["code"]) == (404, "unknown_model")


def test_without_a_model_at_the_root_a_client_is_told_what_is_there(doors: Doors) -> None:
    assert doors.client.get("/interface").status_code == 404
    assert doors.client.get("/").json["detail"].endswith("The addresses of this server are listed at /docs.")
    assert "nothing at this address" in error(predicted(doors, VERSION, service=""))


# Prediction


@pytest.mark.parametrize("service", [SERVICE, ""])
def test_the_fielded_clients_request_is_accepted_and_its_result_fetched(eager: Doors, service: str) -> None:
    answer = eager.client.post(
        f"{service}/predict", data=golden_body(), content_type="multipart/form-data; boundary=6a2f"
    )
    task = only_task(eager)
    assert answer.status_code == 200
    assert answer.data == f'[{{"type": "DelayedResponse", "request_id": "{task.uid}"}}]'.encode()
    assert (task.model, task.dialect, task.parameters) == ("one", "tomaat", {"level": 0.25})
    assert task.outputs == ("meshes", "volumes")
    assert asked_again(eager, task.uid, service).data == answer.data
    finish(eager, outputs=("volumes",))
    found = asked_again(eager, task.uid, service)
    assert [(each["type"], each["label"]) for each in found.json] == [
        ("LabelVolume", "organs"),
        ("PlainText", "Volumes: organs"),
    ]
    assert found.json[1]["content"] == "LIVER: 0.01 ml\nSPLEEN: 0.00 ml"


def test_the_model_sees_the_volume_as_it_was_sent(eager: Doors) -> None:
    predicted(eager, volume_part(), VERSION)
    case = sent_case(eager, eager.models.get("one").manifest)
    assert np.array_equal(case.channels["image"].array, voxels())
    geometry = case.channels["image"].geometry
    assert (geometry.spacing_mm, geometry.origin_mm) == (SPACING, ORIGIN)
    assert np.allclose(geometry.direction, GRID.direction, rtol=0, atol=1e-15)
    assert not case.assumed


def test_labels_come_back_as_a_compressed_mha_file_on_the_inputs_grid(eager: Doors, tmp_path: Path) -> None:
    predicted(eager, volume_part(), VERSION)
    finish(eager)
    content = base64.decodebytes(element(asked_again(eager, only_task(eager).uid))["content"].encode("ascii"))
    assert content.startswith(b"ObjectType = Image\n")
    assert b"CompressedData = True\n" in content
    (tmp_path / "labels.mha").write_bytes(content)
    geometry = mha_to_nifti(tmp_path / "labels.mha", tmp_path / "labels.nii", limit_bytes=10**6)
    assert geometry == GRID
    assert np.array_equal(read_volume(tmp_path / "labels.nii", max_bytes=10**6).array, labels())


def as_older_slicer(name: str) -> bytes:
    """A part as the older extension sends it: the file as it is, with a file name and a type."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="filename"\r\n'
    return head.encode() + b"Content-Type: text/plain\r\n\r\n" + mha() + b"\r\n"


def test_older_clients_send_the_file_as_it_is(eager: Doors) -> None:
    assert element(predicted(eager, as_older_slicer("image"), VERSION))["type"] == "DelayedResponse"
    case = sent_case(eager, eager.models.get("one").manifest)
    assert np.array_equal(case.channels["image"].array, voxels())


def test_what_a_client_still_holds_of_other_services_is_passed_over(eager: Doors) -> None:
    others = [part("images", os.urandom(300_000)), part("threshold", "5"), part("points", "x", "file")]
    answer = predicted(eager, *others, volume_part(), part("level", "1"), VERSION)
    assert element(answer)["type"] == "DelayedResponse"
    assert only_task(eager).parameters == {"level": 1.0}
    assert len(eager.blob_files()) == 1


def test_a_result_that_comes_in_time_is_answered_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doors = Doors(tmp_path, tomaat_patience_s=60.0)
    monkeypatch.setattr(doors.turns, "send", lambda queue, priority=1: finish(doors) is None)
    assert element(predicted(doors, volume_part(), VERSION))["type"] == "LabelVolume"
    doors.close()


def test_a_model_with_all_kinds_of_fields_gets_them_all(eager: Doors) -> None:
    path = eager.settings.data_dir / "pose.mat"
    shift = SimpleITK.AffineTransform(np.eye(3).ravel().tolist(), (1.0, 2.0, 3.0))
    SimpleITK.WriteTransform(shift, str(path))
    parts = [
        volume_part("t1"),
        part("use_t2", "True"),
        volume_part("t2"),
        part("use_t3", "False"),
        volume_part("t3"),
        part("seeds", "1,2,3;4,5,6"),
        part("use_pose", "True"),
        part("pose", b"mat\n" + in_lines(path.read_bytes())),
        part("count", "2.6"),
        part("smooth", "False"),
        part("mode", "fast"),
    ]
    assert element(predicted(eager, *parts, VERSION, service="/tomaat/several"))["type"] == "DelayedResponse"
    case = sent_case(eager, SEVERAL)
    assert set(case.channels) == {"t1", "t2"}
    assert case.points["seeds"].tolist() == [[-1, -2, 3], [-4, -5, 6]]
    assert case.transforms["pose"].TransformPoint((0.0, 0.0, 0.0)) == (1.0, 2.0, 3.0)
    assert case.parameters == {"count": 3, "smooth": False, "mode": "fast"}


def test_an_optional_field_without_its_checkbox_counts_if_it_is_sent(eager: Doors) -> None:
    predicted(eager, volume_part("t1"), volume_part("t2"), *NEEDED, service="/tomaat/several")
    assert set(sent_case(eager, SEVERAL).channels) == {"t1", "t2"}


# Bad input


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([VERSION], "The field 'image' is missing; a volume was expected."),
        ([volume_part(), volume_part()], "The form has more than one 'image'; one is taken."),
        ([volume_part(), part("level", "1.5")], "The parameter 'level' must be a number from 0 to 1; '1.5' came."),
        ([volume_part(), part("level", "many")], "The parameter 'level' must be a number from 0 to 1; 'many' came."),
        ([volume_part(content=b"QUJD!")], "base64"),
        ([volume_part(content=in_lines(mha())[:-4])], "The file that was sent is damaged"),
        ([volume_part(content=in_lines(b"P6 3 3 255"))], "MHA"),
        ([volume_part(content=b"")], "MHA"),
        ([volume_part(content=in_lines(mha()[:-1]))], "cut off"),
        ([volume_part(content=in_lines(mha(HEADER.replace("5 4 3", "5000 4000 3000"))))], "declares"),
        ([volume_part(content=in_lines(mha(HEADER.replace("MET_SHORT", "MET_OTHER"))))], "ElementType is another"),
    ],
)
def test_bad_input_is_told_in_a_sentence_and_leaves_nothing(eager: Doors, parts: list[bytes], sentence: str) -> None:
    assert sentence in error(predicted(eager, *parts))
    assert eager.blob_files() == []


SEVERAL_FAULTS = {
    "missing points": ([part("count", "1")], "The field 'seeds' is missing; a list of points was expected."),
    "missing value": ([part("seeds", "")], "The field 'count' is missing; a value was expected."),
    "no points": ([part("seeds", "1,2"), part("count", "1")], "The points 'seeds' must be sent as x,y,z"),
    "not offered": ([*NEEDED, part("mode", "best")], "The parameter 'mode' must be one of fast, good; 'best' came."),
    "no flag": ([*NEEDED, part("smooth", "perhaps")], "'smooth' must be true or false"),
    "no switch": ([*NEEDED, part("use_t2", "x")], "The field 'use_t2' must be True or False."),
    "a gap": ([*NEEDED, volume_part("t3")], "The volume 't3' can only be sent together with 't2'."),
    "a transform without its format": ([*NEEDED, part("pose", in_lines(b"x"))], "A transform must be sent as"),
    "a format that is none": ([*NEEDED, part("pose", "exe\nQUJD")], "(nii.gz, h5, mat)"),
    "a transform that is no base64": ([*NEEDED, part("pose", "h5\n!")], "base64"),
    "a transform that is none": ([*NEEDED, part("pose", b"h5\n" + in_lines(b"no"))], "transform"),
    "too many points": ([part("seeds", "1,2,3;" * 10**6), part("count", "1")], "larger than this server takes"),
}


@pytest.mark.parametrize("fault", SEVERAL_FAULTS)
def test_bad_fields_of_every_kind_are_told_in_a_sentence(eager: Doors, fault: str) -> None:
    parts, sentence = SEVERAL_FAULTS[fault]
    assert sentence in error(predicted(eager, volume_part("t1"), *parts, service="/tomaat/several"))
    assert eager.blob_files() == []


def test_a_compressed_volume_that_unpacks_to_more_than_it_says_is_refused(eager: Doors) -> None:
    import zlib

    bomb = zlib.compress(bytes(50_000_000))
    header = HEADER.replace("CompressedData = False", f"CompressedData = True\nCompressedDataSize = {len(bomb)}")
    said = error(predicted(eager, volume_part(content=in_lines(header.encode() + bomb))))
    assert "more voxels came than its header declares" in said
    assert eager.blob_files() == []


def test_an_unknown_model_is_told_of_before_the_upload_is_read(eager: Doors) -> None:
    assert "does not know the model 'none'" in error(predicted(eager, volume_part(), service="/tomaat/none"))


def test_a_form_of_another_kind_is_told_in_a_sentence(eager: Doors) -> None:
    assert "multipart/form-data" in error(eager.client.post(f"{SERVICE}/predict", data={"image": "x"}))


def test_too_many_parts_are_refused(eager: Doors) -> None:
    assert f"more than {PART_LIMIT} parts" in error(predicted(eager, *[part("x", "y")] * (PART_LIMIT + 1)))


def test_an_upload_that_is_too_large_is_told_in_a_sentence(tmp_path: Path) -> None:
    doors = Doors(tmp_path, upload_limit_bytes=1000)
    assert "larger than" in error(predicted(doors, part("image", "A" * 2000)))
    doors.close()


@pytest.mark.parametrize("uid", ["f" * 32, "", "../../etc", "é"])
def test_an_unknown_request_is_told_so(eager: Doors, uid: str) -> None:
    assert error(asked_again(eager, uid))


def test_a_request_without_an_id_and_one_of_another_size_are_told_so(eager: Doors) -> None:
    assert error(eager.client.post(f"{SERVICE}/responses")) == "The field 'request_id' is missing."
    assert error(asked_again(eager, "x" * 100_000))


def test_a_failed_task_is_told_of_with_its_sentence(eager: Doors) -> None:
    predicted(eager, volume_part())
    eager.fail(eager.claim(), Problem("prediction", "The model failed on this case."))
    assert error(asked_again(eager, only_task(eager).uid)) == "The model failed on this case."


def test_a_result_that_was_removed_is_told_of(eager: Doors) -> None:
    predicted(eager, volume_part())
    finish(eager)
    for key in eager.claims.expire(-1.0):
        eager.blobs.delete(key)
    assert "removed" in error(asked_again(eager, only_task(eager).uid))


def test_a_task_that_was_cancelled_is_told_of(eager: Doors) -> None:
    predicted(eager, volume_part())
    eager.tasks.cancel(only_task(eager).uid, LOCAL)
    assert "cancelled" in error(asked_again(eager, only_task(eager).uid))


def test_while_the_records_are_away_a_client_is_told_to_ask_again(
    eager: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted(eager, volume_part())
    uid = only_task(eager).uid

    def away(*_: object) -> Any:
        raise StoreUnavailable

    monkeypatch.setattr(eager.tasks, "get", away)
    assert asked_again(eager, uid).data == f'[{{"type": "DelayedResponse", "request_id": "{uid}"}}]'.encode()


def test_a_case_that_was_accepted_is_not_lost_with_the_records(eager: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> Any:
        raise StoreUnavailable

    monkeypatch.setattr("inference_server.api.waiting.Waits.ended", away)
    answer = predicted(eager, volume_part())
    assert answer.json == [{"type": "DelayedResponse", "request_id": only_task(eager).uid}]


def test_while_the_records_are_locked_a_client_is_answered_before_it_gives_up(eager: Doors) -> None:
    """It waits 5 s for an answer. A result is noted in the audit log, which takes the lock."""
    predicted(eager, volume_part())
    finish(eager)
    uid = only_task(eager).uid
    with closing(sqlite3.connect(eager.settings.data_dir / "records.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        before = time.monotonic()
        answer = asked_again(eager, uid)
        assert time.monotonic() - before < 5
    assert answer.data == f'[{{"type": "DelayedResponse", "request_id": "{uid}"}}]'.encode()
    assert element(asked_again(eager, uid))["type"] == "LabelVolume"


def test_while_labels_are_recoded_the_client_gets_signs_of_life(eager: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives up after 5 s of silence, which a busy machine with a large result may need."""
    predicted(eager, volume_part())
    finish(eager)
    uid, recode, go = only_task(eager).uid, answer_module.nifti_to_mha, threading.Event()

    def slowly(*given: Any) -> None:
        assert go.wait(60)
        recode(*given)

    monkeypatch.setattr(answer_module, "nifti_to_mha", slowly)
    monkeypatch.setattr(answer_module, "SIGN_OF_LIFE_S", 0.01)
    answer = eager.client.post(f"{SERVICE}/responses", data={"request_id": uid})
    pieces = iter(answer.response)
    begun = [next(pieces) for _ in range(4)]
    go.set()
    text = b"".join([*begun, *pieces])
    answer.close()
    assert begun == [b"[", b'{"type": "LabelVolume", "content": ', b" ", b" "]
    assert json.loads(text) == asked_again(eager, uid).json


@pytest.mark.parametrize("address", ["/tomaat/responsesor/responses", "/tomaat/none/responses"])
def test_a_result_is_found_although_the_client_spoilt_the_models_name(eager: Doors, address: str) -> None:
    predicted(eager, volume_part())
    answer = eager.client.post(address, data={"request_id": only_task(eager).uid})
    assert element(answer)["type"] == "DelayedResponse"


def test_an_app_answers_exactly_what_it_declares(eager: Doors) -> None:
    options = {
        "inputs": [{"type": "volume", "destination": "image"}],
        "outputs": [{"type": "PlainText", "field": "say"}, {"type": "LabelVolume", "field": "organs"}],
    }
    eager.models.known["app"] = FakeModel(
        Manifest(id="app", runtime="python-app", app="app.py:run", options={"tomaat": options})
    )
    assert json.loads(eager.client.get("/tomaat/app/interface").data) == options["inputs"]
    predicted(eager, volume_part(), service="/tomaat/app")
    assert only_task(eager).outputs == ()
    finish(eager, result("organs", texts={"say": "hello", "other": "x"}))
    found = asked_again(eager, only_task(eager).uid, "/tomaat/app").json
    assert [(each["type"], each["label"]) for each in found] == [("PlainText", "say"), ("LabelVolume", "organs")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_request_is_accepted_or_told_of_and_never_fails(eager: Doors, data: Any) -> None:
    answer = eager.client.post(
        f"{SERVICE}/predict", data=data.draw(damaged(golden_body())), content_type="multipart/form-data; boundary=6a2f"
    )
    assert answer.status_code == 200
    found = element(answer)
    assert found["type"] == "DelayedResponse" or (
        found["label"] == "Error!" and "made an error" not in found["content"]
    )


def test_a_case_of_another_door_can_be_asked_for_here_too(eager: Doors) -> None:
    answer = eager.client.post("/api/v1/tasks", **form(part("model", "one"), part("case", case(), "c.zip")))
    assert element(asked_again(eager, answer.json["uid"]))["type"] == "DelayedResponse"
