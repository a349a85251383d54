"""The backend and precision that this machine takes by itself, on real images: the labels of plain float32."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import inference_server.models.zoo
from inference_server.imaging.nifti import read_volume, write_labels
from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.backends import PLAIN
from inference_server.models.case import Case
from inference_server.models.engine import Engine
from inference_server.models.registry import Registry
from inference_server.models.trials import compare, enter

ZOO = Path(inference_server.models.zoo.__path__[0])
MESHNET = Path(__file__).resolve().parents[2] / "examples" / "models" / "meshnet"
WEIGHTS = {"brain-tissue": "meshnet_tissue_light_3cls"}
HEAD = "mr/t1_crop_256_1mm_LIA.nii.gz"
Box = tuple[slice, slice, slice]

pytestmark = pytest.mark.timeout(1200)


def part(path: Path, box: Box) -> Volume:
    """Return a part of an image, as an image of its own."""
    whole = read_volume(path, max_bytes=2**30)
    array = np.ascontiguousarray(whole.array[box])
    grid = whole.geometry
    first = [axis.indices(length)[0] for axis, length in zip(box, grid.shape, strict=True)]
    x, y, z = (float(value) for value in (grid.affine @ [*first[::-1], 1.0])[:3])
    return Volume(array, Geometry(array.shape, grid.spacing_mm, (x, y, z), grid.direction))  # type: ignore[arg-type]


def everything() -> Box:
    return slice(None), slice(None), slice(None)


def meshnet(real_data: Path, name: str, folder: Path) -> Path:
    """Write a published network as a model with an example: the left half of a head."""
    weights = real_data / "models" / f"{WEIGHTS[name]}.safetensors"
    if not weights.is_file():
        pytest.skip("the published weights are not here")
    model = Path(shutil.copytree(MESHNET / name, folder / name))
    shutil.copy(weights, model / "model.safetensors")
    manifest = (model / "model.yaml").read_text().replace("size: [256, 256, 256]", "multiple_of: 16")
    if "example:" not in manifest:
        manifest += "example: example.nii.gz\n"
        example = part(real_data / HEAD, (slice(64, 176), slice(64, 176), slice(48, 128)))
        write_labels(model / "example.nii.gz", Volume(example.array.astype(np.uint16), example.geometry))
    (model / "model.yaml").write_text(manifest)
    return model


@pytest.mark.parametrize(
    ("name", "image", "box"),
    [
        ("hippocampus", "labelled/msd_task04_hippocampus", everything()),
        ("ct-body", "ct/chest_lidc0001_512x512x16.nii.gz", everything()),
        ("brain-tissue", HEAD, (slice(64, 176), slice(64, 176), slice(128, 208))),
    ],
)
def test_the_default_mode_gives_the_labels_of_float32(
    real_data: Path, tmp_path: Path, modes: Path, name: str, image: str, box: Box
) -> None:
    folder = ZOO / name if name not in WEIGHTS else meshnet(real_data, name, tmp_path / "models")
    registry = Registry([folder])
    model = registry.get(name)
    path = real_data / image
    path = sorted(path.rglob("imagesTr/*.nii.gz"))[-1] if path.is_dir() else path
    case = Case({model.manifest.channels[0].name: part(path, box)})
    engine = Engine(registry, cache_dir=modes)
    runtime = engine.load(model)
    by_itself = engine.run(model, case)
    enter(runtime, engine.device, PLAIN)
    exact = engine.run(model, case)
    agreement = compare(*(tuple(one.labels.array for one in run.segmentations) for run in (exact, by_itself)))
    marked = {int(value) for one in exact.segmentations for value in np.unique(one.labels.array) if value}
    assert len(marked) >= 2
    assert agreement.suffices, agreement
