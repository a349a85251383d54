"""Label arrays as they leave a model: of the smallest type, on the case's contour grid, with names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_server.imaging.nifti import refined_header
from inference_server.imaging.volume import Volume
from inference_server.models.bundle import default_color
from inference_server.models.case import Case, Segmentation
from inference_server.models.manifest import LabelName, Manifest

HIGHEST_LABEL = 65_535


def segmentation_of(name: str, labels: NDArray[Any], case: Case, names: Mapping[int, LabelName]) -> Segmentation:
    """Return labels on a case's contour grid as a segmentation, with the header of the case's file, if it has one."""
    reference = case.reference
    header = reference.nifti_header and refined_header(reference.nifti_header, case.scaling_factor)
    return Segmentation(name, Volume(labels, reference.geometry.refined(case.scaling_factor), header), names)


def on_contour_grid(labels: NDArray[Any], case: Case) -> NDArray[Any]:
    """Return labels (z, y, x) of the case's own grid in the smallest type, each voxel repeated as a block."""
    array = labels.astype(label_dtype(int(labels.max())))
    for axis, times in enumerate(case.scaling_factor):
        array = array if times == 1 else np.repeat(array, times, axis)
    return array


def label_names(manifest: Manifest, values: Iterable[int]) -> dict[int, LabelName]:
    """Return the manifest's names of some label values; those it does not name are called `class N`."""
    return {
        value: manifest.labels.get(value) or LabelName(name=f"class {value}", color=default_color(value), code=None)
        for value in values
    }


def volumes_cc(segmentation: Segmentation) -> dict[str, float]:
    """Return the volume of every label by its name, in millilitres; labels of one name count together."""
    labels, voxel_cc = segmentation.labels, segmentation.labels.geometry.voxel_volume_mm3 / 1000
    counts = np.zeros(HIGHEST_LABEL + 1, np.int64)
    for part in labels.array:
        counts += np.bincount(part.ravel(), minlength=len(counts))
    volumes: dict[str, float] = {}
    for value, label in segmentation.names.items():
        volumes[label.name] = volumes.get(label.name, 0.0) + float(counts[value] * voxel_cc)
    return volumes


def label_dtype(highest: int) -> np.dtype[Any]:
    """Return the smallest type that stores labels up to `highest`."""
    return np.dtype(np.uint8 if highest <= 255 else np.uint16)
