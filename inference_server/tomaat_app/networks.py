"""Ready-made inference with networks of PyTorch, whole images or MONAI's windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from numpy.typing import NDArray

from inference_server.errors import PredictionError
from inference_server.models.case import Case
from inference_server.models.network import Network, check_finite, first_tensor
from inference_server.models.runtimes.base import Prepared
from inference_server.models.runtimes.inference import Watch, infer
from inference_server.models.runtimes.weights import fill, load_script
from inference_server.models.windows import from_monai
from inference_server.tomaat_app.current import context
from inference_server.tomaat_app.inference import Data, Inference, only


class TorchInference(Inference):
    """Runs a network on images or arrays of the data.

    An image of SimpleITK is one channel with the axes (z, y, x); an array is (z, y, x), (channel, z, y, x) or has
    another axis of length 1 before that. The network takes ``(1, channels, Z, Y, X)`` float32.

    Args:
        network: a module, or the path of a TorchScript archive.
        weights: path of safetensors or of a checkpoint for a module, read without running code of theirs.
        fields: where the channels are in the data.
        output: where its answer goes, as a list of one array float32 without the first axis.
    """

    def __init__(
        self,
        network: torch.nn.Module | str | Path,
        *,
        weights: str | Path | None = None,
        fields: Sequence[str] = ("images",),
        output: str = "scores",
    ) -> None:
        self._given, self._weights = network, weights
        self._fields, self._output = (fields,) if isinstance(fields, str) else tuple(fields), output
        self._network: Network
        self._device = torch.device("cpu")

    @property
    def size_bytes(self) -> int:
        return self._network.size_bytes if self.is_loaded else 0

    def load(self, device: str, cache_dir: Path | None = None) -> None:
        self._device = torch.device(device)
        given = self._given
        module = given if isinstance(given, torch.nn.Module) else load_script(Path(given), self._device)
        if self._weights:
            fill(module, Path(self._weights))
        self._network = Network(module.to(self._device).eval())

    def infer(self, data: Data) -> Data:
        inputs = torch.cat([_channels(only(data, field), field) for field in self._fields])
        scores = self._scores(inputs)
        check_finite(scores)
        return {self._output: [scores.numpy()]}

    def _scores(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return what the network gives for ``(channels, Z, Y, X)``, on the CPU."""
        with torch.inference_mode():
            return first_tensor(self._network(inputs[None].to(self._device)))[0].float().cpu()


class MonaiInference(TorchInference):
    """Runs a network as one of MONAI's inferers leads it over an image, on images or arrays as `TorchInference` does.

    What `SlidingWindowInferer` does is done by windows of ours that give the same: they tell their progress, end when
    the task is cancelled, and take bounded memory.

    Args:
        network: a module, or the path of a TorchScript archive.
        inferer: one of `monai.inferers`; its axes are (z, y, x).
        others: as those of `TorchInference`.
    """

    def __init__(self, network: torch.nn.Module | str | Path, inferer: Any, **others: Any) -> None:
        super().__init__(network, **others)
        self._inferer = from_monai(inferer) or inferer

    def _scores(self, inputs: torch.Tensor) -> torch.Tensor:
        current = context()
        watch = Watch(self._device, current.progress, current.cancelled)
        return infer(self._network, self._inferer, Prepared(Case({}), inputs, np.eye(4)), watch).scores


def _channels(value: Any, field: str) -> torch.Tensor:
    """Return an image or an array as ``(channels, Z, Y, X)`` float32."""
    tensor = value if isinstance(value, torch.Tensor) else torch.from_numpy(_array(value))
    tensor = tensor.float()
    if tensor.ndim == 5 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.ndim == 3:
        tensor = tensor[None]
    if tensor.ndim != 4:
        raise PredictionError(f"The app's '{field[:50]}' is no image that its network takes: three axes were expected.")
    return tensor


def _array(value: Any) -> NDArray[np.float32]:
    array = sitk.GetArrayFromImage(value) if isinstance(value, sitk.Image) else np.asarray(value)
    return np.ascontiguousarray(array, np.float32)
