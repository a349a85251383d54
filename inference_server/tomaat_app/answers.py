"""What an app gives: the dictionary of its output interface as a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from inference_server.errors import PredictionError
from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.bundle import default_color
from inference_server.models.case import Case, Result, Segmentation
from inference_server.models.labels import HIGHEST_LABEL, label_dtype
from inference_server.models.manifest import LabelName
from inference_server.models.mesh import Mesh
from inference_server.models.surfaces import mesh_of
from inference_server.tomaat_app.current import context
from inference_server.tomaat_app.given import turned
from inference_server.tomaat_app.images import image_of
from inference_server.tomaat_app.inference import only
from inference_server.tomaat_app.interface import Output

MOVED = "The app gave labels on another grid than the image's; each voxel of the image got the nearest one."


def result_of(answer: Mapping[str, Any], outputs: Sequence[Output], case: Case) -> Result:
    """Return an app's answer as a result.

    Raises:
        PredictionError: a field of the output interface is missing, or is not of its type.
    """
    found: dict[str, dict[str, Any]] = {
        "LabelVolume": {},
        "VTKMesh": {},
        "PlainText": {},
        "Fiducials": {},
        "Transform": {},
    }
    for output in outputs:
        value = only(dict(answer), output.field)
        found[output.kind][output.name] = _READ[output.kind](value, output, case)
    return Result(
        segmentations=tuple(found["LabelVolume"].values()),
        texts=found["PlainText"],
        meshes=found["VTKMesh"],
        points=found["Fiducials"],
        transforms=found["Transform"],
    )


def _segmentation(value: Any, output: Output, case: Case) -> Segmentation:
    image = value if isinstance(value, sitk.Image) else _image(value, output, case)
    geometry = case.reference.geometry
    labels = _labels(sitk.GetArrayFromImage(_on_grid(image, geometry)), output)
    found = [int(value) for value in np.flatnonzero(np.bincount(labels.ravel())) if value] or [1]
    names = {value: output.name if len(found) == 1 else f"{output.name} {value}" for value in found}
    said = {value: LabelName(name=name[:200], color=default_color(value)) for value, name in names.items()}
    return Segmentation(output.name, Volume(labels, geometry), said)


def _image(value: Any, output: Output, case: Case) -> sitk.Image:
    """Return an array, numpy's or torch's, as an image on the case's grid."""
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if array.shape != case.reference.geometry.shape or array.dtype.kind not in "biuf":
        raise _unexpected(output, "an image of SimpleITK, or an array of the image's size,")
    return image_of(Volume(array, case.reference.geometry))


def _on_grid(image: sitk.Image, grid: Geometry) -> sitk.Image:
    """Return an image of labels on a grid; where it lies elsewhere, each voxel gets the nearest label."""
    if image.GetDimension() == 3 and _lies_on(image, grid):
        return image
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise PredictionError("The app gave labels that are no 3-D image of single numbers.")
    context().log(MOVED, level="warning")
    place = (grid.origin_mm, grid.spacing_mm, grid.direction, 0.0, image.GetPixelID())
    return sitk.Resample(image, grid.shape[::-1], sitk.Transform(), sitk.sitkNearestNeighbor, *place)


def _lies_on(image: sitk.Image, grid: Geometry) -> bool:
    own = Geometry(image.GetSize()[::-1], image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    nearby = 1e-3 * min(grid.spacing_mm)
    return own.shape == grid.shape and np.allclose(own.affine, grid.affine, rtol=0, atol=nearby)


def _labels(array: NDArray[Any], output: Output) -> NDArray[Any]:
    if array.dtype.kind not in "biuf" or array.ndim != 3:
        raise _unexpected(output, "an image of whole numbers")
    low, high = array.min(), array.max()
    if not 0 <= low <= high <= HIGHEST_LABEL:  # which NaN is not either
        raise _unexpected(output, f"an image of whole numbers from 0 to {HIGHEST_LABEL}")
    labels = array.astype(label_dtype(int(high)))
    if array.dtype.kind == "f" and not np.array_equal(labels, array):
        raise _unexpected(output, "an image of whole numbers")
    return labels


def _mesh(value: Any, output: Output, _: Case) -> Mesh:
    """Return triangles with vertices in RAS mm, as arrays or as VTK's, as a mesh."""
    try:
        if isinstance(value, tuple):
            vertices, triangles = value
            return Mesh(turned(np.asarray(vertices, np.float64)), np.asarray(triangles, np.int64))
        found = mesh_of(value)
    except (TypeError, ValueError) as exc:
        raise _unexpected(output, "a vtkPolyData, or vertices (N, 3) and triangles (M, 3),") from exc
    return Mesh(turned(found.vertices), found.triangles)


def _text(value: Any, _output: Output, _case: Case) -> str:
    return str(value)


def _points(value: Any, output: Output, _: Case) -> NDArray[np.float64]:
    try:
        points = np.asarray(value, np.float64)
    except (TypeError, ValueError) as exc:
        raise _unexpected(output, "an array (N, 3) of points") from exc
    points = points.reshape(-1, 3) if points.size == 0 else points
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise _unexpected(output, "an array (N, 3) of finite points")
    return turned(points)


def _transform(value: Any, output: Output, _: Case) -> sitk.Transform:
    fits, wanted = _TRANSFORMS[output.type]
    if isinstance(value, sitk.Image) and value.GetNumberOfComponentsPerPixel() == value.GetDimension() == 3:
        value = sitk.DisplacementFieldTransform(sitk.Cast(value, sitk.sitkVectorFloat64))
    if not isinstance(value, sitk.Transform) or value.GetDimension() != 3 or not fits(value.Downcast()):
        raise _unexpected(output, wanted)
    return value.Downcast()


def _unexpected(output: Output, wanted: str) -> PredictionError:
    return PredictionError(f"The app's '{output.field[:50]}' is no {output.type}: {wanted} was expected.")


_READ = {
    "LabelVolume": _segmentation,
    "VTKMesh": _mesh,
    "PlainText": _text,
    "Fiducials": _points,
    "Transform": _transform,
}
_TRANSFORMS: Mapping[str, tuple[Callable[[sitk.Transform], bool], str]] = {
    "TransformGrid": (
        lambda transform: isinstance(transform, sitk.DisplacementFieldTransform),
        "a 3-D image of displacements, or SimpleITK's DisplacementFieldTransform,",
    ),
    "TransformBSpline": (
        lambda transform: isinstance(transform, sitk.BSplineTransform),
        "SimpleITK's BSplineTransform of three dimensions",
    ),
    "TransformLinear": (
        lambda transform: transform.IsLinear(),
        "a linear transform of SimpleITK's of three dimensions",
    ),
}
