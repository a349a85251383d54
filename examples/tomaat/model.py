"""A model of the server within an app: what ships as `hippocampus`, with a text beside its labels.

`ModelInference` takes the path of a model's folder as well: a MONAI bundle, an nnU-Net folder, TorchScript, an
ensemble.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813

from inference_server.tomaat import ModelInference, TomaatApp, TomaatService

config = {"name": "Hippocampus volume", "modality": "MR", "anatomy": "Hippocampus", "port": 9007}
input_interface = [{"type": "volume", "destination": "images"}]
output_interface = [
    {"type": "LabelVolume", "field": "labels", "label": "Hippocampus"},
    {"type": "PlainText", "field": "volume", "label": "Volume"},
]


def preprocess(data: dict[str, Any]) -> dict[str, Any]:
    return data


def postprocess(data: dict[str, Any]) -> dict[str, Any]:
    labels = data["labels"][0]
    voxels = np.count_nonzero(sitk.GetArrayViewFromImage(labels))
    return {"labels": [labels], "volume": [f"{voxels * np.prod(labels.GetSpacing()) / 1000:.2f} ml"]}


app = TomaatApp(preprocess, ModelInference("hippocampus"), postprocess)
TomaatService(config, app, input_interface, output_interface).run()
