"""Trains a small nnU-Net on some hippocampus cases, with nnunetv2 itself: `nnunet_training.py CASES FOLDER`.

A program of its own, since nnunetv2 reads its folders from the environment and starts processes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

DATASET = "Dataset004_Hippocampus"
CASES = 10
FOLDS = (0, 1)
EPOCHS, ITERATIONS = 2, 50
LEARNING_RATE = 5e-3
SPACING_MM = (1.0, 1.25, 1.25)
"""Of the network, z, y, x: not the cases' own, so that something is resampled."""


def main(cases: Path, folder: Path) -> None:
    """Train all folds; `folder` then holds `results`, as nnunetv2 writes it."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(folder / name)
        (folder / name).mkdir(parents=True)
    copy_cases(cases, folder / "raw" / DATASET)
    plan(folder / "preprocessed" / DATASET)
    os.environ.update(nnUNet_n_proc_DA="0")  # no processes of its own; planning would take it for a number of threads
    for fold in FOLDS:
        train(folder / "preprocessed" / DATASET, fold)


def copy_cases(cases: Path, raw: Path) -> None:
    """Lay some cases out as nnunetv2 expects them."""
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    for image in sorted((cases / "imagesTr").glob("*.nii.gz"))[:CASES]:
        shutil.copy(image, raw / "imagesTr" / image.name.replace(".nii.gz", "_0000.nii.gz"))
        shutil.copy(cases / "labelsTr" / image.name, raw / "labelsTr" / image.name)
    described = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
        "numTraining": CASES,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(described))


def plan(preprocessed: Path) -> None:
    """Have nnunetv2 plan and preprocess; the network it plans is replaced by a tiny one."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    api.extract_fingerprint_dataset(4, num_processes=1, show_progress_bar=False)
    api.plan_experiment_dataset(4, overwrite_target_spacing=SPACING_MM)
    path = preprocessed / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = [32, 32, 24]
    configuration["architecture"]["arch_kwargs"].update(
        n_stages=3,
        features_per_stage=[8, 16, 32],
        kernel_sizes=[[3, 3, 3]] * 3,
        strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        n_conv_per_stage=[1, 1, 1],
        n_conv_per_stage_decoder=[1, 1],
    )
    path.write_text(json.dumps(plans))
    api.preprocess_dataset(4, configurations=("3d_fullres",), num_processes=(1,), show_progress_bar=False)


def train(preprocessed: Path, fold: int) -> None:
    """Train one fold; nnunetv2 writes plans, dataset and checkpoints into its folder of results.

    Adam and patches as they are have it learn sooner than nnU-Net's own ways. It is asked about mirror images all the
    same.
    """
    import numpy as np
    import torch
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA

    def optimizers() -> tuple[Any, Any]:
        adam = torch.optim.Adam(trainer.network.parameters(), LEARNING_RATE)
        return adam, PolyLRScheduler(adam, LEARNING_RATE, EPOCHS)

    def augmentation() -> Any:
        planned = nnUNetTrainerNoDA.configure_rotation_dummyDA_mirroring_and_inital_patch_size(trainer)
        trainer.inference_allowed_mirroring_axes = (0, 1, 2)
        return planned

    torch.manual_seed(fold)
    np.random.seed(fold)  # what nnunetv2 draws from
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False
    dataset = json.loads((preprocessed / "dataset.json").read_text())
    trainer = nnUNetTrainerNoDA(plans, "3d_fullres", fold, dataset, device=torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = EPOCHS, ITERATIONS, 4
    trainer.configure_optimizers = optimizers
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size = augmentation
    trainer.run_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
