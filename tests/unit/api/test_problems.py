from __future__ import annotations

import json
import logging

import pytest
from door_support import Doors
from flask import Flask
from openapi_schema_validator import OAS31Validator

from inference_server.api.doors import DOORS, error_answerer
from inference_server.api.problems import Problem, Refusal, problem_response, refusal
from inference_server.errors import InferenceServerError, OverQuota, StoreUnavailable, all_errors

OURS = [error for error in all_errors() if error.__module__ == "inference_server.errors"]


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.code)
def test_every_error_is_a_problem_document(kind: type[InferenceServerError]) -> None:
    answer = problem_response(refusal(kind("A sentence.", field="image")))
    assert answer.status_code == kind.status
    assert answer.content_type == "application/problem+json"
    assert answer.json == {
        "type": f"urn:inference-server:error:{kind.code}",
        "title": kind.code.replace("_", " ").capitalize(),
        "status": kind.status,
        "detail": "A sentence.",
        "code": kind.code,
        "field": "image",
        "retryable": kind.retryable,
    }
    OAS31Validator(Problem.model_json_schema()).validate(answer.json)


BY_SENTENCE = ("tomaat", "announcements")
"""Clients of these dialects take no status but 200, and look for a sentence alone."""


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.code)
@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/tomaat/one/predict", [{"type": "PlainText", "content": "Do this.", "label": "Error!"}]),
        ("/responses", [{"type": "PlainText", "content": "Do this.", "label": "Error!"}]),
        ("/tomaat/one", {"content_mha": "", "error": "Do this.", "status": 1, "time": 0}),
        ("/", {"content_mha": "", "error": "Do this.", "status": 1, "time": 0}),
        ("/announce", {"status": 1, "error": "Do this."}),
    ],
)
def test_dialects_without_codes_say_every_error_with_its_sentence(
    path: str, told: object, kind: type[InferenceServerError]
) -> None:
    with Flask("test").test_request_context(path, method="POST"):
        answer = error_answerer(path)(Refusal(kind("Do this."), kind.status))
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert json.loads(answer.get_data()) == told


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.code)
def test_dss_says_every_error_as_a_bare_sentence_and_never_with_200(kind: type[InferenceServerError]) -> None:
    with Flask("test").test_request_context("/api/login", method="POST"):
        answer = error_answerer("/api/login")(Refusal(kind("Do this."), kind.status, {"Retry-After": "2"}))
    assert (answer.get_data(), answer.status_code) == (b"Do this.", kind.status)
    assert (answer.content_type, answer.headers["Retry-After"]) == ("text/plain; charset=utf-8", "2")


WITH_CODES = [
    pytest.param(door, method, id=f"{door.name}-{method}")
    for door in DOORS
    for method in ("GET", "POST", "DELETE")
    if not (method == "POST" and door.name in BY_SENTENCE) and door.name != "dss"
]


@pytest.mark.parametrize(("door", "method"), WITH_CODES)
@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.code)
def test_every_door_says_every_error_with_its_code_and_sentence(door, method: str, kind) -> None:  # type: ignore[no-untyped-def]
    with Flask("test").test_request_context("/", method=method):
        answer = door.answer_error(Refusal(kind("Do this."), kind.status))
    assert answer.status_code >= 400
    body = json.loads(answer.get_data())
    assert body["code"] == kind.code
    assert "Do this." in (body.get("detail"), body.get("message"))


@pytest.mark.parametrize(("kind", "seconds"), [(OverQuota, "10"), (StoreUnavailable, "2")])
def test_who_may_try_again_is_told_when(kind: type[InferenceServerError], seconds: str) -> None:
    assert problem_response(refusal(kind())).headers["Retry-After"] == seconds


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/nothing", 404, "There is nothing at this address. The addresses of this server are listed at /docs."),
        ("GET", "/api/v1/nothing", 404, "There is nothing at this address."),
        ("PUT", "/api/v1/models", 405, "not PUT."),
        ("POST", "/healthz/live", 405, "This address takes GET, HEAD, OPTIONS, not POST."),
    ],
)
def test_what_flask_refuses_is_a_problem_document_too(
    doors: Doors, method: str, path: str, status: int, detail: str
) -> None:
    answer = doors.client.open(path, method=method)
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
    assert detail in answer.json["detail"]
    assert answer.json["status"] == status
    assert ("Allow" in answer.headers) is (status == 405)


@pytest.mark.parametrize(
    ("path", "field", "words"),
    [
        ("/api/v1/tasks?limit=0", "limit", "greater than or equal to 1"),
        ("/api/v1/tasks?limit=many", "limit", "valid integer"),
        ("/api/v1/tasks?status=lost", "status", "'queued', 'running'"),
        ("/api/v1/tasks?stat=queued", "stat", "not permitted"),
        ("/api/v1/tasks/x?wait=-1", "wait", "greater than or equal to 0"),
        ("/api/v1/tasks/x?wait=nan", "wait", "not valid"),
        ("/api/v1/tasks/x?wait=inf", "wait", "finite"),
        ("/api/v1/tasks/x?revision=a", "revision", "valid integer"),
        ("/api/v1/tasks/x/events?since=-1", "since", "greater than or equal to 0"),
    ],
)
def test_a_value_that_is_not_valid_is_named(doors: Doors, path: str, field: str, words: str) -> None:
    answer = doors.client.get(path)
    assert (answer.status_code, answer.content_type) == (422, "application/problem+json")
    assert (answer.json["code"], answer.json["field"]) == ("bad_request", field)
    assert words in answer.json["detail"]
    assert answer.json["detail"].startswith(f"The parameter '{field}' is not valid")


def test_a_mistake_of_ours_says_nothing_of_the_request_to_anybody(
    doors: Doors, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("at line 7")

    monkeypatch.setattr(doors.tasks, "get", fail)
    with caplog.at_level(logging.ERROR):
        answer = doors.client.get("/api/v1/tasks/Doe-John?wait=0")
    assert (answer.status_code, answer.content_type) == (500, "application/problem+json")
    assert answer.json["detail"] == "The server made an error on this request. Its log says more; ask its operator."
    assert "line 7" not in answer.text
    assert "ZeroDivisionError" in caplog.text
    assert "Doe" not in caplog.text
    assert caplog.records[-1].__dict__["route"] == "/api/v1/tasks/<uid>"


def test_a_lost_database_is_told_as_such_and_to_be_tried_again(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(doors.tasks, "get", fail)
    answer = doors.client.get("/api/v1/tasks/x")
    assert (answer.status_code, answer.json["code"], answer.json["retryable"]) == (503, "store_unavailable", True)
    assert answer.headers["Retry-After"] == "2"
