"""A network of PyTorch, led over the image by a sliding window: the hippocampus, its anterior and posterior part.

The network is MONAI's SegResNet with weights that ship with the server. It was trained on voxels of 1 mm, axes that run
to the right, anterior and superior, and intensities of mean 0 and deviation 1; `preprocess` makes these. The labels lie
on that grid; the server brings them onto the one of the image that came.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import SegResNet

import inference_server
from inference_server.tomaat import MonaiInference, TomaatApp, TomaatService, label_image

WEIGHTS = Path(inference_server.__file__).parent / "models" / "zoo" / "hippocampus" / "models" / "model.safetensors"
WINDOW = (40, 56, 40)

config = {"name": "Hippocampus", "modality": "MR", "task": "Segmentation", "anatomy": "Hippocampus", "port": 9006}
input_interface = [{"type": "volume", "destination": "images"}]
output_interface = [{"type": "LabelVolume", "field": "labels", "label": "Hippocampus"}]

network = SegResNet(
    spatial_dims=3, in_channels=1, out_channels=3, init_filters=16, blocks_down=(1, 2, 2, 1), blocks_up=(1, 1, 1)
)


def preprocess(data: dict[str, Any]) -> dict[str, Any]:
    image = sitk.Cast(sitk.DICOMOrient(data["images"][0], "RAS"), sitk.sitkFloat32)
    size = [round(count * mm) for count, mm in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    place = (sitk.Transform(), sitk.sitkLinear, image.GetOrigin(), (1.0, 1.0, 1.0), image.GetDirection())
    image = sitk.Resample(image, size, *place)
    array = sitk.GetArrayFromImage(image).T  # (x, y, z)
    low, high = np.percentile(array, (0.5, 99.5))
    array = np.clip(array, low, high)
    return {"image": image, "array": (array - array.mean()) / array.std()}


infer = MonaiInference(network, SlidingWindowInferer(WINDOW, mode="gaussian"), weights=WEIGHTS, fields=["array"])


def postprocess(data: dict[str, Any]) -> dict[str, Any]:
    labels = data["scores"][0].argmax(0).T  # (z, y, x) again
    return {"labels": [label_image(labels, data["image"])]}


TomaatService(config, TomaatApp(preprocess, infer, postprocess), input_interface, output_interface).run()
