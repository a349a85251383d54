"""Sending a case, and waiting for what comes of it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable, Iterator

from .client_backend import FINISHED, Answer, ClientBackend
from .errors import InferenceServerError, JobExecError, ResultTimeout, ServerUnreachable
from .mim_types import Logger
from .task_input import TaskInput
from .task_output import TaskOutput

PENDING = 551
JOB_FAILED = 552
MISSING = (553, 554)
OVERLOADED = (408, 429, 502, 503, 504)
UNREACHABLE = 0

#: Answers in a row that say "no such result" or "no such task" before they are believed: a server that is
#: being restarted, or one of several behind a proxy, may say so once.
MISSING_LIMIT = 3
LONGEST_PAUSE_S = 60.0
NEWS_EVERY_S = 60.0


@dataclass(frozen=True)
class Polling:
    """How often a task is asked for, and for how long."""

    interval_s: float
    timeout_s: float


class InferenceClient:
    """The two verbs of the extension: ``post_task`` and ``get_task``."""

    def __init__(
        self,
        backend: ClientBackend,
        logger: Logger,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._backend = backend
        self._logger = logger
        self._clock = clock
        self._sleep = sleep

    def post_task(self, task_input: TaskInput) -> str:
        """Write the case to a temporary zip and send it once.

        Args:
            task_input: the images and what goes with them. Not modified.

        Returns:
            The UID of the task.

        Raises:
            InputError: the case cannot be written.
            InferenceServerError: the server refused it.
            ServerUnreachable: no answer came.
            SettingsError: the server's certificate is not trusted.
        """
        with task_input.as_zip() as zip_path:
            size_mb = zip_path.stat().st_size / 1e6
            self._logger.info(f"Sending {len(task_input.images)} image(s), {size_mb:.1f} MB.")
            return self._backend.post_task(task_input.model_human_readable_id, zip_path)

    @contextmanager
    def get_task(self, uid: str, polling: Polling) -> Iterator[TaskOutput]:
        """Wait for the result of a task; its file is removed when the ``with`` block ends.

        Args:
            uid: the task's UID.
            polling: how often to ask, and for how long.

        Yields:
            The result.

        Raises:
            JobExecError: the model could not finish the case.
            InferenceServerError: the server knows no such model, task or result, or failed.
            ResultTimeout: the time is over; the task goes on at the server.
            SettingsError: the server's certificate is not trusted.
        """
        with TemporaryDirectory(prefix="inference_result_") as folder:
            zip_path = Path(folder) / "output.zip"
            self._wait_for_result(uid, zip_path, polling)
            yield TaskOutput(zip_path)

    def _wait_for_result(self, uid: str, zip_path: Path, polling: Polling) -> None:
        wait = _Wait(polling, self._logger, self._clock())
        while True:
            answer = self._ask(uid, zip_path)
            if answer.status == FINISHED:
                return
            wait.take(answer, self._clock())
            self._sleep(wait.pause_s(self._clock()))

    def _ask(self, uid: str, zip_path: Path) -> Answer:
        try:
            return self._backend.get_task(uid, zip_path)
        except ServerUnreachable as error:
            return Answer(UNREACHABLE, str(error))


class _Wait:
    """One wait for one task: which answers end it, how long to pause, what to tell."""

    def __init__(self, polling: Polling, logger: Logger, now: float) -> None:
        self._polling = polling
        self._logger = logger
        self._started = now
        self._next_news = now + NEWS_EVERY_S
        self._missing = 0
        self._troubles = 0
        self._last = Answer(PENDING)

    def take(self, answer: Answer, now: float) -> None:
        """Note an answer that is no result; raise where it, or the time, ends the wait."""
        in_trouble = answer.status == UNREACHABLE or answer.status in OVERLOADED
        self._missing = self._missing + 1 if answer.status in MISSING else 0
        self._tell(answer, now, in_trouble)
        self._troubles = self._troubles + 1 if in_trouble else 0
        self._last = answer
        self._raise_if_over(answer, now, in_trouble)

    def pause_s(self, now: float) -> float:
        """How long to wait before the next question: longer and longer while the server is in trouble."""
        pause = self._polling.interval_s
        if self._troubles:
            pause = max(pause, min(max(pause, 0.5) * 2 ** min(self._troubles - 1, 8), LONGEST_PAUSE_S))
        pause = max(pause, min(self._last.retry_after_s, LONGEST_PAUSE_S))
        return max(0.0, min(pause, self._started + self._polling.timeout_s - now))

    def _raise_if_over(self, answer: Answer, now: float, in_trouble: bool) -> None:
        if answer.status == JOB_FAILED:
            raise JobExecError(answer.sentence)
        goes_on = answer.status == PENDING or in_trouble or 0 < self._missing < MISSING_LIMIT
        if not goes_on:
            raise InferenceServerError(answer.sentence)
        if now - self._started >= self._polling.timeout_s:
            raise ResultTimeout(self._time_is_over(answer, in_trouble))

    def _time_is_over(self, answer: Answer, in_trouble: bool) -> str:
        why = answer.sentence if in_trouble or self._missing else "The task is still waiting or running."
        return (
            f"No result after {self._polling.timeout_s:g} s. {why} The server keeps the task: "
            "fetch it later with InferenceServerGetFromUid and the same UID."
        )

    def _tell(self, answer: Answer, now: float, in_trouble: bool) -> None:
        if in_trouble and not self._troubles:
            self._logger.info(f"{answer.sentence} Trying again.")
        elif self._troubles and not in_trouble:
            self._logger.info("The server answers again.")
        elif now >= self._next_news:
            news = answer.sentence if in_trouble else answer.message
            self._logger.info(f"Waiting for {now - self._started:.0f} s. {news}".rstrip())
        else:
            return
        self._next_news = now + NEWS_EVERY_S
