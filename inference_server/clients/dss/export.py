"""A workspace on its way to a server: its images as NIfTI files under names that tell nothing of the patient."""

from __future__ import annotations

import hashlib
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from isal import igzip

from inference_server.errors import BadRequest, InvalidVolume, MalformedMessage
from inference_server.imaging.nifti import open_voxels
from inference_server.imaging.nifti_header import HEADER_BYTES, byte_order
from inference_server.imaging.workspace import Folder, Workspace, read_workspace, write_workspace

_BLOCK_BYTES = 1 << 20
_COMPRESSION = 1
_TEXTS = (slice(4, 39), slice(148, 252), slice(328, 344))
"""Where a NIfTI header has words: who made it, of whom, from which file."""
_OFFSET = slice(108, 112)


@contextmanager
def exported(workspace: Path, name: str) -> Iterator[list[Path]]:
    """Give copies of a workspace and its images, in a folder that goes with the `with` block.

    Images are called `layer_<number>_<MD5 of the voxels>.nii.gz`, as ITK-SNAP calls them. Of a NIfTI file the voxels
    and the geometry stay as they are, byte for byte, and its words are left out; of other formats all but voxels and
    geometry.

    Args:
        workspace: a file that ITK-SNAP saved.
        name: what its copy is called.

    Yields:
        The images in the order of the layers, then the workspace.

    Raises:
        BadRequest: the workspace, or an image of it, is not there.
        MalformedMessage: the workspace or an image is damaged.
        InvalidVolume: an image cannot be read.
    """
    found = _read(workspace)
    with tempfile.TemporaryDirectory(prefix="dss-") as scratch:
        folder = Path(scratch)
        images = [_exported_image(found.path_of(layer), folder, number) for number, layer in enumerate(found.layers)]
        layers = tuple(
            replace(layer, path=str(image), other=layer.other.with_folder("IOHints", Folder()))
            for layer, image in zip(found.layers, images, strict=True)
        )
        copy = folder / name
        write_workspace(_without_meshes(replace(found, layers=layers)).flattened(), copy)
        yield [*images, copy]


def _read(workspace: Path) -> Workspace:
    try:
        return read_workspace(workspace)
    except OSError as exc:
        raise BadRequest(f"The workspace cannot be read: {exc.strerror}.", field="workspace") from exc


def _without_meshes(workspace: Workspace) -> Workspace:
    """Return the workspace without the paths of meshes, which are not sent."""
    folders = {name: folder for name, folder in workspace.other.folders.items() if name != "MeshLayers"}
    return replace(workspace, other=replace(workspace.other, folders=folders))


def _exported_image(source: Path, folder: Path, number: int) -> Path:
    draft = folder / "image.nii.gz"
    try:
        digest = _copied(source, draft)
    except (InvalidVolume, MalformedMessage):
        digest = _converted(source, draft, number)
    except OSError as exc:
        raise BadRequest(f"The image of layer {number} is not where the workspace says.", field="workspace") from exc
    return draft.rename(folder / f"layer_{number:03d}_{digest}.nii.gz")


def _copied(source: Path, target: Path) -> str:
    """Copy a NIfTI file without its words; returns the digest of the voxels as they are stored."""
    digest = hashlib.md5(usedforsecurity=False)
    with open_voxels(source) as (header, voxels), target.open("wb") as file, _gzip(file) as packed:
        packed.write(_without_words(header.raw) + bytes(4))
        left = int(np.prod(header.geometry.shape, dtype=object)) * header.dtype.itemsize
        while left:
            block = voxels.read(min(left, _BLOCK_BYTES))
            if not block:
                raise MalformedMessage("The image is cut off: it has fewer voxels than it declares.")
            left -= len(block)
            digest.update(block)
            packed.write(block)
    return digest.hexdigest()


def _gzip(file: object) -> igzip.IGzipFile:
    return igzip.IGzipFile(filename="", fileobj=file, mode="wb", compresslevel=_COMPRESSION, mtime=0)


def _without_words(raw: bytes) -> bytes:
    header = bytearray(raw)
    for place in _TEXTS:
        header[place] = bytes(place.stop - place.start)
    header[_OFFSET] = struct.pack(f"{byte_order(raw)}f", HEADER_BYTES + 4)
    return bytes(header)


def _converted(source: Path, target: Path, number: int) -> str:
    """Write another format as NIfTI; returns the digest of the voxels."""
    import SimpleITK as sitk  # noqa: N813 - 0.2 s, and only here

    try:
        image = sitk.ReadImage(str(source))
    except RuntimeError as exc:
        raise InvalidVolume(
            f"The image of layer {number} cannot be read: it is damaged, sheared, or in a format that is unknown here."
        ) from exc
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    sitk.WriteImage(image, str(target), useCompression=True)
    return hashlib.md5(sitk.GetArrayViewFromImage(image), usedforsecurity=False).hexdigest()
