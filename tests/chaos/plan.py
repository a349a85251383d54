"""Which faults strike, in which order, and after how many tasks: all of it follows from the seed."""

from __future__ import annotations

import random
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chaos import killings, shortages
from chaos.killings import Strike

FAULTS: Mapping[str, Strike] = {
    "kill_child": killings.on_child("kill_child", signal.SIGKILL),
    "kill_worker": killings.on_worker("kill_worker", signal.SIGKILL),
    "kill_everything": killings.everything_killed,
    "flushall": killings.flushed,
    "term_child": killings.child_told_to_stop,
    "database_locked": shortages.database_locked,
    "model_segfaults": shortages.model("segfaults"),
    "kill_redis": killings.on_part("kill_redis", "redis", signal.SIGKILL),
    "term_worker": killings.on_worker("term_worker", signal.SIGTERM),
    "file_limit": shortages.file_limit,
    "kill_api": killings.on_part("kill_api", "api", signal.SIGKILL),
    "disk_full": shortages.disk("disk_full", 0),
    "redis_hangs": killings.redis_hangs,
    "disk_low": shortages.disk("disk_low", shortages.LOW_BYTES // 2),
    "term_api": killings.on_part("term_api", "api", signal.SIGTERM),
    "term_redis": killings.on_part("term_redis", "redis", signal.SIGTERM),
    "term_everything": killings.everything_stopped,
    "redis_down": killings.redis_down,
    "kill_api_process": killings.api_process,
    "kill_housekeeping": killings.on_part("kill_housekeeping", "housekeeping", signal.SIGKILL),
    "model_forks": shortages.model("forks"),
    "model_eats-memory": shortages.model("eats-memory"),
    "model_hangs": shortages.model("hangs"),
    "model_hangs-in-c": shortages.model("hangs-in-c"),
}
"""By kind; those that matter most come first, since a short run takes as many as it may."""
ON_A_SMALL_DISK = ("disk_full", "disk_low")
AHEAD = 2
"""More tasks are sent than have to end before a fault, so that some run when it strikes."""


@dataclass(frozen=True)
class Planned:
    """A fault, how many tasks may have been sent when it strikes, and how many have to have ended."""

    kind: str
    sent: int
    ended: int


def make_plan(count: int, tasks: int, generator: random.Random, *, small_disk: bool) -> list[Planned]:
    """Return `count` faults, every kind before any comes twice, spread over `tasks` tasks."""
    kinds = [kind for kind in FAULTS if small_disk or kind not in ON_A_SMALL_DISK]
    chosen = [kind for turn in range(0, count, len(kinds)) for kind in _some(kinds, count - turn, generator)]
    step = tasks / count
    return [
        Planned(kind, int((place + 1) * step) + AHEAD, int((place + generator.random() / 2) * step))
        for place, kind in enumerate(chosen)
    ]


def _some(kinds: Sequence[str], count: int, generator: random.Random) -> list[str]:
    first = list(kinds[:count])
    generator.shuffle(first)
    return first
