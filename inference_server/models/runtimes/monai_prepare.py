"""A bundle's own preprocessing, its loading replaced by volumes that are in memory already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged
from monai.utils import ensure_tuple
from numpy.typing import NDArray

from inference_server.errors import ModelLoadError
from inference_server.imaging.volume import Volume
from inference_server.models.case import Case
from inference_server.models.manifest import Manifest
from inference_server.models.runtimes.monai_lean import lean

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
Data = dict[Any, Any]


class GivenImages:
    """Stands where a bundle would load images from files; takes LoadImaged's options and heeds what concerns memory."""

    def __init__(self, keys: Any, *_: Any, ensure_channel_first: bool = False, **__: Any) -> None:
        self.keys = ensure_tuple(keys)
        self.ensure_channel_first = ensure_channel_first

    def __call__(self, data: Data) -> Data:
        return data


class Preprocessing:
    """What a bundle does with an image before its network sees it.

    Args:
        compose: the bundle's transforms; its loading transforms are taken out.
        traced: run every transform as MONAI has it, so that MONAI can invert them.
    """

    def __init__(self, compose: Any, *, traced: bool) -> None:
        if not isinstance(compose, Compose):
            raise ModelLoadError("The bundle's preprocessing is expected to be a monai.transforms.Compose.")
        loaders = [transform for transform in compose.transforms if isinstance(transform, GivenImages | LoadImaged)]
        compose.transforms = tuple(transform for transform in compose.transforms if transform not in loaders)
        self._keys = tuple(dict.fromkeys(key for loader in loaders for key in loader.keys)) or ("image",)
        self._channel_first = not loaders or any(_ensures_channel(loader) for loader in loaders)
        steps = [compose] if traced or compose.lazy else [lean(transform) for transform in compose.transforms]
        self._steps: Sequence[Callable[[Data], Data]] = steps

    def __call__(self, case: Case, manifest: Manifest) -> Data:
        """Return what the transforms make of a case, by key."""
        data = self._load(case, manifest)
        for step in self._steps:
            data = step(data)
        return data

    def image(self, data: Data) -> MetaTensor:
        """Return the tensor ``(C, A, B, C)`` that the network takes."""
        found = data["image"] if "image" in data else data[self._keys[0]]
        return found if isinstance(found, MetaTensor) else MetaTensor(found)

    def _load(self, case: Case, manifest: Manifest) -> Data:
        arrays = [_array(volume, manifest.dimensions) for volume in _all_channels(case, manifest)]
        affine = torch.from_numpy(RAS_FROM_LPS @ case.reference.geometry.affine)
        if len(self._keys) == len(arrays):
            return {key: self._tensor(array, affine) for key, array in zip(self._keys, arrays, strict=True)}
        if len(self._keys) == 1:
            return {self._keys[0]: _tensor(torch.stack(arrays), affine, channel=0)}
        raise ModelLoadError(f"The bundle loads {len(self._keys)} images, its metadata declares {len(arrays)}.")

    def _tensor(self, array: torch.Tensor, affine: torch.Tensor) -> MetaTensor:
        return _tensor(array[None], affine, channel=0) if self._channel_first else _tensor(array, affine, channel=None)


def lps_affine(image: MetaTensor) -> NDArray[np.float64]:
    """Return the 4 x 4 matrix from an image's index to LPS millimetres."""
    affine: NDArray[np.float64] = RAS_FROM_LPS @ np.asarray(image.affine, dtype=np.float64)
    return affine


def _ensures_channel(loader: GivenImages | LoadImaged) -> bool:
    return bool(loader.ensure_channel_first if isinstance(loader, GivenImages) else loader._loader.ensure_channel_first)


def _all_channels(case: Case, manifest: Manifest) -> list[Volume]:
    """Return the case's volumes in the manifest's order; an optional one that was not sent is zero everywhere."""
    return [case.channels.get(channel.name) or _blank(case.reference) for channel in manifest.channels]


def _blank(like: Volume) -> Volume:
    return Volume(np.zeros_like(like.array), like.geometry)


def _array(volume: Volume, dimensions: int) -> torch.Tensor:
    """Return a float32 copy in MONAI's index order (x, y, z), or (x, y)."""
    array = torch.from_numpy(volume.array.astype(np.float32)).permute(2, 1, 0)
    return array[..., 0] if dimensions == 2 else array


def _tensor(array: torch.Tensor, affine: torch.Tensor, *, channel: int | None) -> MetaTensor:
    size = array.shape if channel is None else array.shape[1:]
    meta = {
        "original_channel_dim": float("nan") if channel is None else channel,
        "spatial_shape": np.asarray(size),
        "original_affine": affine.clone(),
        "space": "RAS",
        "filename_or_obj": "image.nii.gz",
    }
    return MetaTensor(array, affine=affine.clone(), meta=meta)
