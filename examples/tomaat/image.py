"""A volume goes in, labels come out: everything brighter than the mean, or than a level that the user sets."""

from __future__ import annotations

from typing import Any

import SimpleITK as sitk  # noqa: N813

from inference_server.tomaat import TomaatApp, TomaatService, label_image

config = {
    "name": "Threshold",
    "modality": "any",
    "task": "Segmentation",
    "anatomy": "any",
    "description": "Everything above the mean, or above a level",
    "port": 9000,
    "announce": False,
    "api_key": "",
}
input_interface = [
    {"type": "volume", "destination": "images"},
    {"type": "checkbox", "destination": "own", "text": "use the level"},
    {"type": "slider", "destination": "level", "minimum": -1000, "maximum": 1000},
]
output_interface = [
    {"type": "LabelVolume", "field": "labels", "label": "Above"},
    {"type": "PlainText", "field": "report", "label": "Report"},
]


def preprocess(data: dict[str, Any]) -> dict[str, Any]:
    array = sitk.GetArrayFromImage(data["images"][0])
    level = data["level"][0] if data["own"][0] == "True" else float(array.mean())
    return {**data, "array": array, "level": level}


def infer(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "above": data["array"] > data["level"]}


def postprocess(data: dict[str, Any]) -> dict[str, Any]:
    count = int(data["above"].sum())
    return {
        "labels": [label_image(data["above"], data["images"][0])],
        "report": [f"{count} voxels are above {data['level']:g}."],
    }


app = TomaatApp(preprocess_fun=preprocess, inference_fun=infer, postprocess_fun=postprocess)
service = TomaatService(config, app, input_interface, output_interface)
service.run()
