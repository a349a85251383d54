"""One target in a process of its own, which an input may kill: `python -m fuzz.feeding TARGET …`."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

LARGEST_BYTES = 64 * 1024
"""Inputs grow no further."""
BATCH = 500
INSTRUMENTED = ["fuzz", "inference_server", "zipfile", "werkzeug", "json", "gzip"]
"""Packages whose coverage guides: nothing of them may be loaded before Atheris is."""


class Feeding:
    """A target that is fed; its libraries are loaded with it.

    Args:
        given: options of the process.
        folder: the one that inputs may write to.
    """

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        from fuzz.oracle import judge, tried
        from fuzz.report import report_of
        from fuzz.watch import Watch

        self.given = given
        self.target = importlib.import_module(given.targets).TARGETS[given.target]
        self.report, self._corpus = report_of(given)
        self._watch = Watch(folder)
        self._judge, self._tried = judge, tried

    def begin(self) -> list[bytes]:
        """Feed the seeds, unjudged the first time since libraries load with them, and the corpus; return all."""
        seeds = list(self.target.seeds())
        for content in seeds:
            self._tried(self.target, content, self._watch.folder)
        beginnings = [*seeds, *self._corpus.inputs()]
        for content in beginnings:
            self.feed(content)
        return beginnings

    def feed(self, content: bytes) -> None:
        """Feed one input."""
        self.report.expect(content)
        self.report.note(content, self._judge(self.target, content, self._watch))


def by_hypothesis(feeding: Feeding) -> None:
    """Feed damaged seeds as Hypothesis chooses them, a number of them or until the time is up."""
    from hypothesis import strategies as st

    from fuzz.chance import feed

    beginnings = feeding.begin()

    def one(beginning: bytes, times: int, random: Random) -> None:
        content = beginning
        for _ in range(times):
            content = feeding.target.mutate(content, random)[:LARGEST_BYTES]
        if not feeding.report.over:
            feeding.feed(content)

    inputs = (st.sampled_from(beginnings), st.integers(1, 4), st.randoms(use_true_random=False))
    for number, count in enumerate(_batches(feeding), feeding.given.seed * 10_000):
        feed(one, *inputs, count=count, number=number)


def _batches(feeding: Feeding) -> Iterator[int]:
    if feeding.given.examples:
        yield feeding.given.examples
        return
    while not feeding.report.over:
        yield BATCH


def by_coverage(feeding: Feeding, folder: Path) -> None:
    """Feed what Atheris makes of the seeds, guided by what code they reach, until the time is up; ends the process."""
    import atheris

    for content in feeding.begin():
        (folder / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)

    def one(content: bytes) -> None:
        feeding.feed(content)
        if feeding.report.over:
            feeding.report.write(over=True)
            os._exit(0)  # from in here nothing else ends libFuzzer without an error

    def mutate(content: bytes, limit: int, number: int) -> bytes:
        random = Random(number)
        if random.random() < 0.1:
            return bytes(atheris.Mutate(content, limit))
        return bytes(feeding.target.mutate(content, random)[:limit])

    flags = (
        f"-max_len={LARGEST_BYTES}",
        f"-seed={feeding.given.seed}",
        "-timeout=0",
        "-rss_limit_mb=0",
        "-verbosity=0",
    )
    atheris.Setup([sys.argv[0], *flags, f"-artifact_prefix={folder}/", str(folder)], one, custom_mutator=mutate)
    atheris.Fuzz()


def _instrumented(given: argparse.Namespace, folder: Path) -> Feeding:
    import atheris

    for name in [name for name in sys.modules if name.split(".")[0] in INSTRUMENTED]:
        del sys.modules[name]
    with atheris.instrument_imports(include=INSTRUMENTED):
        return Feeding(given, folder)


def _options() -> argparse.Namespace:
    from fuzz.report import options

    return options()


def main() -> None:
    """Feed one target."""
    given = _options()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, tempfile.TemporaryDirectory(prefix="seeds-") as seeds:
        if not given.blind:
            by_coverage(_instrumented(given, Path(folder)), Path(seeds))
        feeding = Feeding(given, Path(folder))
        by_hypothesis(feeding)
        feeding.report.write(over=True)


if __name__ == "__main__":
    main()
