"""`Bridge`: claims tickets of a DSS server and runs them through the queue of a server of ours."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

from inference_server.clients.dss.bridge.journal import Entry, new_entry
from inference_server.clients.dss.bridge.patience import StoppedError
from inference_server.clients.dss.bridge.run import Desk, TicketRun
from inference_server.clients.native import ServerError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offer:
    """What a bridge claims: tickets of services, by hash, as one instance (`code`) of a provider."""

    services: Sequence[str]
    provider: str
    code: str


class Bridge:
    """Serves tickets, several at once, until it is told to stop; then those in hand wait for the next start."""

    def __init__(self, desk: Desk, offer: Offer, *, at_once: int = 2, poll_s: float = 15.0) -> None:
        """Prepare; nothing is sent yet.

        Args:
            desk: the servers, and the journal, whose tickets are served first.
            offer: what is claimed.
            at_once: how many tickets may be in hand.
            poll_s: how long to wait where no ticket waits.
        """
        self._desk, self._offer = desk, offer
        self._at_once, self._poll_s = at_once, poll_s
        self._lock = threading.Lock()
        self._left = deque(desk.journal.entries())
        self._in_hand: set[int] = set()

    def run(self) -> None:
        """Serve tickets until `stop` is called, from another thread or a signal's handler.

        Raises:
            ServerError: a server refuses for good; tickets in hand wait for the next start.
        """
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="ticket") as pool:
            slots = [pool.submit(self._slot) for _ in range(self._at_once)]
            done, _ = wait(slots, return_when=FIRST_EXCEPTION)
            self.stop()
        for slot in done:
            slot.result()

    def stop(self) -> None:
        """Let every ticket stay where it is, and `run` return."""
        self._desk.patience.end()

    def _slot(self) -> None:
        try:
            while not self._desk.patience.over:
                entry = self._next()
                if entry is None:
                    self._desk.patience.pause(self._poll_s)
                else:
                    self._serve(entry)
        except StoppedError:
            return

    def _serve(self, entry: Entry) -> None:
        try:
            TicketRun(self._desk, entry).serve()
        except OSError as exc:  # such as a full disk
            _log.warning("put off", extra={"ticket": entry.ticket, "reason": exc.strerror})
            self._left.append(entry)
            self._desk.patience.pause(self._poll_s)
        finally:
            self._in_hand.discard(entry.ticket)

    def _next(self) -> Entry | None:
        with self._lock:
            entry = self._left.popleft() if self._left else self._claimed()
            if entry:
                self._in_hand.add(entry.ticket)
            return entry

    def _claimed(self) -> Entry | None:
        """Claim a ticket and write it down; while our own server is away, none is claimed."""
        try:
            self._desk.client.model(self._desk.model)
            claimed = self._desk.provider.claim(self._offer.services, self._offer.provider, self._offer.code)
        except ServerError as error:
            if not self._desk.patience.is_passing(error):
                raise
            _log.warning("waiting for a server", extra={"reason": error.message})
            return None
        if claimed is None or claimed.ticket in self._in_hand:
            return None  # one that timed out while we were away, and came back to us, is in hand already
        entry = new_entry(claimed.ticket, claimed.service)
        self._desk.journal.write(entry)
        _log.info("claimed", extra={"ticket": entry.ticket})
        return entry
