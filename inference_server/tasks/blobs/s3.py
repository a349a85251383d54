"""Blobs in a bucket of an object store that speaks S3; what is being written or read is a file of this machine."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from inference_server.errors import ResultGone
from inference_server.settings import MIB, Settings
from inference_server.tasks.blobs.s3_store import absence, object_errors, open_store
from inference_server.tasks.blobs.staging import KEY, Staging, disk_errors

if TYPE_CHECKING:
    from obstore import Bytes
    from obstore.store import S3Store

PART_BYTES = 8 * MIB
"""Of an upload; ten thousand of them make the largest."""
PARTS = 4
"""Sent at the same time, and so held in memory."""
BLOCK_BYTES = 4 * MIB
"""Asked for at a time, and held in memory, for whoever reads a blob. No request lasts as long as a slow reader does."""
SWEEP_S = 60.0


class S3Blobs:
    """Objects `PREFIX/KEY` of a bucket; objects of other names are left alone.

    An object appears whole or not at all. Staged files lie on this machine alone: each machine removes those that its
    own ended processes have left.

    Args:
        settings: where the bucket is, and who may use it.

    Raises:
        SettingsError: the URL, the endpoint or the certificate cannot be used, or the package for it is missing.
        StoreUnavailable: there is no place for staged files.
    """

    def __init__(self, settings: Settings) -> None:
        self._store = open_store(settings)
        self._staging = Staging(settings.data_dir.absolute() / "staging")
        self._swept_at = -SWEEP_S

    def stage(self) -> Path:
        """Return the path of a new empty file to write into; `put` or `discard` ends it."""
        self._sweep()
        return self._staging.stage()

    def put(self, staged: Path) -> str:
        """Store a staged file, durably, and return its key. The staged path is gone afterwards."""
        import obstore

        key = self._staging.key(staged)
        with object_errors():
            obstore.put(self._store, key, staged, chunk_size=PART_BYTES, max_concurrency=PARTS)
        self._staging.discard(staged)
        return key

    def discard(self, staged: Path) -> None:
        """Remove a staged file, if it is still there."""
        self._staging.discard(staged)

    def open(self, key: str) -> BinaryIO:
        """Open a blob for reading, some MiB of it at a time.

        Raises:
            ResultGone: there is no such blob; while reading: it was deleted meanwhile.
        """
        found = _Object(self._store, _checked(key))
        if found.size <= BLOCK_BYTES:
            return io.BytesIO(found.read(found.size))
        return cast(BinaryIO, io.BufferedReader(found, BLOCK_BYTES))

    @contextmanager
    def as_file(self, key: str) -> Iterator[Path]:
        """Give a blob as a local file for the length of a `with` block. The file must not be changed."""
        self._sweep()
        path = self._staging.stage()
        try:
            with disk_errors(), path.open("wb") as target:
                for piece in self._pieces(_checked(key)):
                    target.write(piece)
            yield path
        finally:
            self._staging.discard(path)

    def delete(self, key: str) -> None:
        """Remove a blob; nothing happens if it is gone already."""
        import obstore

        if not KEY.fullmatch(key):
            return
        with object_errors(), suppress(FileNotFoundError):
            obstore.delete(self._store, key)
        self._staging.delete(key)

    def older_than(self, age_s: float) -> list[str]:
        """Return the keys of blobs, and of staged files of this machine, older than `age_s` seconds."""
        import obstore

        before = time.time() - age_s
        with object_errors():
            found = [
                meta["path"]
                for page in obstore.list(self._store)
                for meta in page
                if KEY.fullmatch(meta["path"]) and meta["last_modified"].timestamp() < before
            ]
        return found + self._staging.older_than(age_s)

    def abandoned(self) -> list[str]:
        """Return the keys of staged files of this machine whose process has ended."""
        return self._staging.abandoned()

    def free_bytes(self) -> int | None:
        """Return the free space for staged files; a bucket has no limit."""
        return self._staging.free_bytes()

    def _pieces(self, key: str) -> Iterator[Bytes]:
        import obstore

        with object_errors(), absence():
            yield from obstore.get(self._store, key).stream(min_chunk_size=BLOCK_BYTES)

    def _sweep(self) -> None:
        """Remove what ended processes of this machine have left: housekeeping may run on another one."""
        if time.monotonic() - self._swept_at >= SWEEP_S:
            self._swept_at = time.monotonic()
            for key in self._staging.abandoned():
                self._staging.delete(key)


class _Object(io.RawIOBase):
    """An object's bytes, asked for as they are read."""

    def __init__(self, store: S3Store, key: str) -> None:
        import obstore

        super().__init__()
        self._store = store
        self._key = key
        self._at = 0
        with object_errors(), absence():
            self.size = obstore.head(store, key)["size"]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence])
        return self._at

    def readall(self) -> bytes:
        return self.read(max(0, self.size - self._at)) or b""

    def readinto(self, buffer: Any) -> int:
        import obstore

        count = min(len(buffer), self.size - self._at)
        if count <= 0:
            return 0
        with object_errors(), absence():
            content = obstore.get_range(self._store, self._key, start=self._at, length=count)
        buffer[: len(content)] = memoryview(content)
        self._at += len(content)
        return len(content)


def _checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise ResultGone
    return key
