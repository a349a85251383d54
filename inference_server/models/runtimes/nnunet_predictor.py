"""nnunetv2's predictor of a folder of trained models, for cases in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from numpy.typing import NDArray

from inference_server.errors import ModelLoadError
from inference_server.models.bundle import read_mapping
from inference_server.models.manifest import Precision
from inference_server.models.nnunet_folder import DATASET, PLANS, NnUNet, find_checkpoints
from inference_server.models.runtimes.nnunet_checkpoint import Checkpoint, read_checkpoint
from inference_server.models.runtimes.nnunet_network import WatchedNetwork, make_network
from inference_server.models.runtimes.nnunet_resampling import interpolates, nearest_axis
from inference_server.models.runtimes.weights import load_weights

Properties = dict[str, Any]
"""What nnunetv2 notes of a case when it prepares it: spacing, the box it keeps, sizes."""

_REORIENTING = "NibabelIOWithReorient"


class FolderPredictor:
    """Runs the folds of a folder.

    Args:
        folder: holds `dataset.json`, `plans.json` and `fold_*`.
        chosen: which folds, and how.
        device: what to compute on.

    Raises:
        ModelLoadError: the folder's files are not what they should be, or nnunetv2 lacks something that they name.
    """

    def __init__(self, folder: Path, chosen: NnUNet, device: torch.device) -> None:
        dataset, plans = read_mapping(folder / DATASET), PlansManager(read_mapping(folder / PLANS))
        folds = _read_folds(folder, chosen)
        first = next(iter(folds.values()))
        configuration = _configuration(plans, first.configuration)
        trainer = chosen.trainer or first.trainer
        with redirect_stdout(StringIO()):  # nnunetv2 prints
            module = make_network(trainer, plans, configuration, dataset)
            self._predictor = _Predictor(chosen, device)
        for name, fold in folds.items():
            load_weights(module, fold.weights, name)
        heads = plans.get_label_manager(dataset).num_segmentation_heads
        self.network = WatchedNetwork(module, heads, device)
        self._predictor.manual_initialization(
            self.network,
            plans,
            configuration,
            [fold.weights for fold in folds.values()],
            dataset,
            trainer,
            first.mirror_axes,
        )
        self._preprocessor = configuration.preprocessor_class(verbose=False)

    @property
    def size_bytes(self) -> int:
        """Memory of the network, and of the weights of all folds."""
        folds = self._predictor.list_of_parameters
        kept: int = sum(tensor.nbytes for weights in folds for tensor in weights.values())
        return self.network.size_bytes + kept

    @property
    def orientation(self) -> str | None:
        """Where the axes x, y, z of images point when the plans' reader hands them on; None where it leaves them."""
        return "RAS" if self._predictor.plans_manager.plans["image_reader_writer"] == _REORIENTING else None

    @property
    def flat(self) -> bool:
        """Whether the network sees slices one by one."""
        patch: Sequence[int] = self._predictor.configuration_manager.patch_size
        return len(patch) == 2

    def use(self, precision: Precision) -> None:
        """Compute in a precision.

        Raises:
            ModelLoadError: the network cannot be computed in it here.
        """
        if self.flat and self._predictor.device.type == "cpu" and precision is not Precision.FLOAT32:
            raise ModelLoadError("A 2-D nnU-Net computes in float32 on a CPU; `precision: float32` was expected.")
        self.network.use(precision)

    @property
    def transpose(self) -> Sequence[int]:
        """Which axis (z, y, x) of a case each axis of what is prepared is."""
        axes: Sequence[int] = self._predictor.plans_manager.transpose_forward
        return axes

    def prepare(self, images: NDArray[np.float32], spacing_mm: Sequence[float]) -> tuple[torch.Tensor, Properties]:
        """Crop, normalise and resample a case as the plans say.

        Args:
            images: ``(C, z, y, x)``. Not modified.
            spacing_mm: along z, y, x.

        Returns:
            The network's input ``(C, A, B, C)`` float32, and what was noted.
        """
        own = self._predictor
        properties: Properties = {"spacing": list(spacing_mm)}
        data, _, properties = self._preprocessor.run_case_npy(
            images, None, properties, own.plans_manager, own.configuration_manager, own.dataset_json
        )
        return torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32)), properties

    def scores(
        self,
        inputs: torch.Tensor,
        *,
        on_host: bool,
        progress: Callable[[float], None],
        cancelled: Callable[[], bool],
    ) -> torch.Tensor:
        """Return the scores ``(classes, A, B, C)`` float16 on the CPU of what `prepare` gave.

        Args:
            inputs: not modified.
            on_host: whether windows are added up in main memory.
            progress: told the done fraction.
            cancelled: asked before each window.

        Raises:
            Cancelled: `cancelled` said so.
            RuntimeError: the network failed.
        """
        threads = torch.get_num_threads()
        self._predictor.perform_everything_on_device = self._predictor.device.type == "cuda" and not on_host
        self.network.start(progress, cancelled)
        try:
            scores: torch.Tensor = self._predictor.predict_logits_from_preprocessed_data(inputs)
        finally:
            torch.set_num_threads(threads)  # nnunetv2 takes eight at most
        self.network.finish()
        return scores

    def labels(self, scores: torch.Tensor, properties: Properties) -> NDArray[Any]:
        """Return the labels (z, y, x) on the case's grid, as nnunetv2 itself writes them."""
        own = self._predictor
        labels: NDArray[Any] = convert_predicted_logits_to_segmentation_with_correct_shape(
            scores,
            own.plans_manager,
            own.configuration_manager,
            own.label_manager,
            properties,
            num_threads_torch=torch.get_num_threads(),
        )
        return labels

    @property
    def interpolates(self) -> bool:
        """Whether the plans bring scores to a case's voxels by linear interpolation."""
        return interpolates(self._predictor.configuration_manager)

    def nearest_axis(self, properties: Properties) -> int | None:
        """Return the axis of the scores along which the plans take the nearest slice instead of interpolating."""
        spacing_mm = [properties["spacing"][axis] for axis in self.transpose]
        return nearest_axis(self._predictor.configuration_manager, spacing_mm)


