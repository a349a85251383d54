"""What an input makes this process do beside answering: files it touches, processes, sockets, memory, time."""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
READABLE = tuple(
    str(place)
    for place in {ROOT, sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), "/proc/self", "/dev/urandom"}
)
"""Code is loaded late, and the kernel tells a process about itself."""
FORBIDDEN = (
    "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.", "socket.connect",
    "socket.bind", "socket.getaddrinfo", "urllib.", "ctypes.dlopen", "pickle.find_class",
)  # fmt: skip
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "os.chown", "os.utime", "shutil.")  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Seen:
    """What one input did."""

    cpu_s: float = 0.0
    memory_bytes: int = 0
    deeds: list[str] = field(default_factory=list)


class Watch:
    """Watches this process for good: Python's audit hooks cannot be removed.

    Args:
        folder: the only one that may be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: Seen | None = None
        tempfile.tempdir = str(folder)
        sys.addaudithook(self._note)

    @contextmanager
    def look(self) -> Iterator[Seen]:
        """Watch what happens in the block, and that it leaves the folder empty; the deeds are in words."""
        seen = Seen()
        before = _start_of_peak()
        began = time.process_time()
        self._seen = seen
        try:
            yield seen
        finally:
            self._seen = None
            seen.cpu_s = time.process_time() - began
            seen.memory_bytes = _peak_bytes() - before
            seen.deeds.extend(f"left {path.name} behind" for path in self._emptied())

    def _emptied(self) -> list[Path]:
        left = list(self.folder.iterdir())
        for path in left:
            path.unlink()
        return left

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._seen is None:
            return
        if event == "open":
            self._note_open(*arguments)
        elif event.startswith(FORBIDDEN):
            self._seen.deeds.append(f"did {event}")
        elif event.startswith(CHANGES) and not self._is_ours(_changed(event, arguments)):
            self._seen.deeds.append(f"did {event} outside its folder")

    def _note_open(self, path: object, mode: str | None, flags: int) -> None:
        if isinstance(path, int) or self._is_ours(path):
            return
        assert self._seen
        if flags & WRITING:
            self._seen.deeds.append("wrote outside its folder")
        elif not os.path.abspath(os.fsdecode(path)).startswith(READABLE):  # type: ignore[arg-type]  # noqa: PTH100
            self._seen.deeds.append("read outside its folder")

    def _is_ours(self, path: object) -> bool:
        if isinstance(path, int):
            return True
        # Not pathlib, which would look at links, and be seen doing so.
        place = os.path.abspath(os.fsdecode(path))  # type: ignore[arg-type]  # noqa: PTH100
        return place == str(self.folder) or place.startswith(f"{self.folder}{os.sep}")


def _changed(event: str, arguments: tuple[Any, ...]) -> object:
    """Return the path that is changed; what a folder holds is removed by names within it, and its descriptor."""
    path, folder = arguments[0], arguments[1] if event in ("os.remove", "os.rmdir") else -1
    return path if folder < 0 else f"{os.readlink(f'/proc/self/fd/{folder}')}{os.sep}{os.fsdecode(path)}"  # noqa: PTH115


def _start_of_peak() -> int:
    """Let the kernel forget how much memory this process has had at most, and return how much it has."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_bytes()


def _peak_bytes() -> int:
    with Path("/proc/self/status").open("rb") as status:
        line = next(line for line in status if line.startswith(b"VmHWM:"))
    return int(line.split()[1]) * 1024
