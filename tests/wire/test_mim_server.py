"""What the MIM dialect answers, byte for byte where the fielded client looks at bytes."""

from __future__ import annotations

import json

import pytest
from door_support import RESULT, Doors, case, form, part, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from inference_server.tasks.caller import LOCAL
from inference_server.tasks.record import Priority, Problem, Status

SUBMIT = "/api/tasks/?model_human_readable_id=one"


def submitted(doors: Doors, content: bytes | None = None, address: str = SUBMIT) -> TestResponse:
    return doors.client.post(address, **form(part("zip_file", content or case(), "zip_file")))


def golden_request(zip_bytes: bytes) -> bytes:
    """A body as `requests` makes it of `files={"zip_file": open(...)}`."""
    return (
        b"--5f2a1c\r\n"  # the boundary of the Content-Type, with two dashes before it
        b'Content-Disposition: form-data; name="zip_file"; filename="tmpab12.zip"\r\n'
        b"\r\n" + zip_bytes + b"\r\n--5f2a1c--\r\n"  # the part has no Content-Type  # two dashes behind it: the end
    )


def test_the_fielded_clients_submission_is_answered_by_a_json_string(doors: Doors) -> None:
    answer = doors.client.post(SUBMIT, data=golden_request(case()), content_type="multipart/form-data; boundary=5f2a1c")
    assert 200 <= answer.status_code < 300
    assert answer.content_type == "application/json"
    uid = str(json.loads(answer.data))
    assert answer.data == f'"{uid}"'.encode()
    task = doors.tasks.get(uid, LOCAL)
    assert (task.model, task.version, task.dialect, task.status) == ("one", "2.1.0", "mim", Status.QUEUED)
    assert (task.priority, task.parameters) == (Priority.NORMAL, {"level": 0.5})
    assert doors.turns.sent == ["default"]


@pytest.mark.parametrize("address", [SUBMIT, SUBMIT.replace("/?", "?")])
def test_it_comes_with_and_without_the_slash_and_is_not_sent_elsewhere(doors: Doors, address: str) -> None:
    assert submitted(doors, address=address).status_code == 201


def test_it_comes_with_a_doubled_slash(doors: Doors) -> None:
    answer = doors.client.post(
        "/?model_human_readable_id=one",
        environ_overrides={"PATH_INFO": "//api/tasks/"},
        **form(part("zip_file", case(), "zip_file")),
    )
    assert answer.status_code == 201


@pytest.mark.parametrize("file_name", [None, "", "zip_file", "C:\\temp\\Müller^Eva.zip"])
def test_the_parts_file_name_does_not_matter(doors: Doors, file_name: str | None) -> None:
    answer = doors.client.post(SUBMIT, **form(part("zip_file", case(), file_name)))
    assert answer.status_code == 201


@pytest.mark.parametrize("user_info", ["dXNlcjpzZWNyZXQ=", "bm90IGJhc2ljIGF0IGFsbA=="])
def test_basic_auth_that_nobody_asked_for_does_no_harm(doors: Doors, user_info: str) -> None:
    answer = doors.client.get("/api/tasks/x", headers={"Authorization": f"Basic {user_info}"})
    assert answer.status_code == 554


def test_the_case_is_stored_as_it_came(doors: Doors) -> None:
    content = case(meta={"scaling_factor": [1, 2, 2], "spacing": [1.0, 1.0, 2.0]})
    task = doors.tasks.get(submitted(doors, content).json, LOCAL)
    with doors.blobs.open(str(task.case_blob)) as file:
        assert file.read() == content
    assert task.case_size_bytes == len(content)


def test_without_the_broker_a_case_is_accepted_too(doors: Doors) -> None:
    doors.turns.up = False
    assert submitted(doors).status_code == 201


@pytest.mark.parametrize(
    ("parts", "code", "field"),
    [
        ([], "bad_request", "zip_file"),
        ([part("file", b"PK", "a.zip")], "bad_request", "file"),
        ([part("zip_file", case(), "a"), part("zip_file", case(), "b")], "bad_request", "zip_file"),
        ([part("zip_file", b"", "a")], "malformed_message", "zip_file"),
    ],
)
def test_a_form_of_another_kind_is_refused(doors: Doors, parts: list[bytes], code: str, field: str | None) -> None:
    answer = doors.client.post(SUBMIT, **form(*parts))
    assert answer.status_code == 400
    assert (answer.json["code"], answer.json.get("field")) == (code, field)
    assert doors.blob_files() == []
    assert doors.turns.sent == []


def test_a_body_that_is_no_form_is_refused(doors: Doors) -> None:
    answer = doors.client.post(SUBMIT, data=case(), content_type="application/zip")
    assert (answer.status_code, answer.json["code"]) == (400, "malformed_message")


def test_no_model_named_is_refused(doors: Doors) -> None:
    answer = submitted(doors, address="/api/tasks/")
    assert (answer.status_code, answer.json["field"]) == (400, "model_human_readable_id")


