"""Blobs: where bytes live."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from inference_server.errors import SettingsError
from inference_server.settings import Settings
from inference_server.tasks.blobs.local import LocalBlobs
from inference_server.tasks.blobs.s3 import S3Blobs
from inference_server.tasks.blobs.s3_store import PREFIX

__all__ = ["Blobs", "LocalBlobs", "S3Blobs", "blobs_folder", "open_blobs"]


class Blobs(Protocol):
    """A place for immutable byte strings, each under a key that nobody can guess."""

    def stage(self) -> Path:
        """Return the path of a new empty file to write into; `put` or `discard` ends it."""

    def put(self, staged: Path) -> str:
        """Make a staged file durable (fsync) and return its key. The staged path is gone afterwards."""

    def discard(self, staged: Path) -> None:
        """Remove a staged file, if it is still there."""

    def open(self, key: str) -> BinaryIO:
        """Open a blob for reading, from any place in it.

        Raises:
            ResultGone: there is no such blob; in some places also while it is read, if it is deleted meanwhile.
        """

    def as_file(self, key: str) -> AbstractContextManager[Path]:
        """Give a blob as a local file for the length of a `with` block. The file must not be changed."""

    def delete(self, key: str) -> None:
        """Remove a blob; nothing happens if it is gone already."""

    def older_than(self, age_s: float) -> list[str]:
        """Return the keys of blobs and staged files older than `age_s` seconds."""

    def abandoned(self) -> list[str]:
        """Return the keys of staged files whose process has ended."""

    def free_bytes(self) -> int | None:
        """Return the free space, or None where the place has no limit."""


def open_blobs(settings: Settings) -> Blobs:
    """Return the blob store that the settings name: `file:///folder` or `s3://bucket/prefix`.

    Raises:
        SettingsError: the URL is of another kind, or what it needs is not there.
        StoreUnavailable: the folder on this machine cannot be used.
    """
    if settings.blobs.startswith(PREFIX):
        return S3Blobs(settings)
    return LocalBlobs(blobs_folder(settings.blobs))


def blobs_folder(url: str) -> Path:
    """Return the folder that a URL of blobs names; nothing is made or looked at.

    Raises:
        SettingsError: the URL is of another kind.
    """
    if not url.startswith("file:///"):
        raise SettingsError(
            "The setting INFERENCE_SERVER_BLOBS_URL must be a URL, file:///folder or s3://bucket/prefix."
        )
    return Path(url.removeprefix("file://"))
