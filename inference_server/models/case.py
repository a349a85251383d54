"""What every model takes and gives: `Case` and `Result`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import PredictionError
from inference_server.imaging.nifti_header import NiftiHeader
from inference_server.imaging.volume import Geometry, ScalingFactor, Volume
from inference_server.models.manifest import LabelName
from inference_server.models.mesh import Mesh

if TYPE_CHECKING:
    from SimpleITK import Transform

ParameterValue = float | int | str | bool


@dataclass(frozen=True, eq=False)
class Case:
    """One case, as a model gets it.

    `channels` and `contours` map names to volumes (channels in the manifest's order; contours are boolean volumes on
    the contour grid), `points` to (N, 3) float64 arrays in LPS mm, `transforms` to SimpleITK's transforms, which map
    points in LPS mm, `dicom_tags` a channel's name to its tags (decimal tag to text). `scaling_factor` is (z, y, x).
    """

    channels: Mapping[str, Volume]
    contours: Mapping[str, Volume] = field(default_factory=dict)
    points: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    transforms: Mapping[str, Transform] = field(default_factory=dict)
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    dicom_tags: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    scaling_factor: ScalingFactor = (1, 1, 1)
    labels_grid: NiftiHeader | None = None
    """The header of the file whose grid the labels are brought onto; None leaves them on the reference's."""
    assumed: tuple[str, ...] = ()
    """What the reader had to assume, in sentences for the report (an identity direction, say)."""
    sent_geometry: Geometry | None = None
    """The reference's geometry as it was sent, to the last digit: its own axes were made perpendicular where noise
    made them slightly oblique."""

    @property
    def reference(self) -> Volume:
        """The first channel, on whose grid models give their labels.

        Raises:
            PredictionError: the model takes none.
        """
        if not self.channels:
            raise PredictionError("The case has no image, which the model's labels could lie on.")
        return next(iter(self.channels.values()))

    @property
    def result_grid(self) -> Geometry | None:
        """The grid of the result, to the last digit where the client said it so; None without images."""
        if self.labels_grid is not None:
            return self.labels_grid.geometry
        return (self.sent_geometry or self.reference.geometry).refined(self.scaling_factor) if self.channels else None


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Integer labels (uint8 or uint16, (z, y, x)) on the contour grid, and what each value means."""

    name: str
    labels: Volume
    names: Mapping[int, LabelName]


@dataclass(frozen=True)
class Report:
    """How a result came about: what a user may want to know and a program may read."""

    model: str = ""
    version: str = ""
    digest: str = ""
    device: str = ""
    precision: str = ""
    backend: str = ""
    timings_s: Mapping[str, float] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What was assumed or degraded, and why, in sentences."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a model gave for a case. Points, meshes and transforms are in LPS mm."""

    segmentations: tuple[Segmentation, ...] = ()
    classifications: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    meshes: Mapping[str, Mesh] = field(default_factory=dict)
    points: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    transforms: Mapping[str, Transform] = field(default_factory=dict)
    report: Report = field(default_factory=Report)
    members: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Of an ensemble that classifies: what each member says, by its id."""
