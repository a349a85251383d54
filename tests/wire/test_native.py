"""The native API as clients see it."""

from __future__ import annotations

import gzip
import threading
import time
import zipfile
from datetime import UTC, datetime
from typing import Any

import pytest
from door_support import RESULT, Doors, FakeModel, case, form, image, part
from werkzeug.test import TestResponse

from inference_server.models.manifest import Manifest, NamedInput
from inference_server.tasks.caller import LOCAL
from inference_server.tasks.record import Phase, Priority, Problem

TASKS = "/api/v1/tasks"
TIPS = Manifest(id="tips", runtime="python-app", app="a.py:app", points=(NamedInput(name="tip"),))


def submit(doors: Doors, *parts: bytes, key: str | None = None) -> TestResponse:
    headers = {"Idempotency-Key": key} if key else {}
    return doors.client.post(TASKS, headers=headers, **form(*parts))


def one_case() -> tuple[bytes, bytes]:
    return part("model", "one"), part("case", case(), "case.zip")


def stored_case(doors: Doors, uid: str) -> dict[str, bytes]:
    with doors.blobs.open(str(doors.tasks.get(uid, LOCAL).case_blob)) as file, zipfile.ZipFile(file) as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_submitted_case_is_answered_by_its_record(doors: Doors) -> None:
    answer = submit(doors, *one_case())
    record = answer.json
    uid = record["uid"]
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"{TASKS}/{uid}"
    assert abs(datetime.fromisoformat(record.pop("created_at")) - datetime.now(UTC)).total_seconds() < 30
    assert record.pop("timings")["queued"] >= 0
    assert record == {
        "uid": uid,
        "model": "one",
        "version": "2.1.0",
        "digest": "sha-one",
        "dialect": "native",
        "status": "queued",
        "revision": 1,
        "priority": "normal",
        "parameters": {"level": 0.5},
        "outputs": [],
        "phase": None,
        "progress": 0.0,
        "attempts": 0,
        "started_at": None,
        "ended_at": None,
        "problem": None,
        "queue_position": 0,
        "expected_wait_s": None,
        "case_size_bytes": len(case()),
        "result_size_bytes": None,
        "report": {},
        "links": {
            "self": f"{TASKS}/{uid}",
            **{name: f"{TASKS}/{uid}/{name}" for name in ("result", "events", "cancel", "retry")},
        },
    }
    assert doors.turns.sent == ["default"]


def test_images_become_a_case_in_their_order(doors: Doors) -> None:
    first, second = image(spacing_mm=(1, 1, 2)), gzip.decompress(image(spacing_mm=(1, 1, 3)))
    parts = (part("image", first, "t1.nii.gz"), part("image", second, "t2.nii"))
    answer = submit(doors, part("model", "two"), *parts, part("scaling_factor", "[1, 2, 2]"))
    assert answer.status_code == 202, answer.text
    assert stored_case(doors, answer.json["uid"]) == {
        "tmp_0000.nii.gz": first,
        "tmp_0001.nii": second,
        "tmp_0000.meta.json": b'{"scaling_factor": [1, 2, 2]}',
    }
    assert len(doors.blob_files()) == 1


def test_outputs_and_points_reach_the_task(doors: Doors) -> None:
    doors.models.known["tips"] = FakeModel(TIPS)
    parts = (part("model", "tips"), part("image", image(), "a.nii.gz"), part("points", '{"tip": [[1, -2.5, 3e-3]]}'))
    answer = submit(doors, *parts, part("outputs", '["volumes", "meshes", "meshes"]'))
    assert answer.status_code == 202, answer.text
    assert answer.json["outputs"] == ["meshes", "volumes"]
    assert stored_case(doors, answer.json["uid"])["points.json"] == b'{"tip": [[1.0, -2.5, 0.003]]}'


def test_the_same_key_gives_the_same_task(doors: Doors) -> None:
    parts = (part("model", "one"), part("image", image(), "a.nii.gz"))
    first, second = (submit(doors, *parts, key="k 1") for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 200)
    assert second.json["uid"] == first.json["uid"]
    assert second.headers["Location"] == first.headers["Location"]
    assert len(doors.blob_files()) == 1


def test_the_same_key_with_another_case_is_a_conflict(doors: Doors) -> None:
    submit(doors, *one_case(), key="k")
    answer = submit(doors, part("model", "one"), part("image", image((9, 9, 9)), "a.nii.gz"), key="k")
    assert (answer.status_code, answer.json["code"], answer.json["field"]) == (409, "conflict", "Idempotency-Key")
    assert len(doors.blob_files()) == 1


