"""Scores that are decided row by row give the labels that scores of the whole case give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from bundles import AXIS_CODES, Bundle, axis_geometry, centred
from safetensors.torch import save_file

from inference_server.imaging.volume import Geometry, Volume
from inference_server.models import sums
from inference_server.models.case import Case
from inference_server.models.registry import read_model
from inference_server.models.runtimes import make_runtime
from inference_server.models.runtimes.base import Prediction, Runtime
from inference_server.models.trouble import Effort


def noise(geometry: Geometry, seed: int = 0) -> Volume:
    return Volume(np.random.default_rng(seed).normal(size=geometry.shape).astype(np.float32), geometry)


def load(folder: Path) -> Runtime:
    runtime = make_runtime(read_model(folder))
    runtime.load(torch.device("cpu"))
    return runtime


def write_network(folder: Path, **manifest: Any) -> Path:
    """Write a network of three random classes, in windows that are shorter along one axis than the others."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    state = {"weight": torch.randn(3, 1, 3, 3, 3, generator=generator), "bias": torch.tensor([0.5, 0.0, 0.0])}
    save_file(state, folder / "model.safetensors")
    arguments = {"in_channels": 1, "out_channels": 3, "kernel_size": 3, "padding": 1}
    declared = {
        "runtime": "network",
        "network": {"class": "torch.nn.Conv3d", "arguments": arguments},
        "inferer": {"kind": "windows", "size": [8, 6, 8]},
        "precision": "float32",
        **manifest,
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(declared))
    return folder


def predict(runtime: Runtime, case: Case, effort: Effort) -> Prediction:
    runtime.effort = effort
    return runtime.predict(runtime.prepare(case), progress=lambda _: None, cancelled=lambda: False)


def both(runtime: Runtime, case: Case) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the segmentations from scores of the whole case, and from rows."""
    whole, rows = predict(runtime, case, Effort()), predict(runtime, case, Effort(thrifty=True))
    assert whole.segmentations == ()
    assert rows.segmentations
    assert rows.scores.numel() == 0
    return runtime.restore(whole).segmentations, runtime.restore(rows).segmentations


def assert_same(whole: tuple[Any, ...], rows: tuple[Any, ...]) -> None:
    assert len(whole) == len(rows) > 0
    for expected, found in zip(whole, rows, strict=True):
        assert (found.name, found.names) == (expected.name, expected.names)
        assert found.labels.geometry == expected.labels.geometry
        assert found.labels.array.dtype == expected.labels.array.dtype
        assert len(np.unique(expected.labels.array)) > 1
        np.testing.assert_array_equal(found.labels.array, expected.labels.array)


@pytest.mark.parametrize("restore", ["argmax", "threshold"])
@pytest.mark.parametrize("spacing", [None, [1.3, 1.2, 1.7], [0.6, 0.7, 0.9]], ids=["same", "coarse", "fine"])
def test_rows_are_decided_as_the_whole_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spacing: list[float] | None, restore: str
) -> None:
    monkeypatch.setattr(sums, "PIECE_BYTES", 16_384)
    runtime = load(write_network(tmp_path / "model", prepare={"spacing_mm": spacing}, restore=restore))
    for codes in AXIS_CODES[::13]:
        case = Case({"image": noise(axis_geometry(codes))}, scaling_factor=(2, 1, 3))
        assert_same(*both(runtime, case))


def test_rows_that_the_network_does_not_see_are_background_as_well(tmp_path: Path) -> None:
    runtime = load(write_network(tmp_path / "model", prepare={"size": [9, 30, 16], "crop": {"above": 2.0}}))
    case = Case({"image": noise(axis_geometry("RAI"))}, scaling_factor=(1, 2, 2))
    assert_same(*both(runtime, case))


def test_a_bundle_is_decided_by_rows_too(tmp_path: Path) -> None:
    runtime = load(Bundle().write(tmp_path / "model"))
    assert_same(*both(runtime, Case({"image": noise(axis_geometry("SLA"))})))


def test_axes_that_are_not_parallel_need_the_whole_scores_in_half_precision(tmp_path: Path) -> None:
    spacing = {"_target_": "Spacingd", "keys": "image", "pixdim": [1.2, 1.2, 1.2], "mode": "bilinear", "diagonal": True}
    turn = np.deg2rad(20)
    about = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    case = Case({"image": noise(centred((9, 14, 11), (1.0, 1.5, 2.5), about))})
    bundle = Bundle()
    bundle.transforms = (*bundle.transforms, spacing)
    runtime = load(bundle.write(tmp_path / "model"))
    whole, half = predict(runtime, case, Effort()), predict(runtime, case, Effort(thrifty=True))
    assert (half.scores.dtype, half.segmentations) == (torch.float16, ())
    (note,) = half.notes
    assert "half precision" in note
    (expected,), (found,) = runtime.restore(whole).segmentations, runtime.restore(half).segmentations
    assert np.mean(found.labels.array == expected.labels.array) >= 0.999


PEAK = """
import sys
from pathlib import Path
import numpy as np, torch
from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.case import Case
from inference_server.models.registry import read_model
from inference_server.models.runtimes import make_runtime
from inference_server.models.trouble import Effort

torch.set_num_threads(1)
runtime = make_runtime(read_model(Path(sys.argv[1])))
runtime.load(torch.device("cpu"))
array = np.random.default_rng(0).integers(0, 99, (120, 64, 64)).astype(np.float32)
case = Case({"image": Volume(array, Geometry(array.shape))})
runtime.effort = Effort(thrifty=sys.argv[2] == "thrifty")

def peak():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

prepared = runtime.prepare(case)
before = peak()
prediction = runtime.predict(prepared, progress=lambda _: None, cancelled=lambda: False)
(found,) = runtime.restore(prediction).segmentations
print(peak() - before, int(found.labels.array.sum(dtype=np.int64)))
"""


def test_120_classes_take_the_memory_of_a_row_of_windows(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    save_file(
        {"weight": torch.randn(120, 1, 1, 1, 1, generator=generator), "bias": torch.randn(120, generator=generator)},
        folder / "model.safetensors",
    )
    network = {"class": "torch.nn.Conv3d", "arguments": {"in_channels": 1, "out_channels": 120, "kernel_size": 1}}
    declared = {
        "runtime": "network",
        "network": network,
        "inferer": {"kind": "windows", "size": [32, 32, 8]},
        "precision": "float32",
        "activation": "none",
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(declared))
    found = {}
    for how in ("whole", "thrifty"):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(folder), how], capture_output=True, text=True, check=True
        )
        found[how] = [int(word) for word in done.stdout.split()]
    (whole, labels), (thrifty, same_labels) = found["whole"], found["thrifty"]
    scores = 4 * 120 * 120 * 64 * 64
    assert labels == same_labels
    assert whole >= 0.9 * scores
    assert thrifty <= scores / 2  # a row of windows is a fifteenth, of which there are some copies
