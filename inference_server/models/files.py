"""The files that a model's runtime needs, as far as they can be checked without running anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from inference_server.errors import ModelLoadError
from inference_server.models.bundle import find_weights, read_inference_config
from inference_server.models.manifest import Manifest, example_path
from inference_server.models.nnunet_folder import NNUNET, NnUNet, check_nnunet

WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "network": ("model.safetensors", "model.pt"),
    "torchscript": ("model.ts", "model.pt"),
    "exported": ("model.pt2",),
}
"""The names by which each runtime finds its weights where the manifest does not name them."""


def check_files(manifest: Manifest, folder: Path) -> None:
    """Check that a model's files are there.

    Raises:
        ModelLoadError: one is missing.
    """
    if manifest.runtime == "monai-bundle":
        find_weights(folder)
        read_inference_config(folder)
    elif manifest.runtime == NNUNET:
        check_nnunet(folder, manifest.nnunet or NnUNet())
    elif manifest.runtime in WEIGHTS:
        weights_path(manifest, folder)
    if manifest.network and manifest.network.file and not (folder / manifest.network.file).is_file():
        raise ModelLoadError(f"The network's file {manifest.network.file} is missing.")
    if manifest.app_file and not (folder / manifest.app_file).is_file():
        raise ModelLoadError(f"The app's file {manifest.app_file} is missing.")
    example = example_path(manifest, folder)
    if example and not example.exists():
        raise ModelLoadError(f"The example image {manifest.example} is missing.")


def weights_path(manifest: Manifest, folder: Path) -> Path:
    """Return the file of a model's weights.

    Raises:
        ModelLoadError: there is none, or it lies outside of the folder.
    """
    names = (manifest.weights,) if manifest.weights else WEIGHTS[manifest.runtime]
    for name in names:
        if not (folder / name).absolute().is_relative_to(folder.absolute()) or ".." in Path(name).parts:
            raise ModelLoadError("The file of the weights is expected in the model's folder.")
        if (folder / name).is_file():
            return folder / name
    raise ModelLoadError(f"The model has no weights: {' or '.join(names)} was expected.")
