"""A model: a folder with a manifest. Reading one runs no code of it and needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inference_server.errors import ModelLoadError
from inference_server.models.bundle import derive_manifest, is_bundle, read_mapping
from inference_server.models.files import check_files
from inference_server.models.listing import digest_of, hash_file, list_files
from inference_server.models.manifest import ENSEMBLE, Manifest, parse_manifest
from inference_server.models.nnunet_folder import derive_nnunet, is_nnunet
from inference_server.models.places import MANIFEST
from inference_server.models.runtimes import RUNTIMES


@dataclass(frozen=True)
class Model:
    """One version of a model.

    Attributes:
        manifest: what it declares.
        folder: its files, or the server's copy of them.
        digest: sha256 of the files' names and contents; of an ensemble, of its members' digests too.
        members: of an ensemble that has been completed from them.
        own_digest: of the files alone, where `digest` is more.
    """

    manifest: Manifest
    folder: Path
    digest: str
    members: tuple[Model, ...] = ()
    own_digest: str = ""

    @property
    def id(self) -> str:
        """The name by which a task asks for it."""
        return self.manifest.id

    @property
    def version(self) -> str:
        """Its version."""
        return self.manifest.version


def read_model(folder: Path, *, default_id: str | None = None, default_version: str | None = None) -> Model:
    """Read one model folder.

    Raises:
        ModelLoadError: it cannot be served; the message says what was expected.
        OSError: a file cannot be read.
    """
    entries = list_files(folder).entries
    manifest = read_manifest(folder, default_id or folder.name, default_version)
    return Model(manifest, folder, digest_of({entry.name: hash_file(folder / entry.name) for entry in entries}))


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
