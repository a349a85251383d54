"""Where faults strike: the server, its records, and the choice of the moment."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from chaos.cases import Sent
from chaos.load import Load
from chaos.records import Held, Records
from chaos.site import Site

POLL_S = 0.005
MOMENT_LIMIT_S = 60.0
"""How long to wait for a task to run. Whatever came before has been mended by then."""
RECOVERY_LIMIT_S = 120.0
HUNGER_S = 3.0
DELAY_S = 0.3


@dataclass(frozen=True)
class Hit:
    """A fault that struck: what it hit, and how long it took until that ran again (None: not measured).

    `interrupted` is of faults that should interrupt nothing, and that found a task running: whether it did.
    """

    kind: str
    uids: tuple[str, ...]
    detail: str = ""
    recovery_s: float | None = None
    interrupted: bool | None = None


@dataclass
class Arena:
    """What a fault may touch.

    Attributes:
        site: the server.
        records: its records.
        load: what it is busy with.
        random: decides on moments and victims.
        poison: what to send to each model that does not behave; `poison_uids` of those that were sent.
        outage_s: the shortest and the longest outage.
        small_disk: whether the data lie on a disk that may be filled.
    """

    site: Site
    records: Records
    load: Load
    random: random.Random
    poison: Callable[[str], Sent]
    outage_s: tuple[float, float]
    small_disk: bool
    poison_uids: list[str] = field(default_factory=list)

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.site.data

    def pause(self) -> float:
        """Let an outage last, and return how long it did."""
        lasts_s = self.random.uniform(*self.outage_s)
        time.sleep(lasts_s)
        return lasts_s

    def moment(self) -> list[Held]:
        """Wait until tasks run, then a little, and return those that still do; none if none ran in a minute."""
        deadline = time.monotonic() + MOMENT_LIMIT_S
        fed_at = time.monotonic()
        while time.monotonic() < deadline:
            if time.monotonic() > fed_at + HUNGER_S:
                self.load.feed()
                fed_at = time.monotonic()
            if self.records.running():
                time.sleep(self.random.uniform(0, DELAY_S))
                if running := self.records.running():
                    return running
            time.sleep(POLL_S)
        return []

    def victim(self, *, of: Collection[str] = ()) -> Held | None:
        """Wait for a moment and return one of the tasks that run, if any; where models are named, of one of these."""
        running = [held for held in self.moment() if not of or held.model in of]
        return self.random.choice(running) if running else None


def recovery(records: Records, held: Held, struck_at: float) -> float | None:
    """Wait until a task that was hit runs under another claim or has ended, and return the seconds since the blow.

    Args:
        records: of the server.
        held: the task, as it was before.
        struck_at: `time.monotonic()` of the blow.

    Returns:
        None if the task was quicker: its end was committed before the blow took effect.

    Raises:
        TimeoutError: nothing came.
    """
    was_hit = False
    while time.monotonic() < struck_at + RECOVERY_LIMIT_S:
        status, token, attempts = records.state(held.uid)
        was_hit |= status == "queued" or attempts > held.attempts
        if status == "running" and token != held.token:
            return time.monotonic() - struck_at
        if status not in ("queued", "running"):
            return time.monotonic() - struck_at if was_hit else None
        time.sleep(POLL_S)
    raise TimeoutError(f"the task {held.uid} did not run again")
