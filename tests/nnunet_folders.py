"""nnU-Net folders written by hand, whose network is one convolution, and what nnunetv2 itself answers with them."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from bundles import Bundle, level_state
from numpy.typing import NDArray

from inference_server.imaging.volume import Volume

LINEAR = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}


class OneConvolution(torch.nn.Conv3d):
    """A network that plans can name."""

    def __init__(self, input_channels: int, num_classes: int, kernel_size: int, deep_supervision: bool) -> None:
        super().__init__(input_channels, num_classes, kernel_size, padding=kernel_size // 2)


class SignOfConvolution(OneConvolution):
    """Scores of -1, 0 and 1, which the sums in float16 keep apart wherever the convolution changes its sign."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image).sign()


class FlatConvolution(torch.nn.Conv2d):
    """One convolution of slices."""

    def __init__(self, input_channels: int, num_classes: int, kernel_size: int, deep_supervision: bool) -> None:
        super().__init__(input_channels, num_classes, kernel_size, padding=kernel_size // 2)


@dataclass
class Folder:
    """What `write` puts into a folder; everything has a value that works. Spacing and patch are along z, y, x."""

    folds: Mapping[int | str, Mapping[str, torch.Tensor]] = field(default_factory=lambda: {0: level_state()})
    labels: dict[str, Any] = field(default_factory=lambda: {"background": 0, "low": 1, "high": 2})
    channels: dict[str, str] = field(default_factory=lambda: {"0": "T1"})
    spacing: Sequence[float] = (1.0, 1.0, 1.0)
    patch: Sequence[int] = (8, 8, 8)
    transpose: Sequence[int] = (0, 1, 2)
    network: type[torch.nn.Module] = OneConvolution
    kernel_size: int = 1
    normalization: str = "NoNormalization"
    mirror: tuple[int, ...] | None = None
    checkpoint: str = "checkpoint_final.pth"
    trainer: str = "nnUNetTrainer"
    dataset: dict[str, Any] = field(default_factory=dict)
    plans: dict[str, Any] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        described = {"channel_names": self.channels, "labels": self.labels, "file_ending": ".nii.gz", **self.dataset}
        (folder / "dataset.json").write_text(json.dumps(described))
        (folder / "plans.json").write_text(json.dumps(self._plans()))
        for fold, state in self.folds.items():
            (folder / f"fold_{fold}").mkdir()
            torch.save(self._checkpoint(fold, state), folder / f"fold_{fold}" / self.checkpoint)
        if self.manifest:
            (folder / "model.yaml").write_text(yaml.safe_dump(self.manifest))
        return folder

    def _plans(self) -> dict[str, Any]:
        backward = [list(self.transpose).index(axis) for axis in range(3)]
        return {
            "dataset_name": "Dataset001_Levels",
            "plans_name": "nnUNetPlans",
            "image_reader_writer": "SimpleITKIO",
            "label_manager": "LabelManager",
            "transpose_forward": list(self.transpose),
            "transpose_backward": backward,
            "foreground_intensity_properties_per_channel": {index: {} for index in self.channels},
            "configurations": {"3d_fullres": {**self._configuration(), **self.configuration}},
            **self.plans,
        }

    def _configuration(self) -> dict[str, Any]:
        return {
            "preprocessor_name": "DefaultPreprocessor",
            "patch_size": list(self.patch),
            "spacing": list(self.spacing),
            "normalization_schemes": [self.normalization] * len(self.channels),
            "use_mask_for_norm": [False] * len(self.channels),
            **{f"resampling_fn_{what}": "resample_data_or_seg_to_shape" for what in ("data", "seg", "probabilities")},
            "resampling_fn_data_kwargs": LINEAR,
            "resampling_fn_seg_kwargs": {**LINEAR, "is_seg": True},
            "resampling_fn_probabilities_kwargs": LINEAR,
            "architecture": {
                "network_class_name": f"{self.network.__module__}.{self.network.__name__}",
                "arch_kwargs": {"kernel_size": self.kernel_size},
                "_kw_requires_import": [],
            },
        }

    def _checkpoint(self, fold: int | str, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Return what nnU-Net's trainers save, numbers of numpy's and all."""
        return {
            "network_weights": dict(state),
            "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(-0.5)], "lrs": [0.01]},
            "_best_ema": np.float64(0.5),
            "current_epoch": 1,
            "init_args": {"configuration": "3d_fullres", "fold": fold, "device": torch.device("cuda", 0)},
            "trainer_name": self.trainer,
            "inference_allowed_mirroring_axes": self.mirror,
        }


NOT_RESAMPLED = {
    f"resampling_fn_{what}{ending}": value
    for what in ("data", "seg", "probabilities")
    for ending, value in (("", "no_resampling_hack"), ("_kwargs", {}))
}


def write_nnunet(bundle: Bundle, folder: Path) -> Path:
    """Write a bundle's model as an nnU-Net folder; one with postprocessing of its own gives labels itself."""
    kinds = {transform["_target_"]: transform for transform in bundle.transforms}
    spacing = kinds.get("Spacingd", {}).get("pixdim")
    own = any(step["_target_"] == "LabelFilterd" for step in bundle.post)
    chosen = {"nnunet": {"orientation": kinds["Orientationd"]["axcodes"]}} if "Orientationd" in kinds else {}
    return Folder(
        folds={0: {name: value - value[1:2] for name, value in bundle.state.items()}},
        labels={name: int(value) for value, name in bundle.classes.items()},
        channels=bundle.channels,
        spacing=spacing or (1.0, 1.0, 1.0),
        patch=bundle.inferer.get("roi_size", (32, 32, 32)),
        network=OneConvolution if spacing else SignOfConvolution,
        kernel_size=bundle.network["kernel_size"],
        normalization="ZScoreNormalization" if "NormalizeIntensityd" in kinds else "NoNormalization",
        configuration={} if spacing else NOT_RESAMPLED,
        manifest={**({"restore": "labels"} if own else {}), **chosen, **bundle.manifest},
    ).write(folder)


def answer_of_nnunetv2(
    folder: Path, channels: Sequence[Volume], *, folds: Sequence[int | str] = (0,), **options: Any
) -> NDArray[Any]:
    """Return the labels (z, y, x) that nnunetv2 itself gives for a case.

    It looks for trainers in modules that need packages which are not here, and is told where they are.
    """
    from nnunetv2.inference import predict_from_raw_data as nnunetv2

    from inference_server.models.runtimes.nnunet_network import find_trainer

    arrays = np.stack([volume.array.astype(np.float32) for volume in channels])
    spacing_mm = channels[0].geometry.spacing_mm[::-1]
    finding = mock.patch.object(nnunetv2, "recursive_find_trainer_class_by_name", find_trainer)
    with finding, contextlib.redirect_stdout(io.StringIO()):
        predictor = nnunetv2.nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, **options)
        checkpoint = next(folder.glob("fold_*/*.pth")).name
        predictor.initialize_from_trained_model_folder(str(folder), list(folds), checkpoint)
        labels: NDArray[Any] = predictor.predict_single_npy_array(
            arrays, {"spacing": list(spacing_mm)}, None, None, False
        )
    return labels
