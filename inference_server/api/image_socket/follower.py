"""Waiting for tasks on an event loop: one thread watches the records for all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, TypeVar

from inference_server.errors import StoreUnavailable
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

    async def found(self, uid: str, look: Callable[[], Answer | None]) -> Answer:
        """Return what is found when a task has ended, however long that takes.

        Times without the records are waited out.

        Args:
            uid: the task's.
            look: returns nothing while it has not ended.

        Raises:
            UnknownTask: it was deleted.
        """
        while True:
            await self._ended(uid)
            try:
                answer: Answer | None = await self._run(look)
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)
                continue
            if answer is not None:
                return answer

    async def _ended(self, uid: str) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(ended.set)

        with self._watcher.noticed(uid, wake):
            await ended.wait()
