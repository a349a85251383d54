"""Turns: how workers learn that there is something to do. Only Celery talks to the broker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError

from inference_server.errors import SettingsError
from inference_server.settings import Settings
from inference_server.tasks.broker import broker_options
from inference_server.tasks.record import Priority
from inference_server.tasks.service import Turns

log = logging.getLogger(__name__)

TURN = "inference_server.turn"

SEND_LIMIT_S = 1.0
"""Longest wait for the broker: whoever submits has an accepted task already and must not be kept waiting."""

AT_ONCE_S = SEND_LIMIT_S / 4

Answer = TypeVar("Answer")


class CeleryTurns:
    """Turns as Celery messages. Safe to use from many threads; make it after a fork."""

    def __init__(self, settings: Settings) -> None:
        self._app = make_celery(settings, answer_limit_s=SEND_LIMIT_S)
        self._outage = threading.Event()

    def send(self, queue: str, priority: Priority = Priority.NORMAL) -> bool:
        """Send one turn within about a second; return False if the broker cannot be reached.

        A turn is not an order and carries no priority: which task it is good for is decided by the claim.
        """
        return self._ask(lambda: self._app.send_task(TURN, queue=queue) is not None) or False

    def ready(self, queue: str) -> int | None:
        """Return how many turns wait in the queue, or None if the broker cannot be reached."""
        return self._ask(lambda: self._waiting(queue))

    def take(self, queues: Sequence[str]) -> bool:
        """Take a waiting turn out of one of the queues, and return whether there was one."""
        return any(self._ask(partial(self._taken, queue)) for queue in queues)

    def _taken(self, queue: str) -> bool:
        with self._app.pool.acquire() as connection, connection._reraise_as_library_errors():
            try:
                return connection.default_channel.basic_get(queue, no_ack=True) is not None
            except connection.channel_errors:
                connection.close()  # a channel that RabbitMQ has refused something is of no more use
                return False

    def _waiting(self, queue: str) -> int:
        with self._app.pool.acquire() as connection, connection._reraise_as_library_errors():
            return _message_count(connection, queue)

    def _ask(self, question: Callable[[], Answer]) -> Answer | None:
        try:
            answer = _answered(question)
        except OperationalError as exc:
            self._note_outage(exc)
            return None
        if self._outage.is_set():
            self._outage.clear()
            log.info("broker answers again")
        return answer

    def _note_outage(self, exc: OperationalError) -> None:
        if not self._outage.is_set():
            self._outage.set()
            log.warning(
                "broker cannot be reached; turns are sent later", extra={"reason": type(exc.__cause__).__name__}
            )


def _answered(question: Callable[[], Answer]) -> Answer:
    """Ask, and once more where that failed at once: a connection that was idle may have been cut meanwhile."""
    began = time.monotonic()
    try:
        return question()
    except OperationalError:
        if time.monotonic() - began > AT_ONCE_S:
            raise
    return question()


def send_turns(turns: Turns, queues: Sequence[str], count: int) -> None:
    """Send so many turns to each of the queues, for tasks that went back; housekeeping sends what is missing."""
    for queue in queues:
        for _ in range(count):
            if not turns.send(queue):
                return


def make_celery(settings: Settings, *, answer_limit_s: float | None = None) -> Celery:
    """Return a Celery application on the settings' broker.

    Args:
        settings: `broker_url` must be set.
        answer_limit_s: longest wait for one answer of the broker, without a retry; None waits and retries, as a
            consumer does.

    Raises:
        SettingsError: there is no broker, or the certificate of its authority cannot be read.
    """
    if not settings.broker_url:
        raise SettingsError("There is no broker. Set INFERENCE_SERVER_BROKER_URL, or start the server by `up`.")
    app = Celery("inference_server", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        task_publish_retry=False,
        task_default_exchange="",
        task_default_queue="default",
        **broker_options(settings, answer_limit_s),
    )
    return app


def _message_count(connection: Connection, queue: str) -> int:
    assert connection.default_channel  # connects, within the limits; a channel of its own does not
    with connection.channel() as channel:
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        except connection.channel_errors:
            return 0  # an empty queue of Redis, or one that no worker has declared yet, does not exist
