"""What a waiting task may expect: how many go before it, and how long that may take."""

from __future__ import annotations

from sqlalchemy import BindParameter, Connection, bindparam, func, select

from inference_server.tasks.admission import median_duration_s
from inference_server.tasks.record import Status, Task
from inference_server.tasks.schema import loads, tasks
from inference_server.tasks.statements import HAS_UID, has_status

SIGHT = 1000
"""No more than so many tasks of a token are counted one by one; who waits behind more sees this number."""

_QUEUE = loads.c.queue == bindparam("the_queue")
_PRIORITY: BindParameter[int] = bindparam("the_priority")
_SEQ = select(tasks.c.seq).where(HAS_UID)
_MORE_URGENT = select(func.coalesce(func.sum(loads.c.waiting), 0)).where(_QUEUE, loads.c.priority < _PRIORITY)
_RUNNING = select(func.coalesce(func.sum(loads.c.running), 0)).where(_QUEUE)
_SHARES = (
    select(loads.c.token, func.sum(loads.c.waiting).label("waiting"))
    .where(_QUEUE, loads.c.priority == _PRIORITY)
    .group_by(loads.c.token)
)
_OLDER = (
    select(tasks.c.seq)
    .where(has_status(Status.QUEUED), tasks.c.queue == bindparam("the_queue"), tasks.c.priority == _PRIORITY)
    .where(tasks.c.token == bindparam("the_token"), tasks.c.seq < bindparam("the_seq"))
    .limit(bindparam("most"))
)
_COUNT_OLDER = select(func.count()).select_from(_OLDER.subquery())


def position(connection: Connection, task: Task) -> int:
    """Return about how many waiting tasks of its queue go before a waiting one (0: it is the next).

    These are all of a higher priority, and of its own the older ones of its token and, since tokens take turns, as
    many of each other token: one more where that token's next one is older.
    """
    values = {"the_queue": task.queue, "the_priority": int(task.priority), "task_uid": task.uid}
    seq = connection.scalar(_SEQ, values)
    own = _older(connection, task, task.token, seq, SIGHT)
    ahead: int = connection.scalar(_MORE_URGENT, values) or 0
    for share in connection.execute(_SHARES, values):
        if share.token == task.token:
            ahead += own
        elif share.waiting > 0:
            ahead += min(share.waiting, own + _older(connection, task, share.token, seq, 1))
    return ahead


def expected_wait_s(connection: Connection, task: Task) -> float | None:
    """Return about how long a waiting task still waits, or None if none of its model has finished lately.

    It is the median duration of the model's last tasks, for each task before this one, and one more
    while all workers are busy, divided among the workers that are running tasks of the queue.
    """
    duration_s = median_duration_s(connection, task.model)
    if duration_s is None:
        return None
    running: int = connection.scalar(_RUNNING, {"the_queue": task.queue}) or 0
    ahead = position(connection, task) + (1 if running else 0)
    return duration_s * ahead / max(running, 1)


def _older(connection: Connection, task: Task, token: str, seq: int | None, most: int) -> int:
    place = {"the_queue": task.queue, "the_priority": int(task.priority), "the_token": token}
    return connection.scalar(_COUNT_OLDER, {**place, "the_seq": seq, "most": most}) or 0
