"""Waiting for a result: which answers end it, how the pauses grow, what is told."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest

from mim_extension.client_backend import Answer
from mim_extension.errors import (
    InferenceServerError,
    JobExecError,
    ResultTimeout,
    ServerUnreachable,
    SettingsError,
)
from mim_extension.inference_client import InferenceClient, Polling
from mim_extension.testing.mim_objects import MimSession, logged

FINISHED = Answer(200)
PENDING = Answer(551, "The task is queued at position 3.")


class ScriptedBackend:
    """Answers from a list; the last answer is repeated."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    def get_task(self, uid: str, destination: Path) -> Answer:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        if answer.status == 200:
            with ZipFile(destination, "w"):
                pass
        return answer


class Waiting:
    """A client with a clock of its own; ``pauses`` are the seconds it slept."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.backend = ScriptedBackend(*answers)
        self.session = MimSession()
        self.now = 1000.0
        self.pauses: list[float] = []
        logger = self.session.createLogger()
        self.client = InferenceClient(self.backend, logger, clock=lambda: self.now, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def run(self, interval_s: float = 5.0, timeout_s: float = 600.0) -> dict:
        with self.client.get_task("uid-1", Polling(interval_s, timeout_s)) as output:
            return output.get_output_as_label_array_dict()


def unreachable() -> ServerUnreachable:
    return ServerUnreachable("No connection to http://h.")


def test_a_pending_task_is_asked_for_again_at_the_interval():
    waiting = Waiting(PENDING, PENDING, FINISHED)
    assert waiting.run() == {}
    assert waiting.pauses == [5.0, 5.0]


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        (Answer(500, "Out of memory."), InferenceServerError, "^Out of memory.$"),
        (Answer(500), InferenceServerError, "^The server had an internal error.$"),
        (Answer(550, "Known models: a, b."), InferenceServerError, "^Known models: a, b.$"),
        (Answer(552, "The image holds NaN."), JobExecError, "^The image holds NaN.$"),
        (Answer(552), JobExecError, "^The model could not finish this case.$"),
        (Answer(401), InferenceServerError, "does not accept the token or secret"),
        (Answer(404), InferenceServerError, "no inference server at this address"),
        (Answer(418), InferenceServerError, "^The server answered with status 418.$"),
        (Answer(202), InferenceServerError, "status 202"),
        (SettingsError("not trusted"), SettingsError, "not trusted"),
    ],
)
def test_some_answers_end_the_wait_at_once(answer, error, sentence):
    waiting = Waiting(PENDING, answer)
    with pytest.raises(error, match=sentence):
        waiting.run()
    assert waiting.backend.asked == 2


@pytest.mark.parametrize("status", [553, 554])
def test_a_missing_task_or_result_is_believed_at_the_third_answer(status):
    waiting = Waiting(Answer(status))
    with pytest.raises(InferenceServerError):
        waiting.run()
    assert waiting.backend.asked == 3


def test_a_missing_task_that_turns_up_again_is_waited_for():
    gone = Answer(554)
    waiting = Waiting(gone, gone, PENDING, gone, gone, FINISHED)
    assert waiting.run() == {}


@pytest.mark.parametrize("trouble", [unreachable(), Answer(502), Answer(503), Answer(504), Answer(429), Answer(408)])
def test_a_server_in_trouble_is_asked_again_more_and_more_slowly(trouble):
    waiting = Waiting(*[trouble] * 7, FINISHED)
    assert waiting.run(interval_s=2.0) == {}
    assert waiting.pauses == [2, 4, 8, 16, 32, 60, 60]
    assert [line.endswith(" Trying again.") for line in logged(waiting.session)] == [True, False, False]


def test_after_trouble_the_interval_is_the_usual_one_and_the_recovery_is_told():
    waiting = Waiting(unreachable(), unreachable(), PENDING, PENDING, FINISHED)
    waiting.run(interval_s=3.0)
    assert waiting.pauses == [3, 6, 3, 3]
    assert logged(waiting.session) == ["No connection to http://h. Trying again.", "The server answers again."]


def test_the_server_may_ask_for_a_longer_pause_but_not_for_hours():
    waiting = Waiting(Answer(503, retry_after_s=20.0), Answer(503, retry_after_s=9999.0), FINISHED)
    waiting.run(interval_s=1.0)
    assert waiting.pauses == [20, 60]


def test_the_wait_ends_at_the_time_out_with_one_last_question():
    waiting = Waiting(PENDING)
    with pytest.raises(ResultTimeout, match=r"No result after 12 s\. The task is still waiting or running\."):
        waiting.run(interval_s=5.0, timeout_s=12.0)
    assert waiting.pauses == [5, 5, 2]
    assert waiting.now == 1012.0


def test_a_time_out_is_a_timeout_error_too():
    with pytest.raises(TimeoutError):
        Waiting(PENDING).run(timeout_s=0.0)


def test_the_time_out_of_an_unreachable_server_says_why():
    with pytest.raises(ResultTimeout, match="No connection to http://h"):
        Waiting(unreachable()).run(timeout_s=30.0)


def test_news_come_once_a_minute():
    waiting = Waiting(PENDING)
    with pytest.raises(ResultTimeout):
        waiting.run(interval_s=5.0, timeout_s=185.0)
    assert logged(waiting.session) == [
        f"Waiting for {seconds} s. The task is queued at position 3." for seconds in (60, 120, 180)
    ]
