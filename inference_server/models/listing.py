"""The files of a model's folder: their names and states, and the digest of their contents."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from inference_server.errors import ModelLoadError

SETTLE_S = 1.0
"""A folder in which nothing has changed for so long is taken to be complete."""


class Entry(NamedTuple):
    """A file's relative name, and what changes with its content. The change time tells what keeps the other time."""

    name: str
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True)
class Listing:
    """The files of a folder, sorted by name, and when one of them or of its folders changed last."""

    entries: tuple[Entry, ...]
    changed_ns: int = field(default=0, compare=False)

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        return sum(entry.size_bytes for entry in self.entries)

    @property
    def is_settled(self) -> bool:
        """Whether nothing has changed for a moment. A change in the future is one of another machine's clock."""
        return abs(time.time() - self.changed_ns / 1e9) >= SETTLE_S


def list_files(folder: Path) -> Listing:
    """Return the files of a folder and of those in it; links are followed, hidden files and caches left out.

    Raises:
        ModelLoadError: something in it is neither a file nor a folder.
        OSError: it cannot be read.
    """
    entries, changed_ns = [], 0
    for parent, names in _walk(folder):
        changed_ns = max(changed_ns, parent.stat().st_ctime_ns)
        for name in filter(counts, names):
            status = (parent / name).stat()
            if not stat.S_ISREG(status.st_mode):
                raise ModelLoadError("The folder has a device, pipe or socket in it; a model is made of plain files.")
            relative = (parent / name).relative_to(folder).as_posix()
            entries.append(Entry(relative, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
            changed_ns = max(changed_ns, status.st_ctime_ns)
    return Listing(tuple(sorted(entries)), changed_ns)


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(hashes: Mapping[str, str]) -> str:
    """Return the sha256 of names and contents, given each file's sha256 by its name."""
    lines = (f"{name}\0{hashes[name]}\n" for name in sorted(hashes))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def counts(name: str) -> bool:
    """Whether a file or folder of this name is part of a model."""
    return not name.startswith(".") and name != "__pycache__"


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder with its files' names; a folder that links lead to twice comes once."""
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        folders[:] = sorted(name for name in folders if counts(name))
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield Path(parent), names


def _raise(error: OSError) -> None:
    raise error