def test_an_unknown_model_is_refused_with_the_known_ones_and_unread(doors: Doors) -> None:
    answer = doors.client.post("/api/tasks/?model_human_readable_id=lungs", data=b"", content_type="text/plain")
    assert answer.status_code == 404
    assert answer.json == {
        "code": "unknown_model",
        "message": "The server does not know the model 'lungs'. Known models: one, two.",
        "field": "model_human_readable_id",
    }


def polled(doors: Doors, uid: str, status: int) -> dict[str, str]:
    answer = doors.client.get(f"/api/tasks/{uid}")
    assert (answer.status_code, answer.content_type) == (status, "application/json")
    assert set(answer.json) == {"code", "message"}
    assert answer.json["message"].endswith(".")
    return dict(answer.json)


def test_a_waiting_task_is_551(doors: Doors) -> None:
    first, second = doors.submitted(), doors.submitted()
    assert polled(doors, first, 551)["message"] == "The task waits in the queue; it is the next one."
    assert polled(doors, second, 551)["message"] == "The task waits in the queue; 1 task goes before it."


def test_a_running_task_is_551(doors: Doors) -> None:
    assert polled(doors, doors.running(), 551)["message"] == "The task is running (predicting, 25%)."


def test_a_waiting_task_whose_model_has_gone_is_550(doors: Doors) -> None:
    uid = doors.submitted()
    del doors.models.known["one"]
    assert polled(doors, uid, 550)["code"] == "unknown_model"


def test_a_failed_task_is_552_with_its_reason(doors: Doors) -> None:
    uid = doors.failed(Problem("out_of_memory", "The case needs more memory than the worker's device has."))
    assert polled(doors, uid, 552) == {
        "code": "out_of_memory",
        "message": "The case needs more memory than the worker's device has.",
    }


def test_a_cancelled_task_is_552(doors: Doors) -> None:
    assert polled(doors, doors.cancelled(), 552)["code"] == "cancelled"


def test_a_result_that_has_gone_is_553(doors: Doors) -> None:
    assert polled(doors, doors.expired(), 553)["code"] == "result_gone"
    uid = doors.finished()
    doors.blobs.delete(str(doors.tasks.get(uid, LOCAL).result_blob))
    assert polled(doors, uid, 553)["code"] == "result_gone"


@pytest.mark.parametrize("uid", ["0" * 32, "x", "%00", "a'--"])
def test_an_unknown_task_is_554(doors: Doors, uid: str) -> None:
    assert polled(doors, uid, 554)["code"] == "unknown_task"


def test_a_finished_task_is_its_zip_untouched(doors: Doors) -> None:
    result = zipped({"seg.nii.gz": b"labels", "seg.json": '{"1": "GTVt"}'})
    uid = doors.finished(result)
    for address in (f"/api/tasks/{uid}", f"/api/tasks/{uid}/"):
        answer = doors.client.get(address, buffered=True)
        assert (answer.status_code, answer.content_type) == (200, "application/zip")
        assert answer.data == result
        assert answer.content_length == len(result)


def test_a_finished_task_can_be_read_in_parts(doors: Doors) -> None:
    uid = doors.finished()
    answer = doors.client.get(f"/api/tasks/{uid}", headers={"Range": "bytes=2-5"}, buffered=True)
    assert (answer.status_code, answer.data) == (206, RESULT[2:6])


def test_a_deleted_task_is_gone_with_all_its_data(doors: Doors) -> None:
    uid = doors.finished()
    assert doors.client.delete(f"/api/tasks/{uid}").status_code == 204
    assert doors.blob_files() == []
    assert polled(doors, uid, 554)["code"] == "unknown_task"
    assert doors.client.delete(f"/api/tasks/{uid}/").status_code == 554


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/tasks/"), ("PUT", "/api/tasks/x"), ("GET", "/api/tasks/x/y")]
)
def test_other_requests_are_refused_in_this_dialects_words(doors: Doors, method: str, path: str) -> None:
    answer = doors.client.open(path, method=method)
    assert answer.status_code in (404, 405)
    assert set(answer.json) == {"code", "message"}


WHOLE = golden_request(case())


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(1, len(WHOLE) - 1))
def test_a_truncated_submission_is_never_accepted(doors: Doors, cut: int) -> None:
    answer = doors.client.post(
        SUBMIT, data=WHOLE[: min(cut, len(WHOLE) - 3)], content_type="multipart/form-data; boundary=5f2a1c"
    )
    assert answer.status_code == 400
    assert set(answer.json) <= {"code", "message", "field"}
    assert doors.blob_files() == []


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, len(WHOLE) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_never_makes_the_server_fail(doors: Doors, place: int, bit: int) -> None:
    flipped = bytearray(WHOLE)
    flipped[place] ^= 1 << bit
    answer = doors.client.post(SUBMIT, data=bytes(flipped), content_type="multipart/form-data; boundary=5f2a1c")
    assert answer.status_code in (201, 400, 413, 422)
    if answer.status_code != 201:
        assert answer.json["message"]
