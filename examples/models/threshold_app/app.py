"""Marks every voxel above a threshold, if it is asked to, only inside of a contour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import PredictionError
from inference_server.models.app import Context
from inference_server.models.case import Case

MODALITY = 0x00080060
"""DICOM's tag of the modality, as MIM sends it beside the image."""


class ThresholdApp:
    """Three steps; only `infer` has the device to itself."""

    def pre(self, case: Case, context: Context) -> NDArray[np.generic]:
        modality = case.dicom_tags.get("image", {}).get(MODALITY, "unknown")
        context.log(f"modality {modality}, threshold {case.parameters['threshold']:g}")
        return case.reference.array

    def infer(self, array: NDArray[np.generic], context: Context) -> NDArray[np.bool_]:
        above = np.zeros(array.shape, bool)
        for number, plane in enumerate(array):
            if context.cancelled():
                break
            above[number] = plane > context.case.parameters["threshold"]
            context.progress((number + 1) / len(array))
        return above

    def post(self, above: NDArray[np.bool_], context: Context) -> dict[str, NDArray[np.bool_]]:
        case = context.case
        for axis, times in enumerate(case.scaling_factor):  # from the image's grid to the one of the contours
            above = np.repeat(above, times, axis)
        if name := case.parameters["within"]:
            if name not in case.contours:
                raise PredictionError("There is no contour of that name. Please choose one that was sent along.")
            above &= case.contours[name].array
        return {"ABOVE": above}
