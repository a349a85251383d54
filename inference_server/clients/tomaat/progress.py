"""How far a prediction is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Progress:
    """`sending`, with the part of the bytes that is sent, or `computing`."""

    phase: Literal["sending", "computing"]
    fraction: float | None = None


Show = Callable[[Progress], None]
Sent = Callable[[int], None]
"""Called with how many bytes were read to be sent."""


def silent(_: Progress) -> None:
    """Show nothing."""


def counter(total: int, show: Show) -> Sent:
    """Return what counts bytes and shows which part of the total they are."""
    sent = 0

    def count(size: int) -> None:
        nonlocal sent
        sent += size
        show(Progress("sending", min(sent / total, 1.0)))

    return count