def test_without_a_key_the_same_case_is_another_task(doors: Doors) -> None:
    assert len({submit(doors, *one_case()).json["uid"] for _ in range(3)}) == 3


def test_parameters_and_priority_reach_the_task(doors: Doors) -> None:
    uid = submit(doors, *one_case(), part("parameters", '{"level": "0.75"}'), part("priority", "urgent")).json["uid"]
    task = doors.tasks.get(uid, LOCAL)
    assert (task.parameters, task.priority) == ({"level": 0.75}, Priority.URGENT)


@pytest.mark.parametrize(
    ("parts", "status", "field", "words"),
    [
        ([part("case", case(), "c")], 422, "model", "Field required"),
        ([part("model", "one")], 400, "case", "Send one zip as 'case'"),
        ([*one_case(), part("image", image(), "i")], 400, "case", "or one or more NIfTI files as 'image'"),
        ([*one_case(), part("case", case(), "c")], 400, "case", "one zip"),
        ([*one_case(), part("scaling_factor", "[1, 2, 2]")], 400, "scaling_factor", "meta.json"),
        ([*one_case(), part("scaling_factor", "[1, 0, 2]")], 422, "scaling_factor", "three whole numbers from 1"),
        ([*one_case(), part("scaling_factor", "[1, 2]")], 422, "scaling_factor", "JSON list [z, y, x] were expected"),
        ([*one_case(), part("scaling_factor", "1,2,2")], 422, "scaling_factor", "three whole numbers from 1"),
        (
            [part("model", "one"), part("image", image(), "i"), part("scaling_factor", "[1, 9999, 9999]")],
            413,
            "scaling_factor",
            "the labels would be larger",
        ),
        ([part("model", "two"), part("image", image(), "i")], 400, "tmp_0001.nii.gz", "1 came"),
        (
            [*one_case(), part("outputs", '["statistics"]')],
            422,
            "outputs",
            "any of these was expected: meshes, volumes",
        ),
        ([*one_case(), part("outputs", "meshes")], 422, "outputs", "a JSON list"),
        ([*one_case(), part("points", "{}")], 400, "points", "in its own points.json"),
        ([*one_case(), part("points", '{"tip": [[1, 2]]}')], 422, "points", "lists of points [x, y, z]"),
        ([*one_case(), part("points", '{"tip": [[1, 2, NaN]]}')], 422, "points", "lists of points [x, y, z]"),
        (
            [part("model", "one"), part("image", image(), "i"), part("points", '{"tip": [[1, 2, 3]]}')],
            400,
            "points",
            "It takes no points.",
        ),
        ([part("model", "tips"), part("image", image(), "i")], 400, "points: tip", "needs the points 'tip'"),
        (
            [part("model", "tips"), part("image", image(), "i"), part("points", '{"tip": []}')],
            400,
            "points",
            "needs the points 'tip'",
        ),
        ([*one_case(), part("parameters", "{")], 422, "parameters", "Invalid JSON"),
        ([*one_case(), part("parameters", "[1]")], 422, "parameters", "valid dictionary"),
        ([*one_case(), part("parameters", '{"level": 2}')], 400, "level", "a number from 0"),
        ([*one_case(), part("parameters", '{"lvl": 1}')], 400, "lvl", "Its parameters: level."),
        ([*one_case(), part("priority", "now")], 422, "priority", "'urgent', 'normal' or 'batch'"),
        ([*one_case(), part("priorty", "urgent")], 400, "priorty", "not known here"),
        ([part("model", "one"), part("image", b"no image", "i")], 400, "tmp_0000.nii", "NIfTI"),
    ],
)
def test_a_form_that_is_not_right_is_refused(
    doors: Doors, parts: list[bytes], status: int, field: str, words: str
) -> None:
    doors.models.known["tips"] = FakeModel(TIPS)
    answer = submit(doors, *parts)
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json"), answer.text
    assert answer.json["field"] == field
    assert words in answer.json["detail"]
    assert doors.blob_files() == []
    assert doors.turns.sent == []


@pytest.mark.parametrize("key", ["", "k" * 201])
def test_a_key_that_is_none_is_refused(doors: Doors, key: str) -> None:
    answer = doors.client.post(TASKS, headers={"Idempotency-Key": key}, **form(*one_case()))
    assert (answer.status_code, answer.json["field"]) == (422, "Idempotency-Key")


def record_of(doors: Doors, uid: str, query: str = "") -> dict[str, Any]:
    answer = doors.client.get(f"{TASKS}/{uid}{query}")
    assert answer.status_code == 200
    return dict(answer.json)


