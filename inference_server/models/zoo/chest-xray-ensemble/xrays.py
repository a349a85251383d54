"""The pictures to train on: their labels, their patients, and what the networks see of them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference_server.imaging.picture import read_picture
from inference_server.models.case import Case
from inference_server.models.preparation import Preparation
from inference_server.models.runtimes.plain_prepare import prepare_case

CLASSES = ("normal", "pneumonia")
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Xray:
    """A labelled picture.

    Attributes:
        path: its file.
        name: which it is, the same wherever the data lie.
        label: 0 normal, 1 pneumonia.
        patient: whose it is; all pictures of a patient are in the same fold.
    """

    path: Path
    name: str
    label: int
    patient: str


def list_xrays(data: Path, *, most_normals: float, seed: int) -> list[Xray]:
    """Return the pictures of a folder, sorted by name.

    The folder has `labels.csv` (columns `file`, `label`, optionally `patient`; without it, the patient is the file's
    name up to the first underscore, as in ChestX-ray14), or it is the public data set ChestX-ray14 as it is published:
    `Data_Entry_2017*.csv` beside folders of PNG files. Of the latter, "No Finding" is normal, whatever includes
    "Pneumonia" is pneumonia, and the rest is left out.

    Args:
        data: the folder.
        most_normals: at most so many normal pictures are taken for each of pneumonia, at random.
        seed: of that choice.

    Raises:
        FileNotFoundError: neither table is there.
    """
    if (data / "labels.csv").is_file():
        found = list(_of_labels(data))
    elif tables := sorted(data.glob("Data_Entry_2017*.csv")):
        found = list(_of_nih(data, tables[-1]))
    else:
        raise FileNotFoundError(f"Expected labels.csv or Data_Entry_2017*.csv in the data folder {data}.")
    found.sort(key=lambda xray: xray.name)
    normal, ill = ([xray for xray in found if xray.label == label] for label in (0, 1))
    chosen = np.random.default_rng(seed).permutation(len(normal))[: int(most_normals * len(ill))]
    return sorted([*ill, *(normal[index] for index in chosen)], key=lambda xray: xray.name)


def read_xrays(xrays: Sequence[Xray], preparation: Preparation) -> Tensor:
    """Return the pictures ``(N, 1, Y, X)`` as the server would give them to a network, but float16 to save memory."""
    return torch.cat([_prepared(xray.path, preparation) for xray in xrays])


def _prepared(path: Path, preparation: Preparation) -> Tensor:
    case = Case({"image": read_picture(path, max_bytes=MAX_BYTES)})
    inputs = prepare_case(case, ["image"], preparation, flat=True).inputs
    return inputs.squeeze(-1).transpose(-1, -2)[None].half().contiguous()


def _of_labels(data: Path) -> Iterable[Xray]:
    with (data / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            name = Path(row["file"]).stem
            yield Xray(
                data / row["file"], name, CLASSES.index(row["label"]), row.get("patient") or name.partition("_")[0]
            )


def _of_nih(data: Path, table: Path) -> Iterable[Xray]:
    files = {path.name: path for path in data.rglob("*.png")}
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            findings, path = row["Finding Labels"].split("|"), files.get(row["Image Index"])
            if path and ("Pneumonia" in findings or findings == ["No Finding"]):
                yield Xray(path, path.stem, int("Pneumonia" in findings), row["Patient ID"])
