"""A transform goes in, its inverse comes out.

A linear or B-spline transform comes as one of SimpleITK's, a displacement field as an image of its vectors (LPS mm).
"""

from __future__ import annotations

from typing import Any

import SimpleITK as sitk  # noqa: N813

from inference_server.errors import PredictionError
from inference_server.tomaat import TomaatApp, TomaatService

config = {"name": "Inverse", "modality": "none", "task": "Transform", "anatomy": "any", "description": "", "port": 9003}
input_interface = [{"type": "transform", "destination": "forth"}]
output_interface = [{"type": "TransformLinear", "field": "back", "label": "Back"}]


def preprocess(data: dict[str, Any]) -> sitk.Transform:
    transform = data["forth"][0]
    if not isinstance(transform, sitk.Transform) or not transform.IsLinear():
        raise PredictionError("Please choose a linear transform.")
    return transform


def infer(transform: sitk.Transform) -> sitk.Transform:
    return transform.GetInverse()


def postprocess(transform: sitk.Transform) -> dict[str, Any]:
    return {"back": [transform]}


TomaatService(config, TomaatApp(preprocess, infer, postprocess), input_interface, output_interface).run()
