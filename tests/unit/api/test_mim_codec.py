from __future__ import annotations

import json
from dataclasses import replace

import pytest
from door_support import queued_task

from inference_server.api.mim.codec import (
    Answer,
    decode_model_id,
    encode_poll_error,
    encode_status,
    encode_submit_error,
    encode_uid,
)
from inference_server.errors import BadRequest, InferenceServerError, TooLarge, all_errors
from inference_server.tasks.record import Phase, Problem, Status, Task

OURS = [error for error in all_errors() if error.__module__ == "inference_server.errors"]
POLL = {
    "unknown_model": 550,
    "not_finished": 551,
    "store_unavailable": 551,
    "cancelled": 552,
    "task_failed": 552,
    "model_load": 552,
    "prediction": 552,
    "out_of_memory": 552,
    "device_failed": 552,
    "timed_out": 552,
    "queue_timed_out": 552,
    "worker_lost": 552,
    "result_gone": 553,
    "unknown_task": 554,
}


@pytest.fixture
def task() -> Task:
    return queued_task()


def said(answer: Answer | None) -> tuple[int, str, str]:
    assert answer is not None
    body = json.loads(answer.body)
    assert set(body) == {"code", "message"}
    return answer.status, body["code"], body["message"]


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.code)
def test_a_poll_says_every_error_with_a_status_that_the_fielded_client_knows(
    kind: type[InferenceServerError],
) -> None:
    assert said(encode_poll_error(kind("Do this."))) == (POLL.get(kind.code, 500), kind.code, "Do this.")


def test_a_submission_says_an_error_with_its_own_status_and_the_field() -> None:
    answer = encode_submit_error(TooLarge("Too large.", field="tmp_0000.nii.gz"), 413)
    assert answer.status == 413
    assert json.loads(answer.body) == {"code": "too_large", "message": "Too large.", "field": "tmp_0000.nii.gz"}


def test_the_answer_to_a_submission_is_a_json_string() -> None:
    assert encode_uid("0af3") == b'"0af3"'


@pytest.mark.parametrize("query", [{}, {"model_human_readable_id": ""}, {"model_human_readable_id": "  "}, {"m": "x"}])
def test_a_submission_that_names_no_model_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_model_id(query)
    assert caught.value.field == "model_human_readable_id"


def test_the_model_is_named_in_the_query() -> None:
    assert decode_model_id({"model_human_readable_id": " ct-body "}) == "ct-body"


@pytest.mark.parametrize(
    ("position", "words"), [(0, "it is the next one"), (1, "1 task goes before it"), (12, "12 tasks go before it")]
)
def test_a_waiting_task_says_how_many_go_before_it(task: Task, position: int, words: str) -> None:
    answer = encode_status(task, model_known=True, position=position)
    assert said(answer) == (551, "not_finished", f"The task waits in the queue; {words}.")


def test_a_waiting_task_whose_model_is_gone_says_so(task: Task) -> None:
    status, code, message = said(encode_status(task, model_known=False, position=0))
    assert (status, code) == (550, "unknown_model")
    assert "'one'" in message


def test_a_running_task_says_how_far_it_is(task: Task) -> None:
    running = replace(task, status=Status.RUNNING, phase=Phase.PREDICTING, progress=0.42)
    answer = encode_status(running, model_known=True, position=None)
    assert said(answer) == (551, "not_finished", "The task is running (predicting, 42%).")


@pytest.mark.parametrize("code", ["prediction", "unknown_model", "invalid_volume", "store_unavailable"])
def test_a_failed_task_is_never_polled_again_whatever_made_it_fail(task: Task, code: str) -> None:
    failed = replace(task, status=Status.FAILED, problem=Problem(code, "The scan is upside down."))
    assert said(encode_status(failed, model_known=True, position=None)) == (552, code, "The scan is upside down.")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.FAILED, (552, "task_failed")),
        (Status.CANCELLED, (552, "cancelled")),
        (Status.EXPIRED, (553, "result_gone")),
    ],
)
def test_an_ended_task_without_a_result_says_why(task: Task, status: Status, expected: tuple[int, str]) -> None:
    assert said(encode_status(replace(task, status=status), model_known=True, position=None))[:2] == expected


def test_a_finished_task_is_answered_by_its_result(task: Task) -> None:
    assert encode_status(replace(task, status=Status.FINISHED), model_known=True, position=None) is None
