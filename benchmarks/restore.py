"""Restoring: scores on a 1.5 mm grid become labels of 512 x 512 x 300 voxels.

Against interpolating all probabilities in float32 (`torch.nn.functional.interpolate`, and `grid_sample` for a grid at
an angle) and taking the argmax, in the same process. The scores are those of a body full of organs, with soft borders;
noise, where hardly any neighbours are of one class, is the worst there is. Each time is the best of some runs.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import Figure, at_least, at_most, timed
from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.case import Case
from inference_server.models.manifest import parse_manifest
from inference_server.models.restore import restore_scores
from inference_server.models.runtimes.base import Prediction, Prepared

SOURCE = Geometry((200, 256, 256), (1.5, 1.5, 1.5))
"""(z, y, x) of 1.5 mm."""
GRID = Geometry((300, 512, 512), (0.75, 0.75, 1.0), (-0.375, -0.375, -0.25))
"""The same field of view, edge to edge."""
SMALL_SOURCE = Geometry((50, 64, 64), (1.5, 1.5, 1.5))
SMALL_GRID = Geometry((75, 128, 128), (0.75, 0.75, 1.0), (-0.375, -0.375, -0.25))
FEW, MANY = 12, 118
REPEATS = 3
GIB = 1024**3


def measure() -> Iterator[Figure]:
    """Yield the figures; those of many classes are of a process of their own, with the scores in bfloat16."""
    few = organs(FEW)
    whole_s, two_steps_s, ours_s, equal = compare(few)
    yield Figure(f"{FEW} classes: share of the voxels that lie at a border", 100 * share_at_borders(few), "%")
    yield Figure(f"{FEW} classes: interpolate + argmax", whole_s, "s")
    yield Figure(f"{FEW} classes: interpolate + max", two_steps_s, "s")
    yield Figure(f"{FEW} classes: ours", ours_s, "s")
    yield at_least(f"{FEW} classes: interpolate + argmax / ours", whole_s / ours_s, 10, "×")
    yield Figure(f"{FEW} classes: interpolate + max / ours", two_steps_s / ours_s, "×")
    yield at_least(f"{FEW} classes: equal voxels", 100 * equal, 99.9, "%")
    yield from oblique(few)
    yield from noise()
    del few
    few_s, few_peak = alone(FEW)
    many_s, many_peak = alone(MANY)
    yield Figure(f"{FEW} classes in bfloat16", few_s, "s")
    yield Figure(f"{FEW} classes in bfloat16: peak memory beside the scores", few_peak / GIB, "GiB")
    yield Figure(f"{MANY} classes in bfloat16", many_s, "s")
    yield at_most(f"{MANY} classes / {FEW} classes", many_s / few_s, round(MANY / FEW, 1), "×")
    yield at_most(f"{MANY} classes in bfloat16: peak memory beside the scores", many_peak / GIB, 4, "GiB")


def organs(classes: int, source: Geometry = SOURCE, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return scores ``(classes, x, y, z)``: a body, and in it ellipsoids that overlap."""
    generator = np.random.default_rng(0)
    shape = source.shape[::-1]
    lines = [
        torch.linspace(-1, 1, count).view([-1 if at == axis else 1 for at in range(3)])
        for axis, count in enumerate(shape)
    ]
    scores = torch.empty(classes, *shape, dtype=dtype)
    scores[0] = 0.0
    for value in range(1, classes):
        centre, radii = generator.uniform(-0.55, 0.55, 3), generator.uniform(0.6, 1.4, 3) * 0.8 / classes ** (1 / 3)
        if value == 1:
            centre, radii = np.zeros(3), np.array([0.85, 0.7, 1.2])
        distance = sum(((line - at) / radius) ** 2 for line, at, radius in zip(lines, centre, radii, strict=True))
        height = 4.0 if value == 1 else 8.0 + value / classes
        scores[value] = ((1 - distance.sqrt()) * 60 * float(radii.min())).clamp_(-height, height)
    return scores


def restored(scores: torch.Tensor, source: Geometry = SOURCE, grid: Geometry = GRID) -> NDArray[np.uint8]:
    """Return labels (z, y, x) as a model's restoring makes them."""
    case = Case({"image": Volume(np.empty(grid.shape, np.uint8), grid)})
    prediction = Prediction(Prepared(case, torch.empty(0), source.affine), scores)
    (found,) = restore_scores(prediction, parse_manifest({"id": "m"}), "softmax")
    return found.labels.array


def interpolated(scores: torch.Tensor, grid: Geometry = GRID) -> torch.Tensor:
    """Return all probabilities on a grid of the same field of view, in float32."""
    chances = scores.float().softmax(0)[None]
    return torch.nn.functional.interpolate(chances, grid.shape[::-1], mode="trilinear", align_corners=False)[0]


def compare(scores: torch.Tensor) -> tuple[float, float, float, float]:
    """Return the seconds of interpolate + argmax, of interpolate + max, of ours, and the share of equal voxels."""
    rounds = [(*plain_times(scores), timed(lambda: restored(scores))) for _ in range(REPEATS)]
    whole, two_steps, ours = (min(column) for column in zip(*rounds, strict=True))
    expected = interpolated(scores).max(0).indices.byte().permute(2, 1, 0).numpy()
    return whole, two_steps, ours, float(np.mean(restored(scores) == expected))


