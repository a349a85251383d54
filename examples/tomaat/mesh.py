"""A volume goes in, a surface comes out: the box around everything that is brighter than the mean.

The vertices are in RAS mm, as 3D Slicer has them. A `vtkPolyData` would do as well.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813

from inference_server.tomaat import TomaatApp, TomaatService

config = {"name": "Box", "modality": "any", "task": "Surface", "anatomy": "any", "description": "A box", "port": 9001}
input_interface = [{"type": "volume", "destination": "images"}]
output_interface = [{"type": "VTKMesh", "field": "box", "label": "Box"}]
SIDES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
"""Corners of the box's sides, counter-clockwise as seen from outside."""
RAS = (-1, -1, 1)


def preprocess(data: dict[str, Any]) -> sitk.Image:
    return data["images"][0]


def infer(image: sitk.Image) -> np.ndarray:
    array = sitk.GetArrayFromImage(image)
    bright = np.argwhere(array > array.mean())[:, ::-1]  # (x, y, z)
    edges = bright.min(0) - 0.5, bright.max(0) + 0.5
    corners = [[edges[side][axis] for axis, side in enumerate(sides)] for sides in product((0, 1), repeat=3)]
    place = image.TransformContinuousIndexToPhysicalPoint
    return np.array([place([float(value) for value in corner]) for corner in corners]) * RAS


def postprocess(vertices: np.ndarray) -> dict[str, Any]:
    triangles = [triangle for a, b, c, d in SIDES for triangle in ((a, b, c), (a, c, d))]
    return {"box": [(vertices, triangles)]}


TomaatService(config, TomaatApp(preprocess, infer, postprocess), input_interface, output_interface).run()
