"""Zip archives from outside, read without trusting anything they say of themselves."""

from __future__ import annotations

import errno
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO

from inference_server.errors import BadRequest, MalformedMessage, TooLarge
from inference_server.imaging.sizes import size_text

_BUFFER_BYTES = 256 * 1024
_DIRECTORY_BYTES_PER_MEMBER = 1024
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Archive:
    """An open zip whose members are plain files, at its top level or in folders that were allowed. A context manager.

    `names` holds the members' names in the archive's order. No message names a member, since a name may be a
    contour's and carry a patient's data.
    """

    def __init__(self, file: IO[bytes], zip_file: zipfile.ZipFile) -> None:
        self.names = tuple(info.filename for info in zip_file.infolist() if not info.is_dir())
        self._file = file
        self._zip = zip_file

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._zip.close()
        self._file.close()

    def size_bytes(self, name: str) -> int:
        """Return how large a member declares to be, unpacked; it never gives more."""
        return self._zip.getinfo(name).file_size

    def open(self, name: str) -> BinaryIO:
        """Return a member's bytes as a buffered stream.

        The stream raises:
            MalformedMessage: the member is damaged, cut off, or larger than declared (what all members declare was
                compared with the archive's limit when it was opened).
        """
        with _zip_errors():
            member = self._zip.open(name)
        return io.BufferedReader(_Bounded(member, self.size_bytes(name)), _BUFFER_BYTES)

    def read(self, name: str, limit_bytes: int) -> bytes:
        """Return a member's bytes.

        Raises:
            MalformedMessage: the member is damaged or cut off.
            TooLarge: it has more than `limit_bytes`.
        """
        with self.open(name) as stream:
            content = stream.read(limit_bytes + 1)
        if len(content) > limit_bytes:
            raise TooLarge(
                f"A member of the zip has more than {size_text(limit_bytes)}, which is too large for its kind."
            )
        return content


def open_archive(path: Path, *, member_limit: int, unpacked_limit_bytes: int, folders: Collection[str] = ()) -> Archive:
    """Open a zip from outside.

    Args:
        path: the file.
        member_limit: most members.
        unpacked_limit_bytes: most bytes that all members together may unpack to; none gives more than it declares.
        folders: names of folders that members may be in.

    Raises:
        MalformedMessage: the file is no zip, is cut off, or two members have the same name.
        BadRequest: a member is encrypted, a link, in another folder, or its name leads out of the archive.
        TooLarge: there are more members or bytes than the limits allow.
    """
    with ExitStack() as on_error:
        file = on_error.enter_context(_GuardedFile(path, member_limit * _DIRECTORY_BYTES_PER_MEMBER + _BUFFER_BYTES))
        with _zip_errors():
            zip_file = zipfile.ZipFile(file)
        file.guarded = False
        _check_members(zip_file.infolist(), member_limit, unpacked_limit_bytes, folders)
        on_error.pop_all()
    return Archive(file, zip_file)


def _check_members(
    members: list[zipfile.ZipInfo], member_limit: int, unpacked_limit_bytes: int, folders: Collection[str]
) -> None:
    if len(members) > member_limit:
        raise TooLarge(f"The zip has {len(members)} members; this server takes {member_limit} at most.")
    for member in members:
        _check_member(member, folders)
    if len({member.filename for member in members}) < len(members):
        raise MalformedMessage("The zip has two members of the same name; each name may be there once.")
    declared = sum(member.file_size for member in members)
    if declared > unpacked_limit_bytes:
        raise TooLarge(f"The zip unpacks to more than the {size_text(unpacked_limit_bytes)} that this server takes.")


def _check_member(member: zipfile.ZipInfo, folders: Collection[str]) -> None:
    folder, sign, name = member.orig_filename.partition("/")
    if not sign or folder not in folders:
        name = member.orig_filename
    elif not name:
        return
    if not name.strip() or name in (".", "..") or any(sign in name for sign in "/\\\0"):
        raise BadRequest("A flat zip was expected; this one has a folder, a path or an empty name in it.")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise BadRequest("A zip of plain files was expected; this one has a link or another special file in it.")
    if member.flag_bits & _ENCRYPTED:
        raise BadRequest("The zip is encrypted. Please send it without a password.")
    if member.compress_type not in _METHODS:
        raise BadRequest("The zip uses a rare compression. Please make it with deflate, or without compression.")


class _GuardedFile(io.FileIO):
    """A file that, while guarded, refuses to be read in one piece larger than `limit_bytes`.

    `zipfile` reads the whole directory at the size the archive declares and makes an object per entry, before
    anybody can count them.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        super().__init__(path)
        self.guarded = True
        self._limit_bytes = limit_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        if self.guarded and size is not None and size > self._limit_bytes:
            raise TooLarge("The zip has more members than this server takes.")
        return super().read(-1 if size is None else size)


class _Bounded(io.RawIOBase):
    """A member's bytes, counted as they come out: no more of them than the archive's directory declares."""

    def __init__(self, member: IO[bytes], declared_bytes: int) -> None:
        self._member: Any = member
        self._left_bytes = declared_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        with _zip_errors():
            content = self._member.read1(len(buffer))
        self._left_bytes -= len(content)
        if self._left_bytes < 0:
            raise MalformedMessage("A member of the zip is larger than the zip declares; the file is damaged.")
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._member.close()
        super().close()


_MALFORMED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
)
"""What `zipfile` raises for a file that is no zip, is damaged, encrypted, or packed in a way that it does not know."""


@contextmanager
def _zip_errors() -> Iterator[None]:
    """Causes are left out, because `zipfile` quotes members' names."""
    sentence = "The file is not a zip, or it is damaged or cut off. Please send it again."
    try:
        yield
    except _MALFORMED:
        raise MalformedMessage(sentence) from None
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # what a seek to a place before the file gives
            raise
        raise MalformedMessage(sentence) from None
