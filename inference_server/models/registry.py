"""The registry: which models there are. Reads files, runs no code of a model and needs no torch."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from inference_server.errors import InferenceServerError, ModelLoadError, UnknownModel
from inference_server.models.bundle import derive_manifest, is_bundle, read_mapping
from inference_server.models.ensembles import resolve
from inference_server.models.files import check_files
from inference_server.models.manifest import ENSEMBLE, Manifest, parse_manifest, version_key
from inference_server.models.nnunet_folder import derive_nnunet, is_nnunet
from inference_server.models.runtimes import RUNTIMES
from inference_server.settings import Settings

ZOO = Path(__file__).parent / "zoo"
MANIFEST = "model.yaml"
RESCAN_S = 1.0

Versions = Mapping[str, "tuple[Model, ...]"]
"""Models by id, the highest version first."""
Listing = tuple[tuple[str, int, int], ...]
"""Relative name, modification time in ns and size of every file of a folder."""


@dataclass(frozen=True)
class Model:
    """One version of a model: its manifest, its folder, and the sha256 of the folder's names and contents."""

    manifest: Manifest
    folder: Path
    digest: str

    @property
    def id(self) -> str:
        """The name by which a task asks for it."""
        return self.manifest.id

    @property
    def version(self) -> str:
        """Its version."""
        return self.manifest.version


@dataclass(frozen=True)
class _Place:
    """A folder that should be a model, and what its place says of the model's id and version."""

    folder: Path
    id: str
    version: str | None = None


@dataclass(frozen=True)
class _Snapshot:
    listings: Mapping[_Place, Listing] = field(default_factory=dict)
    found: Mapping[_Place, Model] = field(default_factory=dict)
    versions: Mapping[str, tuple[Model, ...]] = field(default_factory=dict)
    """Models by id, the highest version first."""
    problems: Mapping[Path, str] = field(default_factory=dict)


