"""A target: something that reads bytes from outside, with inputs to begin with and ways to damage them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

SECRET = "Doe^Jane"
"""What stands in the seeds wherever a patient's data may; no sentence of ours may repeat it."""


class Broken(AssertionError):
    """The server read an input, but what it made of it is not what it promises."""


@dataclass(frozen=True)
class Target:
    """What is fed, and with what.

    Attributes:
        name: its name in the table, on the command line and in the corpus.
        seeds: makes valid inputs to begin with. Called once a process.
        run: reads an input, with a folder that it may write to and must leave as it was. Returns a word for what it
            was; raises an error of ours for what it refuses, and `Broken` where a promise is broken.
        mutate: returns an input with something damaged, knowing how it is built.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    run: Callable[[bytes, Path], str]
    mutate: Callable[[bytes, Random], bytes]


def expect(true: bool, sentence: str) -> None:
    """Raise `Broken` with the sentence unless it is true."""
    if not true:
        raise Broken(sentence)
