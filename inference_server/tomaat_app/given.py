"""What an app gets: a case as the dictionary of its input interface."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
from inference_server.tomaat_app.named import FilesIn, named


def data_of(
    case: Case, inputs: Sequence[Input], files: FilesIn | None = None, *, as_files: bool = False
) -> dict[str, list[Any]]:
    """Return a one-element list for each input.

    Args:
        case: not modified.
        inputs: of the service.
        files: gives a folder for volumes and transforms, which then are names of files too.
        as_files: whether the names alone are wanted.

    Returns:
        A SimpleITK image for a volume, a number for a slider, a text for checkbox (`True`, `False`) and radio button,
        an array (N, 3) float64 in RAS mm for points, and for a transform one of SimpleITK's or, of a displacement
        field, the image of its vectors (LPS mm, as everything of SimpleITK's).
    """
    data = {element.destination: _value(case, element) for element in inputs}
    if files:
        data = {name: _named(value, str(number), files) for number, (name, value) in enumerate(data.items())}
    if as_files:
        data = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in data.items()}
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


def _named(value: Any, stem: str, files: FilesIn) -> Any:
    return named(value, stem, files) if isinstance(value, sitk.Image | sitk.Transform) else value