class _Predictor(nnUNetPredictor):  # type: ignore[misc]
    """Tells its network how much there is to do, and goes to no further window when that has stopped."""

    def __init__(self, chosen: NnUNet, device: torch.device) -> None:
        super().__init__(
            tile_step_size=chosen.step, use_mirroring=chosen.mirroring, device=device, verbose=False, allow_tqdm=False
        )

    def _internal_get_sliding_window_slicers(self, image_size: tuple[int, ...]) -> _Windows:
        windows = _Windows(super()._internal_get_sliding_window_slicers(image_size))
        windows.network = self.network
        mirrors = 2 ** len(self.allowed_mirroring_axes or ()) if self.use_mirroring else 1
        self.network.expect(len(windows) * mirrors * len(self.list_of_parameters))
        return windows


class _Windows(list[Any]):
    """Windows that end when the network has stopped."""

    network: WatchedNetwork

    def __iter__(self) -> Iterator[Any]:
        return takewhile(lambda _: not self.network.stopped, super().__iter__())


def _read_folds(folder: Path, chosen: NnUNet) -> dict[str, Checkpoint]:
    """Return the checkpoints of the folds to run, by their names."""
    paths = find_checkpoints(folder, chosen)
    return {
        path.relative_to(folder).as_posix(): read_checkpoint(path, trusted=chosen.trust_checkpoint) for path in paths
    }


def _configuration(plans: PlansManager, name: str) -> ConfigurationManager:
    if name not in plans.available_configurations:
        raise ModelLoadError(f"{PLANS} has no configuration '{name}', of which the checkpoint is.")
    configuration = plans.get_configuration(name)
    if configuration.previous_stage_name:
        raise ModelLoadError(
            f"'{name}' is the second stage of a cascade, which needs the labels of the first one and is not served."
        )
    return configuration
