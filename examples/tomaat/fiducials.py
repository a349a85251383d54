"""Points go in and come out, in RAS mm as 3D Slicer has them: here mirrored at the middle of the patient's left and
right. To use them beside an image of SimpleITK, which is in LPS mm, take `points * (-1, -1, 1)`."""

from __future__ import annotations

from typing import Any

from inference_server.tomaat import TomaatApp, TomaatService

config = {"name": "Mirror", "modality": "none", "task": "Points", "anatomy": "any", "description": "", "port": 9002}
input_interface = [{"type": "fiducials", "destination": "points"}]
output_interface = [{"type": "Fiducials", "field": "mirrored", "label": "Mirrored"}]


def preprocess(data: dict[str, Any]) -> Any:
    return data["points"][0]  # an array (N, 3)


def infer(points: Any) -> Any:
    return points * (-1, 1, 1)


def postprocess(points: Any) -> dict[str, Any]:
    return {"mirrored": [points]}


TomaatService(config, TomaatApp(preprocess, infer, postprocess), input_interface, output_interface).run()
