"""What every benchmark shares: figures, medians, a server, cases."""

from __future__ import annotations

import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inference_server.imaging.nifti import write_labels
from inference_server.imaging.volume import Geometry, Shape, Volume
from inference_server.stack.launch import LaunchedServer, launched_server


@dataclass(frozen=True)
class Figure:
    """One measured number: what it is, its value, and the target it is held against."""

    name: str
    value: float
    unit: str
    target: str = ""
    met: bool | None = None


def at_most(name: str, value: float, limit: float, unit: str) -> Figure:
    """Return a figure that should not exceed a limit."""
    return Figure(name, value, unit, f"≤ {limit:g} {unit}", value <= limit)


def at_least(name: str, value: float, limit: float, unit: str) -> Figure:
    """Return a figure that should reach a limit."""
    return Figure(name, value, unit, f"≥ {limit:g} {unit}", value >= limit)


def median_ms(times_s: Sequence[float]) -> float:
    """Return the median of times in seconds, in milliseconds."""
    return statistics.median(times_s) * 1000


def timed(action: Callable[[], object]) -> float:
    """Return how many seconds an action took."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Side:
    """One of two things that are compared: what it is called, and what it does under each name."""

    name: str
    actions: Mapping[str, Callable[[], object]]


def in_turns(less: Side, more: Side, *, times: int, warm: int, tolerated: float) -> Iterator[Figure]:
    """Yield the median time of each action on both sides, in milliseconds, and how many times `less` `more` takes.

    Both are measured in turns, so that whatever else the machine does slows down both; the first `warm` do not count.
    """
    for what in less.actions:
        pairs = [(timed(less.actions[what]), timed(more.actions[what])) for _ in range(warm + times)][warm:]
        less_ms, more_ms = (median_ms(times_s) for times_s in zip(*pairs, strict=True))
        yield Figure(f"{what}, {less.name} (median)", less_ms, "ms")
        yield Figure(f"{what}, {more.name} (median)", more_ms, "ms")
        yield at_most(f"{what}, {more.name} / {less.name}", more_ms / less_ms, tolerated, "×")


@contextmanager
def bench_server(models: Path | None = None, **environment: str) -> Iterator[LaunchedServer]:
    """Run a server on an empty data folder, with the models of a folder beside the zoo."""
    settings = {f"INFERENCE_SERVER_{name}": value for name, value in environment.items()}
    arguments = ["--models", str(models)] if models else []
    with (
        tempfile.TemporaryDirectory() as data,
        (Path(data) / "server.log").open("w") as log,
        launched_server(Path(data) / "server", arguments=arguments, environment=settings, log=log) as server,
    ):
        yield server


def write_image(path: Path, shape: Shape, *, seed: int = 0) -> Path:
    """Write a 16-bit NIfTI image of noise around a bright box; `shape` is (z, y, x)."""
    array = np.random.default_rng(seed).integers(0, 60, shape).astype(np.uint16)
    middle = tuple(slice(size // 4, max(size // 4 + 1, size // 2)) for size in shape)
    array[middle] += 100
    write_labels(path, Volume(array, Geometry(shape)))
    return path


def write_zip(path: Path, image: Path) -> Path:
    """Write the case of the MIM dialect with one image."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.write(image, "tmp_0000.nii.gz")
    return path
