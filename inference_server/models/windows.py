"""Windows that slide over an image: where they lie, and how much each of their voxels counts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from monai.data.utils import compute_importance_map
from monai.inferers import SlidingWindowInferer, SlidingWindowInfererAdapt
from monai.utils import PytorchPadMode

Padding = Literal["constant", "reflect", "replicate", "circular"]


@dataclass(frozen=True)
class Place:
    """One window: which voxels of the padded image it sees, and which of the image its scores are for.

    Attributes:
        seen: a slice per axis of the padded image.
        covered: a slice per axis of the image itself.
        kept: the part of the window that `covered` is.
    """

    seen: tuple[slice, ...]
    covered: tuple[slice, ...]
    kept: tuple[slice, ...]


@dataclass(frozen=True)
class Layout:
    """How windows lie over one image.

    Attributes:
        image: voxels along each axis.
        window: voxels along each axis of a window, larger than the image's where that has to be padded.
        starts: where windows begin along each axis of the padded image.
    """

    image: tuple[int, ...]
    window: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """Number of windows."""
        return math.prod(len(starts) for starts in self.starts)

    @property
    def slow_axis(self) -> int:
        """The axis along which a row of windows is the smallest part of the image."""
        return min(range(len(self.image)), key=lambda axis: min(1.0, self.window[axis] / self.image[axis]))

    @property
    def kept(self) -> tuple[slice, ...]:
        """The part of each window that lies in the image."""
        before = [(window - image) // 2 if window > image else 0 for window, image in self._sizes]
        return tuple(
            slice(first, first + min(window, image)) for first, (window, image) in zip(before, self._sizes, strict=True)
        )

    @property
    def padding(self) -> tuple[int, ...]:
        """What `torch.nn.functional.pad` takes: voxels before and after, of the last axis first."""
        missing = [max(0, window - image) for window, image in self._sizes]
        return tuple(count for both in reversed(missing) for count in (both // 2, both - both // 2))

    def places(self) -> Iterator[Place]:
        """Go through all windows, along the slow axis last."""
        axes = sorted(range(len(self.image)), key=lambda axis: axis != self.slow_axis)
        for ordered in itertools.product(*(self.starts[axis] for axis in axes)):
            start = [first for _, first in sorted(zip(axes, ordered, strict=True))]
            seen = tuple(slice(first, first + length) for first, length in zip(start, self.window, strict=True))
            yield Place(seen, tuple(map(_inside, seen, self.image)), self.kept)

    @property
    def _sizes(self) -> list[tuple[int, int]]:
        return list(zip(self.window, self.image, strict=True))


@dataclass(frozen=True)
class SlidingWindows:
    """Overlapping windows as MONAI's `SlidingWindowInferer` lays and weighs them.

    Attributes:
        size: voxels along each axis; 0 or less is the whole axis.
        batch: how many windows a network is given at a time, at most.
        overlap: share of a window that lies in the next one, along each axis.
        mode: how the weight falls off in a window.
        sigma: width of the Gaussian along each axis, as a share of the window.
        padding: with what an image that is smaller than a window is padded.
        fill: the value of padding that is constant.
    """

    size: tuple[int, ...]
    batch: int = 1
    overlap: tuple[float, ...] = (0.25, 0.25, 0.25)
    mode: Literal["gaussian", "constant"] = "gaussian"
    sigma: tuple[float, ...] = (0.125, 0.125, 0.125)
    padding: Padding = "constant"
    fill: float = 0.0

    def layout(self, image: Sequence[int]) -> Layout:
        """Lay windows over an image of a size."""
        window = tuple(size if size > 0 else length for size, length in zip(self.size, image, strict=True))
        starts = map(_starts, image, window, self.overlap)
        return Layout(tuple(image), window, tuple(starts))

    def padded(self, inputs: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Return an image ``(C, A, B, C)`` that is nowhere smaller than a window."""
        if not any(layout.padding):
            return inputs
        constant = {"value": self.fill} if self.padding == "constant" else {}
        return torch.nn.functional.pad(inputs[None], layout.padding, mode=self.padding, **constant)[0]

    def weights(self, layout: Layout) -> torch.Tensor:
        """Return how much each voxel of a window counts, as far as it lies in the image: float32 on the CPU."""
        weights: torch.Tensor = compute_importance_map(layout.window, mode=self.mode, sigma_scale=self.sigma)
        return weights[layout.kept]


def from_monai(inferer: object, *, flat: bool = False) -> SlidingWindows | None:
    """Return what MONAI's sliding window does, or None where an inferer is another one or does more than that.

    Args:
        inferer: one of MONAI's.
        flat: it is for pictures; the windows are for volumes of one slice.
    """
    if type(inferer) not in (SlidingWindowInferer, SlidingWindowInfererAdapt):
        return None
    assert isinstance(inferer, SlidingWindowInferer)
    if inferer.with_coord:
        return None
    return SlidingWindows(
        tuple(size or -1 for size in _three(inferer.roi_size, flat, 1)),
        int(inferer.sw_batch_size),
        _three(inferer.overlap, flat, 0.0),
        inferer.mode.value,
        _three(inferer.sigma_scale, flat, 0.125),
        PytorchPadMode(inferer.padding_mode).value,
        float(inferer.cval),
    )


def _three(given: Any, flat: bool, last: float) -> tuple[Any, ...]:
    each = tuple(given) if isinstance(given, Sequence) else (given,) * (2 if flat else 3)
    return (*each, last) if flat else each


def _starts(image: int, window: int, overlap: float) -> tuple[int, ...]:
    """Return where windows begin along an axis: a fixed step apart, the last one ending with the image."""
    last = max(0, image - window)
    step = max(1, int(window * (1 - overlap)))
    return tuple(min(index * step, last) for index in range(math.ceil(last / step) + 1))


def _inside(seen: slice, image: int) -> slice:
    return slice(seen.start, min(seen.stop, image))
