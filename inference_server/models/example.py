"""A model's example case."""

from __future__ import annotations

from inference_server.errors import ModelLoadError
from inference_server.imaging.nifti import read_volume
from inference_server.models.case import Case
from inference_server.models.manifest import example_path
from inference_server.models.registry import Model

LIMIT_BYTES = 1024**3


def read_example(model: Model) -> Case | None:
    """Return the model's example, or None where it has none.

    It is one image, or a folder of images that are the channels in the order of their names.

    Raises:
        ModelLoadError: it holds fewer or more images than the model takes.
    """
    path = example_path(model.manifest, model.folder)
    if path is None:
        return None
    files = sorted(path.glob("*.nii*")) if path.is_dir() else [path]
    names = [channel.name for channel in model.manifest.channels]
    if not model.manifest.required_channels <= len(files) <= len(names):
        raise ModelLoadError(f"The example holds {len(files)} images; the model takes {len(names)}.")
    volumes = [read_volume(file, max_bytes=LIMIT_BYTES) for file in files]
    defaults = model.manifest.check_parameters({})
    return Case(dict(zip(names, volumes, strict=False)), parameters=defaults)
