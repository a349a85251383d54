"""How a case becomes what a network takes, and how the network is led over it: sections of `model.yaml`.

It is done in the order of the attributes of `Preparation`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from inference_server.models.declared import Declared

AXES = ("RL", "AP", "SI")
"""The two directions of each axis of the world, by their letters."""


def _axis_codes(codes: str) -> str:
    if sorted("".join(pair for pair in AXES if code in pair) for code in codes) != sorted(AXES):
        raise ValueError("three letters were expected, one of R or L, one of A or P, one of S or I, as in RAS")
    return codes


Count = Annotated[int, Field(ge=1)]
Size = tuple[Count, Count, Count]
Millimetres = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
AxisCodes = Annotated[str, AfterValidator(_axis_codes)]


class _Step(Declared):
    """One change of intensities, of each channel by itself; of all channels unless some are named."""

    channels: tuple[str, ...] | None = None


class _Bounds(_Step):
    @model_validator(mode="after")
    def _low_is_lower(self) -> _Bounds:
        low, high = getattr(self, "low", None), getattr(self, "high", None)
        if low is not None and high is not None and low >= high:
            raise ValueError(f"low must be less than high; {low} and {high} came")
        return self


class Clip(_Bounds):
    """Sets what is below `low` or above `high` to these."""

    step: Literal["clip"]
    low: float
    high: float


class Scale(_Bounds):
    """Maps `low` and `high`, by default the image's lowest and highest value, linearly to the two values of `to`."""

    step: Literal["scale"]
    low: float | None = None
    high: float | None = None
    to: tuple[float, float] = (0.0, 1.0)
    clip: bool = Field(False, description="whether values beyond the bounds are set to them")


class Quantiles(_Bounds):
    """Maps two quantiles of the image linearly to the two values of `to`."""

    step: Literal["quantiles"]
    low: Share
    high: Share
    to: tuple[float, float] = (0.0, 1.0)
    clip: bool = Field(False, description="whether values beyond the bounds are set to them")


class ZScore(_Step):
    """Subtracts the mean and divides by the standard deviation: the image's own, unless they are given."""

    step: Literal["zscore"]
    nonzero: bool = Field(False, description="count and change only voxels that are not zero")
    mean: float | None = None
    deviation: float | None = Field(None, gt=0)


IntensityStep = Annotated[Clip | Scale | Quantiles | ZScore, Field(discriminator="step")]


class Crop(Declared):
    """The box of all voxels above a value, after the intensity steps. What is outside of it becomes background."""

    above: float
    margin: Annotated[int, Field(ge=0)] = 0


class Preparation(Declared):
    """What is done with a case's images before the network sees them.

    Attributes:
        orientation: where the network's first, second and third axis point: letters of right, left, anterior,
            posterior, superior, inferior, as nibabel and MONAI use them. Axes are exchanged and flipped; oblique ones
            stay oblique.
        spacing_mm: the voxels' size along these axes; linear interpolation, the first voxel's centre stays where it is.
            None keeps it.
        stretch: voxels along these axes, by linear interpolation over the image's extent. None keeps them.
        size: voxels along these axes, by cropping and padding on both sides. None keeps it.
        intensity: changes of the values, one after the other.
        crop: what is kept.
        multiple_of: each axis is padded on both sides to a multiple of this.

    Padding has the lowest value of its channel.
    """

    orientation: AxisCodes = "RAS"
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = None
    stretch: Size | None = None
    size: Size | None = None
    intensity: tuple[IntensityStep, ...] = ()
    crop: Crop | None = None
    multiple_of: Count = 1


class _Mirroring(Declared):
    """The network may see an image in mirrors too: along some of its axes, 0 to 2, in all combinations.

    The mean of what it gives is taken, each turned back.
    """

    mirror: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()

    @field_validator("mirror")
    @classmethod
    def _each_axis_once(cls, mirror: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(mirror)) != len(mirror):
            raise ValueError("each axis once was expected")
        return mirror


class Whole(_Mirroring):
    """The network sees the whole image at once."""

    kind: Literal["whole"] = "whole"


class Windows(_Mirroring):
    """The network sees overlapping windows of the image, whose scores are averaged."""

    kind: Literal["windows"]
    size: Size
    overlap: float = Field(0.25, ge=0, lt=1)
    mode: Literal["gaussian", "constant"] = Field("gaussian", description="how the weight falls off in a window")
    batch: Count = Field(1, description="how many windows are computed at a time")


Inferer = Annotated[Whole | Windows, Field(discriminator="kind")]


class NetworkClass(Declared):
    """A network's architecture: a class, and what it is made with.

    `class` is `module.Class` of an installed package (monai.networks.nets.SegResNet) or `file.py:Class`, a file in the
    model's folder.
    """

    class_path: str = Field(alias="class", pattern=r"^(\w+(\.\w+)+|\w+\.py:\w+)$")
    arguments: dict[str, object] = Field(default_factory=dict)

    @property
    def file(self) -> str | None:
        """The name of the Python file in the model's folder, if it is one."""
        return self.class_path.partition(":")[0] if ":" in self.class_path else None