def plain_times(scores: torch.Tensor) -> tuple[float, float]:
    """Return the seconds of interpolating and taking the argmax, and those with `max` in its place, which is faster."""
    started = time.perf_counter()
    chances = interpolated(scores)
    made_s = time.perf_counter() - started
    return made_s + timed(lambda: chances.argmax(0)), made_s + timed(lambda: chances.max(0))


def share_at_borders(scores: torch.Tensor) -> float:
    """Return the share of cells of the source whose corners are not all of one class."""
    labels = scores.max(0).indices
    low = high = labels
    for axis in range(3):
        count = low.shape[axis] - 1
        low = torch.minimum(low.narrow(axis, 0, count), low.narrow(axis, 1, count))
        high = torch.maximum(high.narrow(axis, 0, count), high.narrow(axis, 1, count))
    return float((low != high).float().mean())


def oblique(scores: torch.Tensor) -> Iterator[Figure]:
    """Yield the figures of a grid at an angle of 12 degrees, 75 of whose planes are interpolated for comparison."""
    turn = np.deg2rad(12)
    direction = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    row = tuple(float(value) for value in direction.ravel())
    grid = Geometry(GRID.shape, GRID.spacing_mm, (40.0, -38.0, 0.0), row)  # type: ignore[arg-type]
    part = Geometry((75, *GRID.shape[1:]), grid.spacing_mm, grid.origin_mm, grid.direction)
    ours_s = min(timed(lambda: restored(scores, grid=grid)) for _ in range(REPEATS))
    plain_s = min(timed(lambda: by_grid_sample(scores, part)) for _ in range(REPEATS)) * grid.voxels / part.voxels
    expected, found = by_grid_sample(scores, part), restored(scores, grid=part)
    yield Figure(f"{FEW} classes, at an angle: grid_sample + argmax, 4 × a quarter", plain_s, "s")
    yield Figure(f"{FEW} classes, at an angle: ours", ours_s, "s")
    yield at_least(f"{FEW} classes, at an angle: grid_sample + argmax / ours", plain_s / ours_s, 10, "×")
    yield at_least(f"{FEW} classes, at an angle: equal voxels", 100 * float(np.mean(found == expected)), 99.9, "%")


def by_grid_sample(scores: torch.Tensor, grid: Geometry) -> NDArray[np.uint8]:
    """Return labels (z, y, x) of the plain way on any grid; what lies outside the scores is background."""
    z, y, x = torch.meshgrid(*(torch.arange(count, dtype=torch.float64) for count in grid.shape), indexing="ij")
    matrix = torch.from_numpy(np.linalg.inv(SOURCE.affine) @ grid.affine)
    places = torch.stack([x, y, z], -1) @ matrix[:3, :3].T + matrix[:3, 3]
    size = torch.tensor(SOURCE.shape[::-1])
    seen = ((places >= -0.51) & (places <= size - 0.49)).all(-1)
    at = ((2 * places + 1) / size - 1).flip(-1).float()[None]
    chances = torch.nn.functional.grid_sample(
        scores.float().softmax(0)[None], at, padding_mode="border", align_corners=False
    )[0]
    return (chances.argmax(0) * seen).byte().numpy()


def noise() -> Iterator[Figure]:
    """Yield the figures of scores without any structure, on a 64th of the voxels."""
    scores = torch.randn(FEW, *SMALL_SOURCE.shape[::-1], generator=torch.Generator().manual_seed(0))
    ours_s = min(timed(lambda: restored(scores, SMALL_SOURCE, SMALL_GRID)) for _ in range(REPEATS))
    plain_s = min(timed(lambda: interpolated(scores, SMALL_GRID).argmax(0)) for _ in range(REPEATS))
    yield Figure(f"{FEW} classes of noise, 128 x 128 x 75 voxels: interpolate + argmax / ours", plain_s / ours_s, "×")


def alone(classes: int) -> tuple[float, int]:
    """Return the seconds and the bytes beside the scores that restoring takes in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.restore", str(classes)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    seconds, peak = answer.stdout.split()
    return float(seconds), int(peak)


def with_peak(action: Callable[[], object]) -> int:
    """Return by how many bytes this process's memory grew at most during an action, looking every 5 ms."""
    done, before, peak = Event(), resident_bytes(), [0]

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], resident_bytes())

    watcher = Thread(target=watch)
    watcher.start()
    action()
    done.set()
    watcher.join()
    return peak[0] - before


def resident_bytes() -> int:
    """Return what this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> None:
    """Print seconds and peak of restoring so many classes in bfloat16: the best time, the first run's memory."""
    scores = organs(int(sys.argv[1]), dtype=torch.bfloat16)
    peak = with_peak(lambda: restored(scores))
    print(min(timed(lambda: restored(scores)) for _ in range(REPEATS)), peak)


if __name__ == "__main__":
    main()
