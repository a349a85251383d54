"""Waiting for tasks on an event loop: one thread watches the records for all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, TypeVar

from inference_server.errors import StoreUnavailable
from inference_server.tasks.record import Task
from inference_server.tasks.watch import Watcher

RETRY_S = 0.5

Answer = TypeVar("Answer")
Run = Callable[..., Awaitable[Any]]
"""Calls a function that blocks with these arguments, beside the event loop."""


def beside(threads: Executor) -> Run:
    """Return what calls functions in threads."""

    def run(function: Callable[..., Answer], *arguments: Any) -> Awaitable[Answer]:
        return asyncio.get_running_loop().run_in_executor(threads, function, *arguments)

    return run


class Follower:
    """Follows tasks to their ends.

    Args:
        watcher: tells of changes.
        run: calls what blocks.
    """

    def __init__(self, watcher: Watcher, run: Run) -> None:
        self._watcher = watcher
        self._run = run

    async def ended(self, task: Task, look: Callable[[], Task]) -> Task:
        """Return a task once it has ended, however long that takes; times without the records are waited out.

        Args:
            task: as it is known.
            look: returns it as it is.

        Raises:
            UnknownTask: it was deleted.
        """
        while not task.status.ended:
            await self._changed(task)
            task = await self._look(task, look)
        return task

    async def _changed(self, task: Task) -> None:
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(changed.set)

        with self._watcher.noticed(task.uid, task.revision, wake):
            await changed.wait()

    async def _look(self, task: Task, look: Callable[[], Task]) -> Task:
        try:
            found: Task = await self._run(look)
        except StoreUnavailable:
            await asyncio.sleep(RETRY_S)
            return task
        return found
