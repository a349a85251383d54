"""Inputs that once found a fault, as files, one folder a target: every run begins with them."""

from __future__ import annotations

import hashlib
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")


class Corpus:
    """The inputs of a target.

    Args:
        folder: of all targets.
        target: its name.
    """

    def __init__(self, folder: Path, target: str) -> None:
        self._folder = folder / target.replace(" ", "-")

    def inputs(self) -> list[bytes]:
        """Return all of them."""
        return [path.read_bytes() for path in sorted(self._folder.glob("*.bin"))]

    def keep(self, content: bytes, fault: str, *, instead_of: str | None = None) -> Path:
        """Add an input, named after its fault and content, perhaps in place of a longer one of the same fault."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{_digest(fault.encode())}-{_digest(content)}.bin"
        path.write_bytes(content)
        if instead_of and instead_of != path.name:
            (self._folder / instead_of).unlink()
        return path


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]
