"""What is served for a place: its folder as it lies there, or the copy of its last state that could be served."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from inference_server.errors import InferenceServerError, ModelLoadError
from inference_server.models.copies import Accepted, Copies
from inference_server.models.listing import SETTLE_S, Listing, list_files
from inference_server.models.model import Model, read_manifest, read_model
from inference_server.models.places import NO_MODEL, Place, is_model

log = logging.getLogger(__name__)

POLL_S = 0.05
RETRY_S = 60.0
"""How soon a folder is read again after that failed, if nothing in it changes."""
BEING_WRITTEN = "The folder is still being written to; it is read when nothing has changed in it for a second."
BEING_READ = "The folder is being read."
KEPT = " The version before it stays in service."


@dataclass(frozen=True)
class Seen:
    """What a place was found to be.

    Attributes:
        listing: its files; None where they could not be listed, or have not been yet.
        model: what is served for it.
        problem: why that is not what lies there.
        is_final: whether only a change of the files can change this.
    """

    listing: Listing | None = None
    model: Model | None = None
    problem: str = ""
    is_final: bool = False


class Intake(Protocol):
    """Finds out what is served for a place."""

    def known(self) -> Collection[Place]:
        """Return the places that an earlier process has served."""

    def see(self, place: Place, before: Seen, *, wait: bool) -> Seen:
        """Look at a place again; `wait` means to take what is new in now, not in a thread."""

    def withdraw(self, place: Place) -> None:
        """Note that a place's folder was removed."""

    def prune(self, needed: Collection[str]) -> None:
        """Remove what is kept of states that are not in service and that no task needs, by digest."""

    def note_ensemble(self, whole: Model) -> None:
        """Note what the digest of an ensemble stands for: its own one and its members' ones."""

    def former(self, name: str, version: str, digest: str) -> list[Model]:
        """Return the model that was served under a digest, an ensemble's members after it; nothing if it is gone."""


class Folders:
    """Serves models from where they lie. A broken one is not served."""

    def known(self) -> Collection[Place]:
        return ()

    def see(self, place: Place, before: Seen, *, wait: bool) -> Seen:
        listing = None
        try:
            listing = list_files(place.folder)
            if before.is_final and before.listing == listing:
                return before
            model = read_model(place.folder, default_id=place.id, default_version=place.version)
            return Seen(listing, model, is_final=True)
        except (InferenceServerError, OSError) as error:
            return Seen(listing, problem=_words(error))

    def withdraw(self, place: Place) -> None:
        """Nothing is kept of it."""

    def note_ensemble(self, whole: Model) -> None:
        """Nothing is kept of it."""

    def former(self, name: str, version: str, digest: str) -> list[Model]:
        return []

    def prune(self, needed: Collection[str]) -> None:
        """There is nothing to remove."""


class CopiedFolders:
    """Serves models from copies: what is broken, half copied or changes later never reaches a worker.

    Args:
        copies: where they are.
    """

    def __init__(self, copies: Copies) -> None:
        self._copies = copies
        self._thread: threading.Thread | None = None
        self._refusals: dict[Place, _Refusal] = {}

    def known(self) -> Collection[Place]:
        return self._copies.places()

    def see(self, place: Place, before: Seen, *, wait: bool) -> Seen:
        try:
            listing = _settled(place.folder) if wait else list_files(place.folder)
        except (InferenceServerError, OSError) as error:
            return self._kept(place, None, _words(error))
        if before.is_final and before.listing == listing:
            return before
        accepted = self._copies.accepted(place)
        if accepted and accepted.listing == listing:
            return self._served(accepted)
        if not listing.is_settled:
            return self._kept(place, listing, BEING_WRITTEN)
        if fault := _fault(place):
            return self._kept(place, listing, fault, is_final=True)
        taken = self._take(place, listing) if wait else self._take_later(place, listing)
        return self._kept(place, listing, taken) if isinstance(taken, str) else self._served(taken)

    def withdraw(self, place: Place) -> None:
        self._copies.withdraw(place)

    def note_ensemble(self, whole: Model) -> None:
        parts = [(whole.id, whole.version, whole.own_digest)]
        parts += [(member.id, member.version, member.digest) for member in whole.members]
        self._copies.note_ensemble(whole.digest, parts)

    def former(self, name: str, version: str, digest: str) -> list[Model]:
        found = []
        for id, number, part in self._copies.parts_of(digest) or [(name, version, digest)]:  # noqa: A001
            folder = self._copies.folder_of(part)
            if folder is None:
                return []
            found.append(Model(read_manifest(folder, id, number), folder, part))
        return found

    def prune(self, needed: Collection[str]) -> None:
        self._copies.prune(needed)

    def _served(self, accepted: Accepted) -> Seen:
        try:
            return Seen(accepted.listing, self._model(accepted), is_final=True)
        except InferenceServerError as error:  # it was taken in by a release of the server that read it otherwise
            return Seen(accepted.listing, problem=error.message, is_final=True)

    def _kept(self, place: Place, listing: Listing | None, problem: str, *, is_final: bool = False) -> Seen:
        """Return what was in service before, with what is wrong since."""
        accepted = self._copies.accepted(place)
        model = self._served(accepted).model if accepted else None
        return Seen(listing, model, problem + (KEPT if model else ""), is_final)

    def _model(self, accepted: Accepted) -> Model:
        place, folder = accepted.place, self._copies.folder_of(accepted.digest)
        if folder is None:
            raise ModelLoadError("The server's copy of this folder was removed.")
        return Model(read_manifest(folder, place.id, place.version), folder, accepted.digest)

    def _take(self, place: Place, listing: Listing) -> Accepted | str:
        """Take a place's new state in, or return why that is not possible."""
        try:
            taken = self._copies.take(place, listing, lambda folder: read_manifest(folder, place.id, place.version))
        except (InferenceServerError, OSError) as error:
            self._refusals[place] = _Refusal(listing, time.monotonic() + RETRY_S, _words(error))
            return _words(error)
        log.info("model taken into service", extra={"model": place.id, "digest": taken.digest})
        return taken

    def _take_later(self, place: Place, listing: Listing) -> str:
        """Have a thread take a place's new state in, and return what is to be said meanwhile."""
        refusal = self._refusals.get(place)
        if refusal and refusal.listing == listing and time.monotonic() < refusal.until:
            return refusal.problem
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._take, args=(place, listing), daemon=True, name="intake")
            self._thread.start()
        return BEING_READ


@dataclass(frozen=True)
class _Refusal:
    listing: Listing
    until: float
    problem: str


def _fault(place: Place) -> str | None:
    """Return what is wrong with what lies there, before any of it is copied."""
    if not is_model(place.folder):
        return NO_MODEL
    try:
        read_manifest(place.folder, place.id, place.version)
    except (InferenceServerError, OSError) as error:
        return _words(error)
    return None


def _settled(folder: Path) -> Listing:
    """Return the files of a folder, after a while if it is still being written to."""
    deadline = time.monotonic() + 2 * SETTLE_S
    while not (listing := list_files(folder)).is_settled and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return listing


def _words(error: InferenceServerError | OSError) -> str:
    return error.message if isinstance(error, InferenceServerError) else f"The folder cannot be read: {error.strerror}."