def test_a_running_task_says_how_far_it_is(doors: Doors) -> None:
    record = record_of(doors, doors.running())
    assert (record["status"], record["phase"], record["progress"]) == ("running", "predicting", 0.25)
    assert (record["queue_position"], record["attempts"]) == (None, 0)
    assert set(record["timings"]) == {"queued", "running"}


def test_a_finished_task_says_how_it_was_computed(doors: Doors) -> None:
    report = {"device": "cpu", "precision": "float32", "timings_s": {"predicting": 0.5}, "notes": ["Assumed."]}
    record = record_of(doors, doors.finished(report=report))
    assert (record["status"], record["result_size_bytes"]) == ("finished", len(RESULT))
    assert record["report"] == {"device": "cpu", "precision": "float32", "notes": ["Assumed."]}
    assert record["timings"]["predicting"] == 0.5
    assert record["ended_at"] is not None


def test_a_failed_task_says_why(doors: Doors) -> None:
    record = record_of(doors, doors.failed(Problem("prediction", "The model failed on this case.")))
    assert record["problem"] == {"code": "prediction", "message": "The model failed on this case."}


def test_waiting_tasks_know_their_place(doors: Doors) -> None:
    doors.finished()
    uids = [doors.submitted() for _ in range(3)]
    records = [record_of(doors, uid) for uid in uids]
    assert [record["queue_position"] for record in records] == [0, 1, 2]
    assert all(record["expected_wait_s"] >= 0 for record in records)


def test_links_begin_with_the_public_address(tmp_path_factory: pytest.TempPathFactory) -> None:
    doors = Doors(tmp_path_factory.mktemp("public"), public_url="https://ai.example.org/contours/")
    answer = submit(doors, *one_case())
    assert answer.headers["Location"].startswith("https://ai.example.org/contours/api/v1/tasks/")
    assert answer.json["links"]["self"] == answer.headers["Location"]
    doors.close()


def test_a_waiting_request_is_answered_the_moment_the_task_changes(doors: Doors) -> None:
    uid = doors.submitted()
    claim = doors.claim()
    revision = record_of(doors, uid)["revision"]
    changed: list[float] = []

    def change() -> None:
        doors.go_on(claim, Phase.PREDICTING, 0.5)
        changed.append(time.monotonic())

    threading.Timer(0.2, change).start()
    record = record_of(doors, uid, f"?wait=20&revision={revision}")
    assert (record["progress"], record["revision"]) == (0.5, revision + 1)
    assert time.monotonic() - changed[0] < 0.5


def test_a_waiting_request_without_a_revision_is_answered_when_the_status_changes(doors: Doors) -> None:
    uid = doors.submitted()
    claim = doors.claim()

    def change() -> None:
        doors.go_on(claim)
        time.sleep(0.1)
        doors.finish(claim)

    threading.Timer(0.1, change).start()
    assert record_of(doors, uid, "?wait=20")["status"] == "finished"


def test_a_waiting_request_is_answered_in_the_end_all_the_same(doors: Doors) -> None:
    uid, started = doors.submitted(), time.monotonic()
    assert record_of(doors, uid, "?wait=0.2")["status"] == "queued"
    assert 0.2 <= time.monotonic() - started < 2


def test_a_task_deleted_while_a_request_waits_is_unknown(doors: Doors) -> None:
    uid = doors.submitted()
    threading.Timer(0.1, lambda: doors.tasks.delete(uid, LOCAL)).start()
    answer = doors.client.get(f"{TASKS}/{uid}?wait=20")
    assert (answer.status_code, answer.json["code"]) == (404, "unknown_task")


def test_a_result_is_served_whole_and_in_parts(doors: Doors) -> None:
    uid = doors.finished()
    address = f"{TASKS}/{uid}/result"
    whole = doors.client.get(address, buffered=True)
    assert (whole.status_code, whole.data, whole.content_type) == (200, RESULT, "application/zip")
    assert whole.headers["Content-Disposition"] == f"attachment; filename={uid}.zip"
    assert whole.headers["Accept-Ranges"] == "bytes"
    piece = doors.client.get(address, headers={"Range": "bytes=10-", "If-Range": whole.headers["ETag"]}, buffered=True)
    assert (piece.status_code, piece.data) == (206, RESULT[10:])
    assert piece.headers["Content-Range"] == f"bytes 10-{len(RESULT) - 1}/{len(RESULT)}"
    head = doors.client.head(address, buffered=True)
    assert (head.status_code, head.data, head.content_length) == (200, b"", len(RESULT))
    same = doors.client.get(address, headers={"If-None-Match": whole.headers["ETag"]}, buffered=True)
    assert same.status_code == 304


