"""Copies of the models in service, from which they are loaded: what is done to their folders cannot break them.

```
<folder>/contents/<sha256>     every file once, whatever number of models and versions has it
        /<digest>/…            a model's folder, made of links to these; never changed
        /accepted/<key>.json   which digest is in service for which place, and the files' states it was taken from
        /ensembles/<digest>.json
```

All processes of a machine share it. Whoever sees a change first takes the new state in, under a lock; the others find
it accepted and read nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from inference_server.errors import ModelLoadError
from inference_server.models.listing import Entry, Listing, digest_of, hash_file, list_files
from inference_server.models.places import Place
from inference_server.models.resources import shown

GRACE_S = 600.0
"""How long a copy that is out of service is kept for those who have just read of it."""
FICLONE = 0x40049409
"""Linux: share the blocks of another file until one of both is written to."""

Part = tuple[str, str, str]
"""Id, version and digest of a model."""


@dataclass(frozen=True)
class Accepted:
    """What is in service for a place: the state of its files, their sha256 by name, and the digest of all."""

    place: Place
    listing: Listing
    hashes: Mapping[str, str]
    digest: str


class Copies:
    """The copies in a folder.

    Args:
        folder: made where it does not exist; for its owner only.
        reserve_bytes: free disk space that is not used for copies.
    """

    def __init__(self, folder: Path, *, reserve_bytes: int = 0) -> None:
        self._folder = folder.absolute()
        self._contents = self._folder / "contents"
        self._records = self._folder / "accepted"
        self._ensembles = self._folder / "ensembles"
        self._reserve_bytes = reserve_bytes
        for path in (self._contents, self._records, self._ensembles):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def places(self) -> list[Place]:
        """Return the places for which something is in service."""
        return [accepted.place for accepted in self._all_accepted()]

    def accepted(self, place: Place) -> Accepted | None:
        """Return what is in service for a place, if anything is and its copy is whole."""
        found = _read_record(self._record_path(place))
        return found if found and found.place == place and self._is_whole(found) else None

    def folder_of(self, digest: str) -> Path | None:
        """Return the folder of a copy, if there is one."""
        folder = self._folder / digest
        return folder if re.fullmatch(r"[0-9a-f]{64}", digest) and folder.is_dir() else None

    def take(self, place: Place, listing: Listing, check: Callable[[Path], object]) -> Accepted:
        """Copy the state that a place's files have and put it in service.

        Args:
            place: which.
            listing: its files, as they were when it was found to be complete.
            check: called with the copy's folder; raises if it cannot be served.

        Raises:
            ModelLoadError: the files changed meanwhile, or the disk is full; and what `check` raises.
            OSError: a file cannot be read or written.
        """
        with self._locked():
            before = self.accepted(place)
            if before and before.listing == listing:
                return before
            self._ensure_room(listing, before)
            taken = self._copied(place, listing, before)
            check(self._folder / taken.digest)
            _write_json(self._record_path(place), _to_json(taken))
            if before and before.digest != taken.digest:
                self._retire(before.digest)
            return taken

    def withdraw(self, place: Place) -> None:
        """Forget a place whose folder was removed."""
        accepted = _read_record(self._record_path(place))
        self._record_path(place).unlink(missing_ok=True)
        if accepted:
            self._retire(accepted.digest)

    def note_ensemble(self, digest: str, parts: Sequence[Part]) -> None:
        """Note what an ensemble's digest stands for: itself, then its members."""
        path = self._ensembles / f"{digest}.json"
        if not path.exists():
            _write_json(path, parts)

    def parts_of(self, digest: str) -> list[Part]:
        """Return what an ensemble's digest stands for; nothing if it is not known."""
        try:
            return [(id, version, part) for id, version, part in json.loads(self._ensemble_text(digest))]  # noqa: A001
        except (OSError, ValueError):
            return []

    def prune(self, needed: Collection[str]) -> None:
        """Remove what is neither in service nor needed; leave it to the next time while something is taken in.

        Args:
            needed: digests that waiting or running tasks name.
        """
        with suppress(BlockingIOError), self._locked(wait=False):
            for accepted in self._all_accepted():
                if accepted.place.repository.is_dir() and not accepted.place.folder.is_dir():
                    self.withdraw(accepted.place)
            parts = {part for digest in needed for _, _, part in self.parts_of(digest)}
            self._prune_folders({*needed, *parts, *(accepted.digest for accepted in self._all_accepted())})
            _remove_if(self._contents, lambda path: path.stat().st_nlink == 1)
            _remove_if(self._ensembles, lambda path: not self._has_all_parts(path.stem))

    def _prune_folders(self, keep: Collection[str]) -> None:
        for path in self._folder.iterdir():
            is_copy = path.name.startswith(".") or self.folder_of(path.name) is not None
            if is_copy and path.name not in keep and time.time() - path.stat().st_mtime > GRACE_S:
                shutil.rmtree(path)

    def _has_all_parts(self, digest: str) -> bool:
        parts = self.parts_of(digest)
        return bool(parts) and all(self.folder_of(part) for _, _, part in parts)

    def _copied(self, place: Place, listing: Listing, before: Accepted | None) -> Accepted:
        hashes = {}
        for entry in listing.entries:
            known = _same_content(entry, before)
            hashes[entry.name] = known or self._store(place.folder / entry.name)
        if list_files(place.folder) != listing:
            raise ModelLoadError("The folder changed while it was read.")
        digest = digest_of({name: sha.removesuffix("x") for name, sha in hashes.items()})
        taken = Accepted(place, listing, hashes, digest)
        self._assemble(taken)
        return taken

    def _store(self, source: Path) -> str:
        """Copy a file's content and return its name: its sha256, and an `x` where it can be executed."""
        staged = self._contents / f".{uuid4().hex}"
        executable = os.access(source, os.X_OK)
        with source.open("rb") as read, staged.open("xb") as write:
            if not _share_blocks(read.fileno(), write.fileno()):
                shutil.copyfileobj(read, write, 1024**2)
            write.flush()
            os.fsync(write.fileno())
        name = hash_file(staged) + ("x" if executable else "")
        staged.chmod(0o555 if executable else 0o444)
        target = self._contents / name
        if target.exists() and target.stat().st_size == staged.stat().st_size:
            staged.unlink()
        else:
            staged.rename(target)
        return name

    def _assemble(self, taken: Accepted) -> None:
        target = self._folder / taken.digest
        if self._is_whole(taken):
            self._retire(taken.digest)  # it was out of service and is young again
            return
        partial = self._folder / f".{uuid4().hex}"
        for name, content in taken.hashes.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).hardlink_to(self._contents / content)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)

    def _retire(self, digest: str) -> None:
        """Have a copy's time of grace begin."""
        with suppress(FileNotFoundError):
            os.utime(self._folder / digest)

    def _ensure_room(self, listing: Listing, before: Accepted | None) -> None:
        needed = sum(entry.size_bytes for entry in listing.entries if not _same_content(entry, before))
        room = shutil.disk_usage(self._folder).free - self._reserve_bytes
        if needed > room:
            raise ModelLoadError(
                f"The server keeps a copy of every model, for which there is no space: {shown(needed)} are needed and "
                f"{shown(max(0, room))} are left on the disk of the data folder."
            )

    def _is_whole(self, accepted: Accepted) -> bool:
        """Whether all files are there in their full size, also after a power cut."""
        folder = self._folder / accepted.digest
        try:
            return all((folder / entry.name).stat().st_size == entry.size_bytes for entry in accepted.listing.entries)
        except OSError:
            return False

    def _all_accepted(self) -> list[Accepted]:
        return [found for path in self._records.glob("*.json") if (found := _read_record(path))]

    def _record_path(self, place: Place) -> Path:
        key = hashlib.sha256(f"{place.repository}\0{place.folder}".encode()).hexdigest()[:32]
        return self._records / f"{key}.json"

    def _ensemble_text(self, digest: str) -> str:
        return (self._ensembles / f"{digest}.json").read_text()

    @contextmanager
    def _locked(self, *, wait: bool = True) -> Iterator[None]:
        with (self._folder / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield


def _same_content(entry: Entry, before: Accepted | None) -> str | None:
    """Return the content of a file that is as it was before."""
    return before.hashes[entry.name] if before and entry in before.listing.entries else None


def _share_blocks(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError:  # not on this file system, or not across two
        return False
    return True


def _remove_if(folder: Path, superfluous: Callable[[Path], bool]) -> None:
    for path in folder.iterdir():
        if superfluous(path):
            path.unlink()


def _write_json(path: Path, content: object) -> None:
    partial = path.with_name(f".{uuid4().hex}")
    with partial.open("x") as stream:
        json.dump(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(path)


def _to_json(accepted: Accepted) -> dict[str, object]:
    place = accepted.place
    return {
        "repository": str(place.repository),
        "folder": str(place.folder),
        "id": place.id,
        "version": place.version,
        "digest": accepted.digest,
        "files": [[*entry, accepted.hashes[entry.name]] for entry in accepted.listing.entries],
    }


def _read_record(path: Path) -> Accepted | None:
    try:
        found = json.loads(path.read_text())
        place = Place(Path(found["repository"]), Path(found["folder"]), found["id"], found["version"])
        entries = tuple(Entry(*facts) for *facts, _ in found["files"])
        hashes = {facts[0]: facts[-1] for facts in found["files"]}
        return Accepted(place, Listing(entries), hashes, found["digest"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
