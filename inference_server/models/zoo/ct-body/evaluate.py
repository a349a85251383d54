"""Measure the agreement of the bundle with the classical algorithm: ``python evaluate.py --data DIR``.

Each CT runs through the bundle's own preprocessing, inferer and postprocessing, in float32 and in bfloat16, and
is compared on the grid of the file.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import torch
from cases import HELD_OUT, TRAINING_CTS
from classical import LABELS, segment
from monai.bundle import ConfigParser
from safetensors.torch import load_file

from inference_server.imaging.phantom import PhantomOptions, ct_phantom

HERE = Path(__file__).parent
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LUNG_CLASSES = range(10, 15)
# Sacrum and vertebrae; humeri, scapulae, clavicles; femora and hips; skull, ribs and sternum.
BONE_CLASSES = (*range(25, 51), *range(69, 79), *range(91, 117))
UNSEEN_PHANTOMS = {
    "phantom": (64, 192, 192, PhantomOptions()),
    "phantom, arms, contrast": (80, 160, 160, PhantomOptions(arms="down", contrast_hu=250, noise_hu=25)),
    "phantom, abdomen": (60, 150, 150, PhantomOptions(centre_mm=(0, 0, -180), noise_hu=20)),
}


@dataclass(frozen=True)
class Reference:
    """What an image is compared with: masks ``(3, Z, Y, X)`` bool, None where a label is not known."""

    name: str
    image: Path
    masks: tuple[np.ndarray | None, ...]
    within: np.ndarray | None = None


@dataclass(frozen=True)
class Bundle:
    """A network with its weights in each precision, and the transforms and the inferer about it."""

    networks: dict[str, torch.nn.Module]
    preprocessing: Callable[[Any], Any]
    inferer: Callable[..., torch.Tensor]
    postprocessing: Callable[[Any], Any]

    @classmethod
    def load(cls, folder: Path, weights: Path) -> Bundle:
        """Read the bundle's configuration; its last postprocessing step, saving, is left out."""
        config = ConfigParser(ConfigParser.load_config_file(folder / "configs" / "inference.json"))
        last = len(config["postprocessing"]["transforms"]) - 1
        config[f"postprocessing#transforms#{last}#_disabled_"] = True
        network = config.get_parsed_content("network_def")
        network.load_state_dict(load_file(weights))
        network = network.eval().to(memory_format=torch.channels_last_3d)
        parts = (config.get_parsed_content(name) for name in ("preprocessing", "inferer", "postprocessing"))
        networks = {name: deepcopy(network).to(dtype) for name, dtype in PRECISIONS.items()}
        return cls(networks, *parts)

    @torch.inference_mode()
    def segment(self, image: Path, *, precision: str) -> tuple[np.ndarray, float]:
        """Masks ``(3, Z, Y, X)`` bool on the grid of the file, and the seconds that the network took."""
        network, dtype = self.networks[precision], PRECISIONS[precision]
        item = self.preprocessing({"image": str(image)})
        start = time.perf_counter()
        item["pred"] = self.inferer(item["image"][None], lambda window: network(window.to(dtype)).float())[0]
        seconds = time.perf_counter() - start
        return self.postprocessing(item)["pred"].numpy().transpose(0, 3, 2, 1) > 0.5, seconds


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Dice overlap of two masks; 1 where both are empty."""
    total = int(found.sum()) + int(truth.sum())
    return 2.0 * int((found & truth).sum()) / total if total else 1.0


def references(data: Path, scratch: Path) -> Iterator[Reference]:
    """Every comparison: the held-out CT first, then phantoms that training never saw, then the training CTs."""
    held_out = next((data / "ct").glob(f"{HELD_OUT}_512*.nii.gz"))
    yield _by_algorithm("HELD OUT chest_4dlung_p113, algorithm", held_out)
    for seed, (name, (z, y, x, options)) in enumerate(UNSEEN_PHANTOMS.items(), start=10**6):
        yield _phantom(name, (z, y, x), seed, options, scratch)
    for name in TRAINING_CTS:
        yield _by_algorithm(f"trained on: {Path(name).parent.name}, algorithm", data / name)
    for name in TRAINING_CTS[1:]:
        yield _total_segmentator(data / name)


def _by_algorithm(name: str, image: Path) -> Reference:
    volume = SimpleITK.ReadImage(image)
    return Reference(name, image, tuple(segment(SimpleITK.GetArrayFromImage(volume), volume.GetSpacing())))


def _phantom(name: str, shape: tuple[int, int, int], seed: int, options: PhantomOptions, scratch: Path) -> Reference:
    phantom = ct_phantom(shape, spacing_mm=(2.0, 2.0, 4.0), seed=seed, options=options)
    image = SimpleITK.GetImageFromArray(phantom.image)
    image.SetSpacing(phantom.spacing_mm)
    path = scratch / f"{seed}.nii.gz"
    SimpleITK.WriteImage(image, path)
    return Reference(f"{name}, truth", path, tuple(phantom.truth[label] for label in LABELS))


def _total_segmentator(image: Path) -> Reference:
    """Lungs and bones of the 117-class map; forearms, which it leaves out, are left out here too."""
    volume = SimpleITK.ReadImage(image)
    classes = SimpleITK.ReadImage(image.with_name("label_117class.nii.gz"))
    classes = SimpleITK.Resample(classes, volume, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
    labels = SimpleITK.GetArrayFromImage(classes)
    trunk = segment(SimpleITK.GetArrayFromImage(volume), volume.GetSpacing())[0]
    pieces = SimpleITK.RelabelComponent(
        SimpleITK.ConnectedComponent(SimpleITK.GetImageFromArray(trunk.astype(np.uint8)))
    )
    masks = (None, np.isin(labels, LUNG_CLASSES), np.isin(labels, BONE_CLASSES))
    name = f"{image.parent.name}, TotalSegmentator's map, trunk"
    return Reference(name, image, masks, SimpleITK.GetArrayFromImage(pieces) == 1)


def row(reference: Reference, bundle: Bundle) -> str:
    """One line of the table per precision, and how many voxels both precisions agree on."""
    lines, results = [], {}
    for precision in PRECISIONS:
        results[precision], seconds = bundle.segment(reference.image, precision=precision)
        lines.append(_line(reference, precision, results[precision], f"{seconds:.1f}"))
    equal = float((results["float32"] == results["bfloat16"]).all(0).mean())
    lines[-1] = f"{lines[-1][:-2]} {100 * equal:.3f} % |"
    if reference.within is not None:
        volume = SimpleITK.ReadImage(reference.image)
        algorithm = segment(SimpleITK.GetArrayFromImage(volume), volume.GetSpacing())
        lines.append(_line(reference, "the algorithm itself", algorithm, ""))
    return "\n".join(lines)


def _line(reference: Reference, who: str, found: np.ndarray, seconds: str) -> str:
    within = True if reference.within is None else reference.within
    scores = [
        "" if truth is None else f"{dice(mask & within, truth & within):.4f}"
        for mask, truth in zip(found, reference.masks, strict=True)
    ]
    return f"| {reference.name} | {who} | {' | '.join(scores)} | {seconds} | |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the CTs")
    parser.add_argument("--bundle", type=Path, default=HERE)
    parser.add_argument("--weights", type=Path, help="another weights file than the bundle's own")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bundle = Bundle.load(args.bundle, args.weights or args.bundle / "models" / "model.safetensors")
    print(f"| image, compared with | computed in | {' | '.join(LABELS)} | network, s | equal in both |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for reference in references(args.data, Path(scratch)):
            print(row(reference, bundle), flush=True)


if __name__ == "__main__":
    main()
