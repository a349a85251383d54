"""What a Python app returns, turned into a result and checked.

It is a `Result`, or something simpler:

* an array (z, y, x) of whole numbers or flags: the labels of the manifest;
* a mapping of names to such arrays: an array of flags is the structure of that name in the manifest, one of whole
  numbers a segmentation of that name; a text becomes a text, a number the probability of a class, an array (N, 3) of
  numbers points in LPS mm, a `Mesh` or a vtkPolyData a mesh in LPS mm, a transform of SimpleITK a transform;
* a text.

Labels are on the grid of the input, and are repeated as blocks on the contour grid, or on the contour grid itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import PredictionError
from inference_server.imaging.volume import Volume
from inference_server.models.case import Case, Result, Segmentation
from inference_server.models.labels import HIGHEST_LABEL, label_dtype, label_names, on_contour_grid, segmentation_of
from inference_server.models.manifest import LabelName, Manifest
from inference_server.models.mesh import Mesh
from inference_server.models.surfaces import mesh_of


def as_result(answer: object, case: Case, manifest: Manifest) -> Result:
    """Return what an app gave as a result on the case's contour grid.

    Raises:
        PredictionError: it is nothing of the kinds above, has another shape than the case, or names what the manifest
            does not.
    """
    result = answer if isinstance(answer, Result) else _Simple(case, manifest).result(answer)
    segmentations = tuple(_checked(segmentation, case) for segmentation in result.segmentations)
    _check_one_each([segmentation.name for segmentation in segmentations])
    _check_kind(result, manifest)
    points = {name: _points(name, array) for name, array in result.points.items()}
    meshes = {name: _mesh(name, mesh) for name, mesh in result.meshes.items()}
    for name, transform in result.transforms.items():
        _check_transform(name, transform)
    classifications = checked_classes(result.classifications, manifest)
    return replace(result, segmentations=segmentations, classifications=classifications, points=points, meshes=meshes)


def checked_classes(found: Mapping[str, float], manifest: Manifest) -> dict[str, float]:
    """Return probabilities as plain numbers, in the order of the manifest's classes.

    Raises:
        PredictionError: one is no probability, or of a class that the manifest does not name.
    """
    known = manifest.classes or tuple(found)
    for name, probability in found.items():
        if name not in known:
            raise PredictionError(f"The model gave the class '{name[:50]}', which its manifest does not name.")
        if not math.isfinite(probability) or not -1e-6 <= probability <= 1 + 1e-6:
            raise PredictionError(f"The model gave {probability:g} as a probability; 0 to 1 was expected.")
    return {name: min(max(float(found[name]), 0.0), 1.0) for name in known if name in found}


def _is_mesh(value: object) -> bool:
    return isinstance(value, Mesh) or hasattr(value, "GetPolys")


def _is_transform(value: object) -> bool:
    return hasattr(value, "TransformPoint") and hasattr(value, "GetDimension")


_KINDS: Mapping[str, Callable[[object], bool]] = {
    "texts": lambda value: isinstance(value, str),
    "classifications": lambda value: isinstance(value, Real),
    "meshes": _is_mesh,
    "transforms": _is_transform,
}
"""What a single value becomes, if it is not an array. VTK and SimpleITK are not imported to find out."""


class _Simple:
    """Makes results of simple values for one case."""

    def __init__(self, case: Case, manifest: Manifest) -> None:
        self._case, self._manifest = case, manifest

    def result(self, answer: object) -> Result:
        if isinstance(answer, str):
            return Result(texts={"answer": answer})
        if isinstance(answer, Mapping):
            return self._several(answer)
        return Result((self._labels(self._manifest.id, self._array(answer)),))

    def _array(self, value: object) -> NDArray[Any]:
        return _placed(value, self._case) if isinstance(value, Volume) else _array(value)

    def _several(self, answer: Mapping[Any, object]) -> Result:
        kinds: dict[str, Any] = {kind: {} for kind in (*_KINDS, "points")}
        segmentations = []
        for key, value in answer.items():
            name, kind = str(key), next((kind for kind, fits in _KINDS.items() if fits(value)), None)
            if kind is not None:
                kinds[kind][name] = value
            elif (array := self._array(value)).ndim == 2:
                kinds["points"][name] = array
            else:
                segmentations.append(self._named(name, array))
        return Result(tuple(segmentations), **kinds)

    def _named(self, name: str, array: NDArray[Any]) -> Segmentation:
        if array.dtype != np.bool_:
            return self._labels(name, array)
        values = [value for value, label in self._manifest.labels.items() if label.name == name]
        if self._manifest.labels and not values:
            raise PredictionError(f"The app gave the structure '{name[:50]}', which its manifest does not name.")
        value = values[0] if values else 1
        names = label_names(self._manifest, values) or {1: LabelName(name=name)}
        return self._on_grid(name, array * label_dtype(value).type(value), names)

    def _labels(self, name: str, array: NDArray[Any]) -> Segmentation:
        array = array.astype(np.uint8) if array.dtype == np.bool_ else array
        _check_labels(array, known=set(self._manifest.labels))
        values = self._manifest.labels or range(1, int(array.max()) + 1)
        return self._on_grid(name, array, label_names(self._manifest, values))

    def _on_grid(self, name: str, array: NDArray[Any], names: Mapping[int, LabelName]) -> Segmentation:
        return segmentation_of(name, _refined(array, self._case), self._case, names)


def _checked(segmentation: Segmentation, case: Case) -> Segmentation:
    """Return an app's own segmentation with its labels on the contour grid, in the smallest type."""
    array = _placed(segmentation.labels, case)
    _check_labels(array, known=set(segmentation.names))
    return segmentation_of(segmentation.name, _refined(array, case), case, segmentation.names)


