"""What an app gets: a case as the dictionary of its input interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from inference_server.models.case import Case
from inference_server.tomaat_app.images import image_of
from inference_server.tomaat_app.interface import (
    CheckboxInput,
    FiducialsInput,
    Input,
    SliderInput,
    TransformInput,
    VolumeInput,
)


def data_of(case: Case, inputs: Sequence[Input], files: Path | None = None) -> dict[str, list[Any]]:
    """Return a one-element list for each input.

    Args:
        case: not modified.
        inputs: of the service.
        files: where volumes and transforms are written, if their names are wanted instead of themselves.

    Returns:
        A SimpleITK image for a volume, a number for a slider, a text for checkbox (`True`, `False`) and radio button,
        an array (N, 3) float64 in RAS mm for points, and for a transform one of SimpleITK's or, of a displacement
        field, the image of its vectors (LPS mm, as everything of SimpleITK's).
    """
    data = {element.destination: _value(case, element) for element in inputs}
    if files:
        data = {name: _as_file(value, files / f"{number}") for number, (name, value) in enumerate(data.items())}
    return {name: [value] for name, value in data.items()}


def turned(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points (N, 3) in RAS mm as LPS mm, or the other way round."""
    return points * (-1.0, -1.0, 1.0) + 0.0  # no negative zeros


def _value(case: Case, element: Input) -> Any:
    name = element.destination
    match element:
        case VolumeInput():
            return image_of(case.channels[name])
        case FiducialsInput():
            return turned(case.points.get(name, np.empty((0, 3))))
        case TransformInput():
            return _transform(case.transforms[name])
        case SliderInput():
            return float(case.parameters[name])
        case CheckboxInput():
            return str(bool(case.parameters[name]))
    return str(case.parameters[name])


def _transform(transform: sitk.Transform) -> sitk.Transform | sitk.Image:
    exact = transform.Downcast()
    return exact.GetDisplacementField() if isinstance(exact, sitk.DisplacementFieldTransform) else exact


def _as_file(value: Any, stem: Path) -> Any:
    """Write an image or a transform and return the file's name; other values come back as they are."""
    if isinstance(value, sitk.Image):
        is_field = value.GetNumberOfComponentsPerPixel() > 1
        path = str(stem.with_suffix(".nii.gz" if is_field else ".mha"))
        sitk.WriteImage(value, path)
        return path
    if isinstance(value, sitk.Transform):
        path = str(stem.with_suffix(".h5"))
        sitk.WriteTransform(value, path)
        return path
    return value
