"""The labelled cases of MSD Task04 and the parts of this bundle that training and evaluation share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.bundle import ConfigParser

BUNDLE = Path(__file__).parent
TEST_EVERY = 4


@dataclass(frozen=True)
class LabelledCase:
    """Files of one case: an MR crop and its label map (0, 1 anterior, 2 posterior) on the same grid."""

    image: Path
    label: Path

    def read_label(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the label map in file order, ``(X, Y, Z)`` uint8."""
        return np.asarray(nibabel.load(self.label).dataobj, dtype=np.uint8)


def is_test(position: int) -> bool:
    """Tell whether the case at a position (from 0) of the sorted file names belongs to the test set."""
    return position % TEST_EVERY == TEST_EVERY - 1


def split_cases(data: Path) -> tuple[list[LabelledCase], list[LabelledCase]]:
    """List the training and the test cases of a Decathlon folder.

    The cases are sorted by file name; every fourth one is a test case, whatever else there is.

    Args:
        data: folder with ``imagesTr`` and ``labelsTr``.

    Returns:
        Training cases and test cases, disjoint, each in the order of their names.

    Raises:
        FileNotFoundError: there are no images under ``data``.
    """
    images = sorted((data / "imagesTr").glob("hippocampus_*.nii.gz"))
    if not images:
        raise FileNotFoundError(f"Expected imagesTr/hippocampus_*.nii.gz under the data folder {data}.")
    cases = [LabelledCase(image, data / "labelsTr" / image.name) for image in images]
    training = [case for position, case in enumerate(cases) if not is_test(position)]
    return training, [case for position, case in enumerate(cases) if is_test(position)]


def read_config(bundle: Path = BUNDLE) -> ConfigParser:
    """Read the inference configuration of a bundle folder."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    return parser
