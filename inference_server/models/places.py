"""Places of a repository at which a model is, or should be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from inference_server.models.bundle import is_bundle
from inference_server.models.listing import counts
from inference_server.models.nnunet_folder import is_nnunet

MANIFEST = "model.yaml"
NO_MODEL = f"The folder holds no model: {MANIFEST}, configs/metadata.json or plans.json was expected."


@dataclass(frozen=True)
class Place:
    """A folder that should be a model, and what its place says of the model's id and version."""

    repository: Path
    folder: Path
    id: str
    version: str | None = None


def is_model(folder: Path) -> bool:
    """Whether a folder has what every model has."""
    return (folder / MANIFEST).is_file() or is_bundle(folder) or is_nnunet(folder)


def find_places(folders: Sequence[Path], known: Collection[Place], problems: dict[Path, str]) -> Iterator[Place]:
    """Yield the places of some repositories in their order; what cannot be one is noted.

    A known place stays one while its folder is there, whatever has become of its content, and while nobody can say
    whether it is there.

    Args:
        folders: repositories.
        known: places at which a model was in service.
        problems: by folder; added to.
    """
    for repository in folders:
        of_repository = [place for place in known if place.repository == repository]
        try:
            yield from _places_of(repository, of_repository, problems)
        except FileNotFoundError:
            problems[repository] = "The folder of models does not exist."
            yield from of_repository
        except OSError as error:
            problems[repository] = f"The folder of models cannot be read: {error.strerror}."
            yield from of_repository


def _places_of(repository: Path, known: Collection[Place], problems: dict[Path, str]) -> list[Place]:
    if is_model(repository) or repository in {place.folder for place in known}:
        return [Place(repository, repository, repository.absolute().name)]
    places: list[Place] = []
    for folder in _subfolders(repository):
        try:
            found = _places_in(folder, repository, known)
        except OSError as error:
            problems[folder] = f"The folder cannot be read: {error.strerror}."
            found = [place for place in known if folder in (place.folder, place.folder.parent)]
        if not found:
            problems.setdefault(folder, NO_MODEL)
        places.extend(found)
    return places


def _places_in(folder: Path, repository: Path, known: Collection[Place]) -> list[Place]:
    """Return a model's folder, or the folders of its versions."""
    known_folders = {place.folder for place in known}
    itself = [Place(repository, folder, folder.name)]
    if is_model(folder):
        return itself
    versions = [path for path in _subfolders(folder) if path in known_folders or is_model(path)]
    if not versions and folder in known_folders:
        return itself
    return [Place(repository, version, folder.name, version.name) for version in versions]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and counts(path.name))
