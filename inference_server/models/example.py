"""A model's example case."""

from __future__ import annotations

from pathlib import Path

from inference_server.errors import ModelLoadError
from inference_server.imaging.nifti import read_volume
from inference_server.imaging.picture import read_picture
from inference_server.imaging.volume import Volume
from inference_server.models.case import Case
from inference_server.models.manifest import example_path
from inference_server.models.registry import Model

LIMIT_BYTES = 1024**3
_NIFTI = (".nii", ".nii.gz")
_IMAGES = (*_NIFTI, ".png", ".jpg", ".jpeg", ".dcm")


def read_example(model: Model) -> Case | None:
    """Return the model's example, or None where it has none.

    It is one image (NIfTI, or a picture), or a folder of images that are the channels in the order of their names.

    Raises:
        ModelLoadError: it holds fewer or more images than the model takes.
    """
    path = example_path(model.manifest, model.folder)
    if path is None:
        return None
    files = sorted(file for file in path.iterdir() if file.name.endswith(_IMAGES)) if path.is_dir() else [path]
    names = [channel.name for channel in model.manifest.channels]
    if not model.manifest.required_channels <= len(files) <= len(names):
        raise ModelLoadError(f"The example holds {len(files)} images; the model takes {len(names)}.")
    volumes = [_read(file) for file in files]
    defaults = model.manifest.check_parameters({})
    return Case(dict(zip(names, volumes, strict=False)), parameters=defaults)


def _read(file: Path) -> Volume:
    is_nifti = file.name.endswith(_NIFTI)
    return read_volume(file, max_bytes=LIMIT_BYTES) if is_nifti else read_picture(file, max_bytes=LIMIT_BYTES)
