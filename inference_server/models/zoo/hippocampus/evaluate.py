"""Measure the Dice of a bundle on the test cases: ``python -m …hippocampus.evaluate --data DIR``.

Each case runs through the bundle's own preprocessing, inferer and postprocessing, in float32 and in
bfloat16, and is compared with its label map on the grid of the file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from inference_server.models.zoo.hippocampus.cases import BUNDLE, LabelledCase, read_config, split_cases

LABELS = {1: "anterior", 2: "posterior"}
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Bundle:
    """A network with its weights, and the transforms and the inferer about it."""

    network: torch.nn.Module
    preprocessing: Callable[[Any], Any]
    inferer: Callable[..., torch.Tensor]
    postprocessing: Callable[[Any], Any]

    @torch.inference_mode()
    def segment(self, image: Path, *, precision: str) -> Array:
        """Segment an image file.

        Args:
            image: NIfTI file of one MR volume.
            precision: a key of `PRECISIONS`.

        Returns:
            Labels ``(X, Y, Z)`` uint8 on the grid and in the axis order of the file.
        """
        dtype = PRECISIONS[precision]
        item = self.preprocessing({"image": str(image)})
        batch = item["image"][None].contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", dtype) if dtype else nullcontext():
            item["pred"] = self.inferer(batch, self.network)[0].float()
        return np.asarray(self.postprocessing(item)["pred"][0].numpy(), dtype=np.uint8)


def load_bundle(folder: Path, weights: Path) -> Bundle:
    """Load a bundle folder with a weights file; its last postprocessing step, saving, is left out."""
    config = read_config(folder)
    last = len(config["postprocessing"]["transforms"]) - 1
    config[f"postprocessing#transforms#{last}#_disabled_"] = True
    network = config.get_parsed_content("network_def")
    network.load_state_dict(load_file(weights))
    network = network.eval().to(memory_format=torch.channels_last_3d)
    parts = (config.get_parsed_content(name) for name in ("preprocessing", "inferer", "postprocessing"))
    return Bundle(network, *parts)


def dice(found: Array, truth: Array, label: int) -> float:
    """Return the Dice overlap of one label in two label maps of the same shape, 0 to 1."""
    a, b = found == label, truth == label
    return 2.0 * int((a & b).sum()) / max(1, int(a.sum()) + int(b.sum()))


def measure(bundle: Bundle, cases: list[LabelledCase], *, precision: str) -> Array:
    """Return the Dice of each case and label, ``(cases, 2)`` float64."""
    found = (bundle.segment(case.image, precision=precision) for case in cases)
    return np.array([_scores(labels, case.read_label()) for case, labels in zip(cases, found, strict=True)])


def table(scores: dict[str, Array]) -> str:
    """Format mean, standard deviation, median and least Dice per precision and label, as Markdown."""
    lines = ["| precision | label | mean | sd | median | min |", "|---|---|---|---|---|---|"]
    for precision, values in scores.items():
        for name, column in zip(LABELS.values(), values.T, strict=True):
            figures = (column.mean(), column.std(ddof=1), np.median(column), column.min())
            cells = [precision, name, *(f"{figure:.4f}" for figure in figures)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table for the test cases of a data folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with imagesTr and labelsTr")
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--weights", type=Path, help="another weights file than the bundle's own")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    weights = arguments.weights or arguments.bundle / "models" / "model.safetensors"
    bundle = load_bundle(arguments.bundle, weights)
    cases = split_cases(arguments.data)[1]
    print(f"{len(cases)} test cases\n")
    print(table({precision: measure(bundle, cases, precision=precision) for precision in PRECISIONS}))


def _scores(found: Array, truth: Array) -> list[float]:
    return [dice(found, truth, label) for label in LABELS]


if __name__ == "__main__":
    main()