class Registry:
    """The models of some repository folders, read again when something in them changes.

    A repository holds model folders (`<model>/`), folders of versions (`<model>/<version>/`), or is itself one model's
    folder. Safe to use from several threads.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._lock = threading.Lock()
        self._snapshot = _Snapshot()
        self._looked_at = -RESCAN_S

    def get(self, id: str, version: str | None = None) -> Model:  # noqa: A002
        """Return a model: the highest version, unless one is named (by `version` or as `id:version`).

        Raises:
            UnknownModel: there is none of this name; the message lists those there are.
        """
        name, _, wanted = id.partition(":")
        for model in self._current().versions.get(name, ()):
            if (version or wanted or model.version) == model.version:
                return model
        known = ", ".join(sorted(self._current().versions)) or "none"
        raise UnknownModel(f"The server does not know the model '{id[:100]}'. Known models: {known}.", field="model")

    def models(self) -> tuple[Model, ...]:
        """Return all versions of all models, sorted by id, the highest version first."""
        versions = self._current().versions
        return tuple(model for name in sorted(versions) for model in versions[name])

    def problems(self) -> Mapping[Path, str]:
        """Return the folders that cannot be served, and why."""
        return self._current().problems

    def scan(self) -> None:
        """Look at the folders and read again what has changed."""
        with self._lock:
            self._snapshot = _scan(self._folders, self._snapshot)
            self._looked_at = time.monotonic()

    def _current(self) -> _Snapshot:
        if time.monotonic() - self._looked_at >= RESCAN_S:
            self.scan()
        return self._snapshot


def open_registry(settings: Settings) -> Registry:
    """Return the registry of the shipped zoo and the operator's own folders; the operator's win."""
    return Registry((*settings.model_folders, *([ZOO] if settings.zoo else [])))


def read_model(folder: Path, *, default_id: str | None = None, default_version: str | None = None) -> Model:
    """Read one model folder.

    Raises:
        ModelLoadError: it cannot be served; the message says what was expected.
    """
    listing = _listing(folder)
    return Model(read_manifest(folder, default_id or folder.name, default_version), folder, _digest(folder, listing))


def read_manifest(folder: Path, default_id: str, default_version: str | None = None) -> Manifest:
    """Derive a folder's manifest; what `model.yaml` says wins.

    Raises:
        ModelLoadError: it is not valid, or the folder lacks what its runtime needs.
    """
    path = folder / MANIFEST
    written, text = (read_mapping(path), path.read_text(encoding="utf-8")) if path.is_file() else ({}, "")
    derived = derive_manifest(folder) if is_bundle(folder) else {}
    if is_nnunet(folder):
        derived = derive_nnunet(folder, written)
    if default_version is not None:
        derived["version"] = default_version
    declared = {"id": default_id, **derived, **written}
    known = (*RUNTIMES, ENSEMBLE)
    if str(declared.get("runtime")) not in known:
        named = f"The runtime '{declared['runtime']}' is unknown" if "runtime" in declared else "No runtime is named"
        raise ModelLoadError(f"{named}. Known runtimes: {', '.join(known)}.")
    manifest = parse_manifest(declared, written=text)
    check_files(manifest, folder)
    return manifest


def _scan(folders: Sequence[Path], before: _Snapshot) -> _Snapshot:
    problems: dict[Path, str] = {}
    listings: dict[_Place, Listing] = {}
    found: dict[_Place, Model] = {}
    for place in _places(folders, problems):
        try:
            listings[place] = _listing(place.folder)
            found[place] = _read_again(place, listings[place], before)
        except InferenceServerError as error:
            problems[place.folder] = error.message
        except OSError as error:
            problems[place.folder] = f"The folder cannot be read: {error.strerror}."
    return _Snapshot(listings, found, _resolved(_by_version(found, problems), problems), problems)


def _read_again(place: _Place, listing: Listing, before: _Snapshot) -> Model:
    if before.listings.get(place) == listing and place in before.found:
        return before.found[place]
    return read_model(place.folder, default_id=place.id, default_version=place.version)


def _by_version(found: Mapping[_Place, Model], problems: dict[Path, str]) -> dict[str, tuple[Model, ...]]:
    versions: dict[str, dict[str, Model]] = {}
    for model in found.values():
        others = versions.setdefault(model.id, {})
        if model.version in others:
            problems[model.folder] = f"Another folder already serves the model {model.id}, version {model.version}."
        else:
            others[model.version] = model
    return {
        name: tuple(sorted(others.values(), key=lambda model: version_key(model.version), reverse=True))
        for name, others in versions.items()
    }


def _resolved(versions: Versions, problems: dict[Path, str]) -> Versions:
    """Complete the ensembles from their members; those that do not fit together are left out."""
    resolved: dict[str, tuple[Model, ...]] = {}
    for name, models in versions.items():
        kept = []
        for model in models:
            try:
                kept.append(_complete(model, versions) if model.manifest.members else model)
            except ModelLoadError as error:
                problems[model.folder] = error.message
        if kept:
            resolved[name] = tuple(kept)
    return resolved


def _complete(model: Model, versions: Versions) -> Model:
    members = [_member(name, versions) for name in model.manifest.members]
    digests = "\n".join([model.digest, *(member.digest for member in members)])
    manifest = resolve(model.manifest, [member.manifest for member in members])
    return Model(manifest, model.folder, hashlib.sha256(digests.encode()).hexdigest())


def _member(name: str, versions: Versions) -> Model:
    member, _, version = name.partition(":")
    found = [model for model in versions.get(member, ()) if version in ("", model.version)]
    if not found:
        raise ModelLoadError(f"The ensemble's member '{name}' is not served here.")
    return found[0]


def _places(folders: Sequence[Path], problems: dict[Path, str]) -> Iterator[_Place]:
    for repository in folders:
        if not repository.is_dir():
            problems[repository] = "The folder of models does not exist."
        elif _is_model(repository):
            yield _Place(repository, repository.absolute().name)
        else:
            for folder in _subfolders(repository):
                yield from _versions(folder, problems)


def _versions(folder: Path, problems: dict[Path, str]) -> Iterator[_Place]:
    if _is_model(folder):
        yield _Place(folder, folder.name)
        return
    inner = [version for version in _subfolders(folder) if _is_model(version)]
    if not inner:
        problems[folder] = f"The folder holds no model: {MANIFEST}, configs/metadata.json or plans.json was expected."
    for version in inner:
        yield _Place(version, folder.name, version.name)


def _is_model(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or is_bundle(folder) or is_nnunet(folder)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and _counts(path.name))


def _counts(name: str) -> bool:
    return not name.startswith(".") and name != "__pycache__"


def _listing(folder: Path) -> Listing:
    entries = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if _counts(name)]
        for name in files:
            if _counts(name):
                path = Path(parent, name)
                status = path.stat()
                if not stat.S_ISREG(status.st_mode):
                    raise ModelLoadError(
                        "The folder has a device, pipe or socket in it; a model is made of plain files."
                    )
                entries.append((path.relative_to(folder).as_posix(), status.st_mtime_ns, status.st_size))
    return tuple(sorted(entries))


def _digest(folder: Path, listing: Listing) -> str:
    digest = hashlib.sha256()
    for name, _, _ in listing:
        with (folder / name).open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()
