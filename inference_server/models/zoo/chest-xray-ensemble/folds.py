"""Who is in which fold, and what was said of whom: a cross-validation that goes on where it was stopped."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xrays import Xray

Array = NDArray[Any]


@dataclass(frozen=True)
class Said:
    """The probability that a network gave for a picture which it was not trained on."""

    model: str
    repeat: int
    fold: int
    picture: str
    chance: float


def deal(xrays: Sequence[Xray], folds: int, *, seed: int) -> Array:
    """Return each picture's fold, ``(N,)``: a patient's are together, and each fold has its share of either class."""
    ill = {xray.patient: 0 for xray in xrays} | {xray.patient: 1 for xray in xrays if xray.label}
    patients = np.random.default_rng(seed).permutation(sorted(ill))
    ordered = sorted(patients, key=lambda patient: ill[patient])
    of_patient = {patient: place % folds for place, patient in enumerate(ordered)}
    return np.array([of_patient[xray.patient] for xray in xrays])


class Record:
    """A file of all that was said, one fold after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Said]:
        """Return what is there."""
        if not self._path.is_file():
            return []
        with self._path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [_said(**row) for row in rows]

    def add(self, said: Iterable[Said]) -> None:
        """Add one fold."""
        is_new = not self._path.is_file()
        with self._path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow([field.name for field in fields(Said)])
            writer.writerows(astuple(one) for one in said)


def table_of(said: Iterable[Said], xrays: Sequence[Xray]) -> Mapping[str, Array]:
    """Return for each model the probabilities ``(repeats, N)`` of those repeats that are complete."""
    place = {xray.name: index for index, xray in enumerate(xrays)}
    found: dict[str, dict[int, Array]] = {}
    for one in said:
        row = found.setdefault(one.model, {}).setdefault(one.repeat, np.full(len(xrays), np.nan))
        row[place[one.picture]] = one.chance
    complete = {model: _complete(rows) for model, rows in found.items()}
    return {model: np.stack(rows) for model, rows in complete.items() if rows}


def together(tables: Mapping[str, Array]) -> Array:
    """Return the ensemble's probabilities ``(repeats, N)``: the mean of networks trained on the same folds."""
    repeats = min(map(len, tables.values()))
    return np.mean([table[:repeats] for table in tables.values()], axis=0)


def _said(model: str, repeat: str, fold: str, picture: str, chance: str) -> Said:
    return Said(model, int(repeat), int(fold), picture, float(chance))


def _complete(rows: Mapping[int, Array]) -> list[Array]:
    return [rows[repeat] for repeat in sorted(rows) if not np.isnan(rows[repeat]).any()]
