"""What a process has fed and found: a file that grows with it, so that there is one whatever ends the process."""

from __future__ import annotations

import argparse
import faulthandler
import json
import time
from collections import Counter
from pathlib import Path

from fuzz.corpus import Corpus
from fuzz.oracle import Verdict

HANG_S = 240
"""Longest time, whoever else keeps the machine busy, until an input counts as one that hangs, and ends the process."""
EVERY_S = 1.0


class Report:
    """What was fed and found.

    Args:
        path: of the file.
        corpus: keeps the inputs that find faults.
        seconds: how long to feed.
    """

    def __init__(self, path: Path, corpus: Corpus, seconds: float) -> None:
        self._path = path
        self._corpus = corpus
        self._until = time.monotonic() + seconds
        self._last = path.with_suffix(".input").open("wb", buffering=0)  # opening it each time takes a millisecond
        self._written = self._armed = 0.0
        self._outcomes: Counter[str] = Counter()
        self._faults: dict[str, dict[str, object]] = {}
        self._accepted = 0
        self._slowest_s = 0.0
        self._memory_bytes = 0

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._until

    def expect(self, content: bytes) -> None:
        """Lay an input where it is found if it kills this process, which one that hangs does as well."""
        self._last.seek(0)
        self._last.write(content)
        self._last.truncate()
        if time.monotonic() - self._armed > EVERY_S:  # each time makes a thread
            self._armed = time.monotonic()
            faulthandler.dump_traceback_later(HANG_S, exit=True)

    def note(self, content: bytes, verdict: Verdict) -> None:
        """Note what came of it, and keep it if it found a fault."""
        self._outcomes[verdict.outcome] += 1
        self._accepted += verdict.accepted
        self._slowest_s = max(self._slowest_s, verdict.cpu_s)
        self._memory_bytes = max(self._memory_bytes, verdict.memory_bytes)
        if verdict.fault:
            self._keep(content, verdict)
        if verdict.fault or time.monotonic() - self._written > EVERY_S:
            self.write(over=False)

    def write(self, *, over: bool) -> None:
        """Write down what there is so far; `over` says that the process came to its own end."""
        self._written = time.monotonic()
        said = {
            "over": over,
            "inputs": self._outcomes.total(),
            "accepted": self._accepted,
            "outcomes": self._outcomes.most_common(),
            "slowest_s": self._slowest_s,
            "memory_bytes": self._memory_bytes,
            "faults": self._faults,
        }
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(said))
        fresh.replace(self._path)

    def _keep(self, content: bytes, verdict: Verdict) -> None:
        known = self._faults.get(verdict.fault)
        if known is None or len(content) < int(str(known["bytes"])):
            path = self._corpus.keep(content, verdict.fault, instead_of=known and str(known["file"]))
            self._faults[verdict.fault] = {"file": path.name, "bytes": len(content), "detail": verdict.detail}


def options() -> argparse.Namespace:
    """Return what `python -m fuzz` tells the process of a target."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--targets", required=True, help="module that holds it")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--examples", type=int, required=True, help="how many; 0: until the time is up")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--blind", action="store_true", help="without looking at coverage")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True)
    return parser.parse_args()


def report_of(given: argparse.Namespace) -> tuple[Report, Corpus]:
    """Return the report that these options ask for, and the corpus of its target."""
    corpus = Corpus(given.corpus, given.target)
    return Report(given.report, corpus, given.seconds), corpus
