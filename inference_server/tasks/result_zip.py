"""The zip of a result, as the MIM dialect has it: pairs of a label volume and the names of its labels.

Meshes and transforms are in folders beside them.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from inference_server.errors import MalformedMessage
from inference_server.imaging.archive import Archive, open_archive
from inference_server.imaging.nifti import read_volume, write_labels
from inference_server.imaging.transforms import write_transform
from inference_server.models.case import Result, Segmentation
from inference_server.models.manifest import LabelName
from inference_server.models.mesh import Mesh, write_vtk
from inference_server.tasks.case_files.meta import decode_object
from inference_server.tasks.case_files.names import TRANSFORMS

if TYPE_CHECKING:
    from SimpleITK import Transform

CLASSES = "classifications.csv"
MESHES = "meshes"
FOLDERS = (MESHES, TRANSFORMS)
_MEMBER_LIMIT = 4096
_UNPACKED_LIMIT_BYTES = 64 * 1024**3
_JSON_LIMIT_BYTES = 16 * 1024**2
_LABELS = ".nii.gz"
_LABEL = re.compile("[0-9]{1,5}")


@dataclass(frozen=True)
class Content:
    """What a member of a result's zip is.

    `name` is that of the segmentation, or the model's own one of a mesh or transform; `label` the label's of which a
    mesh is the surface.
    """

    kind: Literal["labels", "mesh", "transform"]
    name: str
    member: str
    label: str | None = None

    @property
    def record(self) -> dict[str, str]:
        """The same for a task's report."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def write_result(path: Path, result: Result, *, with_surfaces: bool = False) -> tuple[Content, ...]:
    """Write segmentations, classes, meshes and transforms of a result, without compressing gzipped ones again.

    A segmentation becomes ``NAME.nii.gz`` and ``NAME.json``, which maps every label value to its name. No other JSON
    may be in this zip: a fielded MIM client takes each for the names of a label volume. Classes stand in
    `classifications.csv`, meshes in ``meshes/NAME.vtk``, transforms in ``transforms/NAME`` with `.mat` (linear),
    `.nii.gz` (displacement fields) or `.h5` (others).

    Args:
        path: the file to write.
        result: what the model gave.
        with_surfaces: whether the surface of each label is among the meshes.

    Returns:
        What the members are.

    Raises:
        InvalidVolume: labels are not uint8 or uint16, or larger than NIfTI can say.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        writer = _Writer(archive)
        labels = [writer.labels(segmentation) for segmentation in result.segmentations]
        if result.classifications:
            archive.writestr(zipfile.ZipInfo(CLASSES), _table(result.classifications))
        surfaces = [writer.surfaces(segmentation) for segmentation in result.segmentations if with_surfaces]
        meshes = [writer.mesh(name, name, mesh) for name, mesh in result.meshes.items()]
        transforms = [writer.transform(name, transform) for name, transform in result.transforms.items()]
    return (*labels, *chain.from_iterable(surfaces), *meshes, *transforms)


def read_result(path: Path) -> tuple[Segmentation, ...]:
    """Read the segmentations of a result; their colours and codes are not in the zip and come as defaults.

    Raises:
        MalformedMessage: the zip is damaged, or a member is not what it should be.
        InvalidVolume: a label volume is not a valid one.
    """
    with open_result(path) as archive:
        stems = [name.removesuffix(".json") for name in archive.names if name.endswith(".json")]
        return tuple(_read_segmentation(archive, stem) for stem in stems)


def open_result(path: Path) -> Archive:
    """Open the zip of a result.

    Raises:
        MalformedMessage: it is damaged.
    """
    return open_archive(path, member_limit=_MEMBER_LIMIT, unpacked_limit_bytes=_UNPACKED_LIMIT_BYTES, folders=FOLDERS)


def names_of(archive: Archive, member: str) -> dict[int, str]:
    """Return what the values of a label volume, a member of a result's zip, mean.

    Raises:
        MalformedMessage: that is damaged.
    """
    stem = member.removesuffix(_LABELS)
    said = decode_object(archive.read(stem + ".json", _JSON_LIMIT_BYTES), field=stem + ".json")
    if not all(_LABEL.fullmatch(value) and _is_text(name) for value, name in said.items()):
        raise MalformedMessage("Names by label value were expected beside a label volume.")
    return {int(value): name for value, name in said.items()}


class _Writer:
    """Adds members, whose names are files' names on every system."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._taken: set[str] = set()

    def labels(self, segmentation: Segmentation) -> Content:
        stem = _unused_stem(segmentation.name, self._taken)
        member = zipfile.ZipInfo(stem + _LABELS)
        with self._archive.open(member, "w", force_zip64=_is_large(segmentation)) as stream:
            write_labels(stream, segmentation.labels)  # type: ignore[arg-type]
        names = {str(value): label.name for value, label in segmentation.names.items()}
        self._archive.writestr(zipfile.ZipInfo(stem + ".json"), json.dumps(names))
        return Content("labels", segmentation.name, member.filename)

    def surfaces(self, segmentation: Segmentation) -> list[Content]:
        from inference_server.models.surfaces import surfaces

        return [
            self.mesh(f"{segmentation.name} {label}", segmentation.name, mesh, label)
            for value, mesh in surfaces(segmentation)
            for label in [segmentation.names[value].name]
        ]

    def mesh(self, stem: str, name: str, mesh: Mesh, label: str | None = None) -> Content:
        member = zipfile.ZipInfo(_unused_stem(stem, self._taken, folder=MESHES) + ".vtk")
        member.compress_type = zipfile.ZIP_DEFLATED
        with self._archive.open(member, "w", force_zip64=True) as stream:
            write_vtk(stream, mesh)
        return Content("mesh", name, member.filename, label)

    def transform(self, name: str, transform: Transform) -> Content:
        with tempfile.TemporaryDirectory() as folder:
            file = write_transform(Path(folder), transform)
            member = _unused_stem(name, self._taken, folder=TRANSFORMS) + file.name.removeprefix("transform")
            self._archive.write(file, member)
        return Content("transform", name, member)


def _read_segmentation(archive: Archive, stem: str) -> Segmentation:
    if stem + _LABELS not in archive.names:
        raise MalformedMessage("The result names labels of a volume that is not in it.")
    with archive.open(stem + _LABELS) as stream:
        labels = read_volume(stream, max_bytes=_UNPACKED_LIMIT_BYTES)
    names = names_of(archive, stem + _LABELS)
    return Segmentation(
        stem, labels, {value: LabelName.model_validate({"name": name}) for value, name in names.items()}
    )


def _is_text(name: object) -> bool:
    """Whether JSON holds a text that can be written: it may also say halves of a character."""
    return isinstance(name, str) and bool(name) and not any("\ud800" <= sign <= "\udfff" for sign in name)


def _table(classifications: Mapping[str, float]) -> str:
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("class", "probability"), *classifications.items()])
    return table.getvalue()


def _unused_stem(name: str, taken: set[str], *, folder: str = "") -> str:
    """A file name on every system, no two of them equal where upper and lower case are the same."""
    base = re.sub(r"[^\w .+-]+", "_", name).strip(" .")[:100] or "labels"
    base = f"{folder}/{base}" if folder else base
    stem, number = base, 2
    while stem.casefold() in taken:
        stem, number = f"{base}_{number}", number + 1
    taken.add(stem.casefold())
    return stem


def _is_large(segmentation: Segmentation) -> bool:
    """Whether the gzipped labels might, at worst, need the large form of a zip member."""
    return segmentation.labels.array.nbytes > zipfile.ZIP64_LIMIT // 2
