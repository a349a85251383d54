"""What a process of a door counts beside its work: added to the figures together, about a second later."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import suppress

from inference_server.errors import StoreUnavailable
from inference_server.tasks import figures
from inference_server.tasks.database import Database
from inference_server.tasks.figures import Figure, Kind

PAUSE_S = 1.0
"""Counts wait for so long for others: whoever sends nonsense by the thousand causes one write a second."""
WAIT_S = 1.0
"""Longest wait for other writers."""


class Tally:
    """Counts what was refused. Safe to use from many threads; make it after a fork.

    A process that is killed takes the counts of its last second with it; while the records cannot be reached they are
    kept until something else is counted.

    Args:
        database: migrated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._is_due = False

    def refused(self, dialect: str, code: str) -> None:
        """Count a request that was answered with an error."""
        self._count(Kind.REFUSED, f"{dialect}/{code}")

    def sign_in_refused(self) -> None:
        """Count a token that was not valid."""
        self._count(Kind.SIGN_IN, "")

    def flush(self) -> None:
        """Add what was counted to the figures.

        Raises:
            StoreUnavailable: the records cannot be reached; the counts are kept.
        """
        with self._lock:
            counts, self._counts, self._is_due = self._counts, Counter(), False
        if not counts:
            return
        try:
            with self._database.writing(wait_s=WAIT_S) as connection:
                more = [Figure(kind, detail=detail, counted=number) for (kind, detail), number in counts.items()]
                figures.add(connection, more)
        except StoreUnavailable:
            with self._lock:
                self._counts.update(counts)
            raise

    def _count(self, kind: Kind, detail: str) -> None:
        with self._lock:
            self._counts[kind, detail] += 1
            if self._is_due:
                return
            self._is_due = True
        timer = threading.Timer(PAUSE_S, self._flush_later)
        timer.daemon = True
        timer.start()

    def _flush_later(self) -> None:
        with suppress(StoreUnavailable):
            self.flush()
