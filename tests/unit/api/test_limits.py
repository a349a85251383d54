from __future__ import annotations

import re
from pathlib import Path

import pytest
from door_support import Doors, case, form, part

from inference_server.api.native.limits import LimitRecord
from inference_server.api.problems import refusal
from inference_server.errors import QueueFull, all_errors


def test_every_limit_is_told_as_it_is_set(tmp_path: Path) -> None:
    changed = {"queue_limit": 7, "model_queue_limit": 5, "token_task_limit": 3, "child_memory_bytes": 2**30}
    doors = Doors(tmp_path, keep_case=False, **changed)
    told = doors.client.get("/api/v1/limits").json
    assert told == {name: getattr(doors.settings, name) for name in LimitRecord.model_fields}
    assert {name: told[name] for name in changed} == changed
    doors.close()


BOUNDS = {
    "tasks that wait, in all and for one model": ("queue_limit", "model_queue_limit"),
    "tasks of a token, and of those who have none": ("token_task_limit", "anonymous_task_limit"),
    "sizes, sent and unpacked": ("upload_limit_bytes", "unpacked_limit_bytes", "image_limit_bytes", "member_limit"),
    "the disk": ("disk_low_bytes",),
    "times": ("task_time_limit_s", "queue_time_limit_s", "wait_limit_s", "head_limit_s", "stall_limit_s"),
    "memory of a computation": ("child_memory_bytes",),
    "tries": ("max_attempts", "sign_in_limit"),
}


@pytest.mark.parametrize("names", BOUNDS.values(), ids=BOUNDS)
def test_every_bound_is_among_them(names: tuple[str, ...]) -> None:
    assert set(names) <= set(LimitRecord.model_fields)


def test_the_error_that_a_limit_answers_with_exists() -> None:
    named = {
        code
        for field in LimitRecord.model_fields.values()
        for code in re.findall(r"`(\w+_\w+)`", str(field.description))
    }
    assert named <= {error.code for error in all_errors()}
    assert {"queue_full", "over_quota", "too_large", "storage_full", "out_of_memory"} <= named


@pytest.mark.parametrize(
    ("limit", "status", "code"),
    [
        ("queue_limit", 503, "queue_full"),
        ("model_queue_limit", 503, "queue_full"),
        ("token_task_limit", 429, "over_quota"),
    ],
)
@pytest.mark.parametrize("address", ["/api/v1/tasks", "/api/tasks/?model_human_readable_id=one"])
def test_who_comes_when_a_limit_is_reached_is_told_when_to_come_again(
    limit: str, status: int, code: str, address: str, tmp_path: Path
) -> None:
    doors = Doors(tmp_path, **{limit: 1})
    doors.finished()
    doors.submitted()
    native = [part("model", "one"), part("case", case(1), "c.zip")]
    sent = native if "v1" in address else [part("zip_file", case(1), "c.zip")]
    answer = doors.client.post(address, **form(*sent))
    assert (answer.status_code, answer.json["code"]) == (status, code)
    assert int(answer.headers["Retry-After"]) >= 1
    doors.close()


@pytest.mark.parametrize(("seconds", "told"), [(0.2, "1"), (12.0, "12"), (12.01, "13"), (10**6, "3600")])
def test_what_is_known_of_the_wait_is_told_in_whole_seconds(seconds: float, told: str) -> None:
    error = QueueFull()
    error.retry_after_s = seconds
    assert refusal(error).headers["Retry-After"] == told
