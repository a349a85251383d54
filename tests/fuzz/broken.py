"""Targets with faults, to see that each is found: a fuzzer that finds nothing may also be one that does not look."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from fuzz.noise import damage
from fuzz.target import SECRET, Broken, Target
from inference_server.errors import InferenceServerError, MalformedMessage, StoreUnavailable

SEED = b"seed"


def _divides(_content: bytes, _folder: Path) -> None:
    raise ZeroDivisionError


def _breaks(_content: bytes, _folder: Path) -> None:
    raise Broken("two and two are five")


def _says(error: InferenceServerError, _content: bytes, _folder: Path) -> None:
    raise error


def _writes(_content: bytes, folder: Path) -> None:
    outside = folder.parent / f"{folder.name}-outside"
    outside.write_bytes(b"")
    outside.unlink()


def _leaves(_content: bytes, folder: Path) -> None:
    (folder / "rest").touch()


def _reads(_content: bytes, _folder: Path) -> None:
    Path("/etc/hostname").read_bytes()


def _eats(_content: bytes, _folder: Path) -> None:
    b"x" * (100 * 1024**2)


def _dawdles(_content: bytes, _folder: Path) -> None:
    until = time.process_time() + 2.2
    while time.process_time() < until:
        pass


def _dies(_content: bytes, _folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS: dict[str, tuple[Callable[[bytes, Path], None], str]] = {
    "divides": (_divides, "ZeroDivisionError in broken.py, _divides: "),
    "breaks": (_breaks, "Broken in broken.py, _breaks: two and two are five"),
    "quotes": (partial(_says, MalformedMessage(f"The name {SECRET} is bad.")), "repeats a patient's data"),
    "mumbles": (partial(_says, MalformedMessage("Bad file /srv/data/x.")), "says what no clinician reads"),
    "shouts": (partial(_says, StoreUnavailable()), "StoreUnavailable in broken.py"),
    "writes": (_writes, "wrote outside its folder"),
    "leaves": (_leaves, "left rest behind"),
    "reads": (_reads, "read outside its folder"),
    "eats": (_eats, "takes too much memory"),
    "dawdles": (_dawdles, "takes too long"),
    "dies": (_dies, "ended its process (-9)"),
}
"""What each does when it is fed anything but the seed, and what must be said of it."""


def _run(fault: Callable[[bytes, Path], None], content: bytes, folder: Path) -> str:
    if content != SEED:
        fault(content, folder)
    return "seed"


def _mutate(content: bytes, random: Random) -> bytes:
    return damage(content, random) + b"."


TARGETS = {name: Target(name, lambda: [SEED], partial(_run, fault), _mutate) for name, (fault, _said) in FAULTS.items()}