def _placed(volume: Volume, case: Case) -> NDArray[Any]:
    """Return the array of a volume that lies where the case does."""
    own = case.reference.geometry
    for grid in (own, own.refined(case.scaling_factor)):
        nearby = 1e-3 * min(grid.spacing_mm)
        if volume.geometry.shape == grid.shape and np.allclose(
            volume.geometry.affine, grid.affine, rtol=0, atol=nearby
        ):
            return volume.array
    raise PredictionError(
        "The app gave labels that lie elsewhere than the image: its grid or the contour grid was expected."
    )


def _refined(array: NDArray[Any], case: Case) -> NDArray[Any]:
    own = case.reference.geometry.shape
    fine = case.reference.geometry.refined(case.scaling_factor).shape
    if array.shape == own:
        return on_contour_grid(array, case)
    if array.shape == fine:
        return np.ascontiguousarray(array, label_dtype(int(array.max())))
    grids = f"{own}" if own == fine else f"{own} or, on the contour grid, {fine}"
    raise PredictionError(f"The app gave labels of {array.shape} voxels (z, y, x); {grids} was expected.")


def _check_labels(array: NDArray[Any], *, known: set[int]) -> None:
    if array.dtype.kind not in "biu" or not array.size:
        raise PredictionError(f"The app gave labels of the type {array.dtype}; whole numbers were expected.")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > HIGHEST_LABEL:
        raise PredictionError(f"The app gave labels from {low} to {high}; 0 to {HIGHEST_LABEL} was expected.")
    unknown = next(_unnamed(array, high, known), None) if known else None
    if unknown is not None:
        raise PredictionError(f"The app gave the label {unknown}, which its manifest does not name.")


def _unnamed(array: NDArray[Any], high: int, known: set[int]) -> Iterator[int]:
    named = np.zeros(high + 1, bool)
    named[[0, *(value for value in known if value <= high)]] = True
    if not named.all():
        yield from map(int, np.unique(array[~named[array]]))


def _check_kind(result: Result, manifest: Manifest) -> None:
    if manifest.kind == "classification" and set(result.classifications) != set(manifest.classes):
        raise PredictionError(f"The app gave no probability for some class of: {', '.join(manifest.classes)}.")


def _check_one_each(names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise PredictionError("The app gave two segmentations of one name.")


def _points(name: str, array: NDArray[Any]) -> NDArray[np.float64]:
    points = np.asarray(array)
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu" or not np.isfinite(points).all():
        raise PredictionError(f"The app gave '{name[:50]}' as points; an array (N, 3) of finite numbers was expected.")
    return points.astype(np.float64)


def _mesh(name: str, mesh: Any) -> Mesh:
    try:
        return mesh if isinstance(mesh, Mesh) else mesh_of(mesh)
    except (ValueError, TypeError, AttributeError) as exc:
        raise PredictionError(
            f"The app gave '{name[:50]}' as a mesh; a Mesh or a vtkPolyData with finite vertices was expected."
        ) from exc


def _check_transform(name: str, transform: Any) -> None:
    if not _is_transform(transform) or transform.GetDimension() != 3:
        raise PredictionError(
            f"The app gave '{name[:50]}' as a transform; one of SimpleITK, of three dimensions, was expected."
        )


def _array(value: object) -> NDArray[Any]:
    """Return an array of whatever holds one: numpy's, torch's on any device."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise PredictionError(
            f"The app returned a {type(value).__name__}; a Result, an array of labels, a text or a mapping of names to "
            "these was expected."
        )
    return array
