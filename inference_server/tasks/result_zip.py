"""The zip of a result, as the MIM dialect has it: pairs of a label volume and the names of its labels."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from inference_server.errors import MalformedMessage
from inference_server.imaging.archive import Archive, open_archive
from inference_server.imaging.nifti import read_volume, write_labels
from inference_server.models.case import Result, Segmentation
from inference_server.models.manifest import LabelName
from inference_server.tasks.case_files.meta import decode_object

CLASSES = "classifications.csv"
_MEMBER_LIMIT = 4096
_UNPACKED_LIMIT_BYTES = 64 * 1024**3
_JSON_LIMIT_BYTES = 16 * 1024**2
_LABELS = ".nii.gz"


def write_result(path: Path, result: Result) -> None:
    """Write the segmentations and classes of a result, without compressing the gzipped labels again.

    Each becomes ``NAME.nii.gz`` and ``NAME.json``, which maps every label value to its name. No other JSON may be in
    this zip: a fielded MIM client takes each for the names of a label volume. Classes stand in `classifications.csv`.

    Raises:
        InvalidVolume: labels are not uint8 or uint16, or larger than NIfTI can say.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        taken: set[str] = set()
        for segmentation in result.segmentations:
            stem = _unused_stem(segmentation.name, taken)
            with archive.open(zipfile.ZipInfo(stem + _LABELS), "w", force_zip64=_is_large(segmentation)) as stream:
                write_labels(stream, segmentation.labels)  # type: ignore[arg-type]
            names = {str(value): label.name for value, label in segmentation.names.items()}
            archive.writestr(zipfile.ZipInfo(stem + ".json"), json.dumps(names))
        if result.classifications:
            archive.writestr(zipfile.ZipInfo(CLASSES), _table(result.classifications))


def read_result(path: Path) -> tuple[Segmentation, ...]:
    """Read the segmentations of a result; their colours and codes are not in the zip and come as defaults.

    Raises:
        MalformedMessage: the zip is damaged, or a member is not what it should be.
        InvalidVolume: a label volume is not a valid one.
    """
    with open_archive(path, member_limit=_MEMBER_LIMIT, unpacked_limit_bytes=_UNPACKED_LIMIT_BYTES) as archive:
        stems = [name.removesuffix(".json") for name in archive.names if name.endswith(".json")]
        return tuple(_read_segmentation(archive, stem) for stem in stems)


def _read_segmentation(archive: Archive, stem: str) -> Segmentation:
    if stem + _LABELS not in archive.names:
        raise MalformedMessage("The result names labels of a volume that is not in it.")
    with archive.open(stem + _LABELS) as stream:
        labels = read_volume(stream, max_bytes=_UNPACKED_LIMIT_BYTES)
    said = decode_object(archive.read(stem + ".json", _JSON_LIMIT_BYTES), field=stem + ".json")
    if not all(value.isascii() and value.isdigit() and isinstance(name, str) and name for value, name in said.items()):
        raise MalformedMessage("Names by label value were expected beside a label volume.")
    return Segmentation(
        stem, labels, {int(value): LabelName.model_validate({"name": name}) for value, name in said.items()}
    )


def _table(classifications: Mapping[str, float]) -> str:
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("class", "probability"), *classifications.items()])
    return table.getvalue()


def _unused_stem(name: str, taken: set[str]) -> str:
    """A file name on every system, no two of them equal where upper and lower case are the same."""
    base = re.sub(r"[^\w .+-]+", "_", name).strip(" .")[:100] or "labels"
    stem, number = base, 2
    while stem.casefold() in taken:
        stem, number = f"{base}_{number}", number + 1
    taken.add(stem.casefold())
    return stem


def _is_large(segmentation: Segmentation) -> bool:
    """Whether the gzipped labels might, at worst, need the large form of a zip member."""
    return segmentation.labels.array.nbytes > zipfile.ZIP64_LIMIT // 2