def test_a_range_beyond_the_end_is_refused(doors: Doors) -> None:
    address = f"{TASKS}/{doors.finished()}/result"
    answer = doors.client.get(address, headers={"Range": "bytes=1000-"}, buffered=True)
    assert (answer.status_code, answer.content_type) == (416, "application/problem+json")
    assert answer.headers["Content-Range"] == f"bytes */{len(RESULT)}"


def test_without_a_result_the_answer_says_why(doors: Doors) -> None:
    reasons = {
        doors.expired(): (410, "result_gone"),
        doors.running(): (409, "not_finished"),
        doors.failed(Problem("invalid_volume", "The image holds NaN.")): (422, "invalid_volume"),
        doors.failed(Problem("timed_out", "It took too long.")): (504, "timed_out"),
        doors.cancelled(): (409, "cancelled"),
        doors.submitted(): (409, "not_finished"),
        "0" * 32: (404, "unknown_task"),
    }
    for uid, expected in reasons.items():
        answer = doors.client.get(f"{TASKS}/{uid}/result")
        assert (answer.status_code, answer.json["code"]) == expected


def test_a_tasks_log_tells_its_life(doors: Doors) -> None:
    uid = doors.finished()
    events = doors.client.get(f"{TASKS}/{uid}/events").json["events"]
    assert [event["text"] for event in events] == ["Accepted.", "A worker started.", "Finished."]
    assert [event["level"] for event in events] == ["info"] * 3
    later = doors.client.get(f"{TASKS}/{uid}/events?since={events[1]['seq']}").json["events"]
    assert later == events[2:]


def test_the_list_is_filtered_and_goes_on_behind_its_cursor(doors: Doors) -> None:
    uids = [doors.submitted(model) for model in ("one", "two", "one", "one")]
    doors.tasks.cancel(uids[0], LOCAL)
    listed = lambda query: doors.client.get(f"{TASKS}?{query}").json  # noqa: E731
    assert [task["uid"] for task in listed("")["tasks"]] == uids[::-1]
    assert [task["uid"] for task in listed("model=two")["tasks"]] == [uids[1]]
    assert [task["uid"] for task in listed("status=cancelled")["tasks"]] == [uids[0]]
    assert listed("dialect=mim") == {"tasks": [], "next_cursor": None}
    first = listed("limit=3")
    rest = listed(f"limit=3&cursor={first['next_cursor']}")
    assert [task["uid"] for task in first["tasks"] + rest["tasks"]] == uids[::-1]
    assert rest["next_cursor"] is None
    assert doors.client.get(f"{TASKS}?cursor=x").json["field"] == "cursor"


def test_a_task_is_cancelled_and_tried_again(doors: Doors) -> None:
    uid = doors.running()
    assert doors.client.post(f"{TASKS}/{uid}/cancel").json["status"] == "cancelled"
    again = doors.client.post(f"{TASKS}/{uid}/cancel")
    assert (again.status_code, again.json["code"]) == (409, "conflict")
    assert doors.client.post(f"{TASKS}/{uid}/retry").json["status"] == "queued"
    assert doors.client.post(f"{TASKS}/{uid}/retry").status_code == 409
    assert doors.turns.sent == ["default", "default"]


def test_a_deleted_task_leaves_nothing(doors: Doors) -> None:
    uid = doors.finished()
    answer = doors.client.delete(f"{TASKS}/{uid}")
    assert (answer.status_code, answer.data) == (204, b"")
    assert doors.blob_files() == []
    assert doors.client.get(f"{TASKS}/{uid}").status_code == 404
    assert doors.client.delete(f"{TASKS}/{uid}").status_code == 404


def test_models_are_listed_with_their_manifests(doors: Doors) -> None:
    listed = doors.client.get("/api/v1/models").json
    assert [(model["id"], model["digest"]) for model in listed["models"]] == [("one", "sha-one"), ("two", "sha-two")]
    assert listed["broken"] == {"half": "The bundle has no weights."}
    model = doors.client.get("/api/v1/models/one").json
    assert model == listed["models"][0]
    assert model["labels"] == {"1": {"name": "BODY", "color": [255, 0, 0], "code": None}}
    assert [channel["name"] for channel in listed["models"][1]["channels"]] == ["t1", "t2"]
    unknown = doors.client.get("/api/v1/models/three")
    assert (unknown.status_code, unknown.json["code"]) == (404, "unknown_model")
