"""The registry: which models there are. Reads files, runs no code of a model and needs no torch."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from inference_server.errors import ModelLoadError, SettingsError, UnknownModel
from inference_server.models.copies import Copies
from inference_server.models.ensembles import resolve
from inference_server.models.intake import CopiedFolders, Folders, Intake, Seen
from inference_server.models.manifest import version_key
from inference_server.models.model import Model, read_manifest, read_model
from inference_server.models.places import Place, find_places
from inference_server.settings import Settings

__all__ = ["Model", "Registry", "open_registry", "plain_registry", "read_manifest", "read_model"]

log = logging.getLogger(__name__)

ZOO = Path(__file__).parent / "zoo"
RESCAN_S = 1.0

Versions = Mapping[str, "tuple[Model, ...]"]
"""Models by id, the highest version first."""


@dataclass(frozen=True)
class _Snapshot:
    seen: Mapping[Place, Seen] = field(default_factory=dict)
    versions: Versions = field(default_factory=dict)
    problems: Mapping[Path, str] = field(default_factory=dict)


class Registry:
    """The models of some repository folders, read again when something in them changes.

    A repository holds model folders (`<model>/`), folders of versions (`<model>/<version>/`), or is itself one model's
    folder. Safe to use from several threads.

    Args:
        folders: repositories; of two equal models the first one's is served.
        intake: what is served of a folder; by default what lies in it, and nothing if that is broken.
    """

    def __init__(self, folders: Sequence[Path], intake: Intake | None = None) -> None:
        self._folders = tuple(folders)
        self._intake = intake or Folders()
        self._lock = threading.Lock()
        self._snapshot = _Snapshot({place: Seen() for place in self._intake.known()})
        self._looked_at: float | None = None

    def get(self, id: str, version: str | None = None, digest: str = "") -> Model:  # noqa: A002
        """Return a model: the highest version, unless one is named (by `version` or as `id:version`).

        Args:
            id: its id, or `id:version`.
            version: as a task names it.
            digest: of the state that a task was submitted for; returned if it is still at hand.

        Raises:
            UnknownModel: there is none of this name; the message lists those there are.
            ModelLoadError: the state of this digest cannot be served any more.
        """
        name, _, wanted = id.partition(":")
        wanted = version or wanted
        models = self._current().versions.get(name, ())
        current = next((model for model in models if wanted in ("", model.version)), None)
        if digest and (current is None or current.digest != digest):
            current = self._former(name, wanted, digest) or current
        if current is None:
            known = ", ".join(sorted(self._current().versions)) or "none"
            raise UnknownModel(
                f"The server does not know the model '{id[:100]}'. Known models: {known}.", field="model"
            )
        return current

    def models(self) -> tuple[Model, ...]:
        """Return all versions of all models, sorted by id, the highest version first."""
        versions = self._current().versions
        return tuple(model for name in sorted(versions) for model in versions[name])

    def problems(self) -> Mapping[Path, str]:
        """Return the folders whose content is not served, and why."""
        return self._current().problems

    def scan(self) -> None:
        """Look at the folders and read again what has changed."""
        with self._lock:
            self._look(wait=True)

    def prune(self, needed: Collection[str]) -> None:
        """Remove copies that are not in service and whose digests no task needs."""
        self._intake.prune(needed)

    def _current(self) -> _Snapshot:
        if self._is_due():
            with self._lock:
                if self._is_due():
                    self._look(wait=self._looked_at is None)
        return self._snapshot

    def _is_due(self) -> bool:
        return self._looked_at is None or time.monotonic() - self._looked_at >= RESCAN_S

    def _look(self, *, wait: bool) -> None:
        """Look at every place. The first look waits until what it finds can be served; later ones let nobody wait."""
        problems: dict[Path, str] = {}
        before = self._snapshot
        places = list(find_places(self._folders, before.seen, problems))
        seen = {place: self._intake.see(place, before.seen.get(place, Seen()), wait=wait) for place in places}
        for place in before.seen.keys() - seen.keys():
            if place.repository in self._folders:
                self._intake.withdraw(place)
        problems.update({place.folder: one.problem for place, one in seen.items() if one.problem})
        versions = self._resolved(_by_version(seen, problems), seen, problems)
        for folder in problems.keys() - before.problems.keys():
            log.warning("model folder not served as it is", extra={"folder": str(folder), "why": problems[folder]})
        self._snapshot = _Snapshot(seen, versions, problems)
        self._looked_at = time.monotonic()

    def _resolved(self, versions: Versions, seen: Mapping[Place, Seen], problems: dict[Path, str]) -> Versions:
        """Complete the ensembles from their members; those that do not fit together are left out."""
        folders = {one.model.folder: place.folder for place, one in seen.items() if one.model}
        resolved: dict[str, tuple[Model, ...]] = {}
        for name, models in versions.items():
            kept = []
            for model in models:
                try:
                    kept.append(self._with_members(model, versions) if model.manifest.members else model)
                except ModelLoadError as error:
                    problems[folders[model.folder]] = error.message
            if kept:
                resolved[name] = tuple(kept)
        return resolved

    def _with_members(self, model: Model, versions: Versions) -> Model:
        whole = _complete(model, [_member(name, versions) for name in model.manifest.members])
        self._intake.note_ensemble(whole)
        return whole

    def _former(self, name: str, version: str, digest: str) -> Model | None:
        found = self._intake.former(name, version, digest)
        return _complete(found[0], found[1:]) if len(found) > 1 else next(iter(found), None)


def open_registry(settings: Settings) -> Registry:
    """Return the registry of the shipped zoo and the operator's own folders; the operator's win.

    Its models are served from copies in the data folder, which all processes of a server share.

    Raises:
        SettingsError: the data folder cannot be written to.
    """
    try:
        copies = Copies(settings.data_dir / "models", reserve_bytes=settings.disk_low_bytes)
    except OSError as exc:
        raise SettingsError(f"The data folder {settings.data_dir} cannot be written to: {exc.strerror}.") from exc
    return Registry(_repositories(settings), CopiedFolders(copies))


def plain_registry(settings: Settings) -> Registry:
    """Return a registry of the same models as they lie in their folders; it writes nothing."""
    return Registry(_repositories(settings))


def _repositories(settings: Settings) -> list[Path]:
    folders = [*settings.model_folders, *([ZOO] if settings.zoo else [])]
    return [folder.absolute() for folder in folders]


def _by_version(seen: Mapping[Place, Seen], problems: dict[Path, str]) -> dict[str, tuple[Model, ...]]:
    versions: dict[str, dict[str, Model]] = {}
    for place, model in ((place, one.model) for place, one in seen.items()):
        if model is None:
            continue
        others = versions.setdefault(model.id, {})
        if model.version in others:
            problems[place.folder] = f"Another folder already serves the model {model.id}, version {model.version}."
        else:
            others[model.version] = model
    return {
        name: tuple(sorted(others.values(), key=lambda model: version_key(model.version), reverse=True))
        for name, others in versions.items()
    }


def _complete(model: Model, members: Sequence[Model]) -> Model:
    digests = "\n".join([model.digest, *(member.digest for member in members)])
    return Model(
        manifest=resolve(model.manifest, [member.manifest for member in members]),
        folder=model.folder,
        digest=hashlib.sha256(digests.encode()).hexdigest(),
        members=tuple(members),
        own_digest=model.digest,
    )


def _member(name: str, versions: Versions) -> Model:
    member, _, version = name.partition(":")
    found = [model for model in versions.get(member, ()) if version in ("", model.version)]
    if not found:
        raise ModelLoadError(f"The ensemble's member '{name}' is not served here.")
    return found[0]
