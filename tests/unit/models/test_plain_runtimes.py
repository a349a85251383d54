"""The runtimes of plain networks: how they decide, what they compute in, and what they say of files that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from bundles import Bundle, axis_geometry, conv, expected_levels, level_state, slope_volume
from plain_models import write_plain

from inference_server.errors import ModelLoadError, PredictionError
from inference_server.imaging.volume import Volume
from inference_server.models.case import Case, Segmentation
from inference_server.models.manifest import Precision
from inference_server.models.registry import Registry, read_model
from inference_server.models.runtimes import make_runtime
from inference_server.models.runtimes.base import Runtime

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of making the test's own model

RUNTIMES = ("network", "torchscript", "exported")
POINTWISE = {"in_channels": 1, "out_channels": 3, "kernel_size": 1}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(runtime: str = "network", **manifest: Any) -> Path:
        return write_plain(Bundle(manifest=manifest), runtime, tmp_path / runtime)

    return make


def loaded(folder: Path) -> Runtime:
    runtime = make_runtime(read_model(folder))
    runtime.load(torch.device("cpu"))
    return runtime


def run(runtime: Runtime, volume: Volume) -> tuple[Segmentation, ...]:
    prepared = runtime.prepare(Case({"image": volume}))
    prediction = runtime.predict(prepared, progress=lambda _: None, cancelled=lambda: False)
    return runtime.restore(prediction).segmentations


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the manifest of a folder."""
    manifest = {**yaml.safe_load((folder / "model.yaml").read_text()), **changes}
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest))


@pytest.mark.parametrize(
    "declared", [{}, {"activation": "none", "threshold": 0.9}, {"activation": "softmax"}, {"activation": "sigmoid"}]
)
def test_structures_by_threshold_may_overlap(write: Write, declared: dict[str, Any]) -> None:
    labels = {1: {"name": "a"}, 2: {"name": "b"}, 3: {"name": "c"}}
    folder = write(restore="threshold", labels=labels, **declared)
    volume = slope_volume(axis_geometry("RAI"))
    found = run(loaded(folder), volume)
    assert [segmentation.name for segmentation in found] == ["a", "b", "c"]
    weights = level_state()
    scores = torch.from_numpy(volume.array) * weights["weight"][:, 0] + weights["bias"].view(3, 1, 1, 1)
    probabilities = {"none": scores, "softmax": scores.softmax(0)}.get(declared.get("activation"), scores.sigmoid())
    expected = (probabilities > declared.get("threshold", 0.5)).numpy()
    for value, segmentation in enumerate(found, 1):
        np.testing.assert_array_equal(segmentation.labels.array, expected[value - 1] * value)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_half_precision_is_computed_by_all_runtimes(write: Write, runtime: str) -> None:
    made = loaded(write(runtime))
    volume = slope_volume(axis_geometry("LPS"))
    assert made.choosable
    made.use(Precision.BFLOAT16)
    (found,) = run(made, volume)
    assert np.mean(found.labels.array == expected_levels(volume.array)) > 0.98
    made.load(torch.device("cpu"))
    assert made.precision is Precision.FLOAT32
    (found,) = run(made, volume)
    np.testing.assert_array_equal(found.labels.array, expected_levels(volume.array))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_weights_that_are_none_are_refused_in_words(write: Write, runtime: str) -> None:
    folder = write(runtime)
    weights = next(path for path in folder.iterdir() if path.stem == "model" and path.suffix != ".yaml")
    weights.write_bytes(b"not weights")
    with pytest.raises(ModelLoadError, match=weights.name):
        loaded(folder)


def test_weights_that_do_not_fit_are_told_by_the_first_that_does_not(write: Write) -> None:
    folder = write()
    rewrite(folder, network={"class": "torch.nn.Conv3d", "arguments": {**POINTWISE, "out_channels": 4}})
    with pytest.raises(ModelLoadError, match="weight should be 4 x 1 x 1 x 1 x 1 and is 3 x 1 x 1 x 1 x 1"):
        loaded(folder)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ({"class": "torch.nn.Conv9d"}, "torch.nn.Conv9d cannot be made: AttributeError"),
        ({"class": "nowhere.Net"}, "nowhere.Net cannot be made: ModuleNotFoundError"),
        ({"class": "torch.nn.Conv3d", "arguments": {"sides": 3}}, "unexpected keyword argument 'sides'"),
        ({"class": "pathlib.Path"}, "pathlib.Path is no torch.nn.Module"),
        ({"class": "broken.py:Net"}, r"SyntaxError: .*\(broken.py, line 2\)"),
        ({"class": "labelling.py:Other"}, "has no attribute 'Other'"),
    ],
)
def test_a_network_that_cannot_be_made_is_told_with_the_reason(
    write: Write, network: dict[str, Any], sentence: str
) -> None:
    folder = write()
    (folder / "broken.py").write_text("import torch\nclass Net(:\n")
    rewrite(folder, network=network)
    with pytest.raises(ModelLoadError, match=sentence):
        loaded(folder)


def test_a_models_file_runs_when_it_is_loaded_and_not_when_it_is_scanned(write: Write, tmp_path: Path) -> None:
    folder, trap = write(), tmp_path / "trap"
    (folder / "net.py").write_text(f"from helper import Net\nopen({str(trap)!r}, 'w').close()\n")
    (folder / "helper.py").write_text("from torch.nn import Conv3d as Net\n")
    rewrite(folder, network={"class": "net.py:Net", "arguments": POINTWISE})
    model = Registry([folder]).get(folder.name)
    assert not trap.exists()
    make_runtime(model).load(torch.device("cpu"))
    assert trap.exists()


def test_two_models_may_have_files_of_the_same_name(tmp_path: Path) -> None:
    volume = slope_volume(axis_geometry())
    for sign in (1, -1):
        state = {name: value * sign for name, value in level_state().items()}
        folder = write_plain(Bundle(state=state), "network", tmp_path / f"model{sign}")
        (folder / "net.py").write_text(
            f"import torch\nclass Net(torch.nn.Conv3d):\n    def forward(self, x): return {sign} * super().forward(x)\n"
        )
        rewrite(folder, network={"class": "net.py:Net", "arguments": POINTWISE})
        (found,) = run(loaded(folder), volume)
        np.testing.assert_array_equal(found.labels.array, expected_levels(volume.array))


def test_a_program_for_one_size_says_so_of_another(tmp_path: Path) -> None:
    folder = write_plain(Bundle(inferer={}), "exported", tmp_path / "model")
    network = torch.nn.Conv3d(1, 3, 1).eval()
    torch.export.save(torch.export.export(network, (torch.zeros(1, 1, 6, 7, 8),)), folder / "model.pt2")
    with pytest.raises(PredictionError, match="does not take an input of 1 x 1 x 11 x 14 x 9"):
        run(loaded(folder), slope_volume(axis_geometry()))
    rewrite(folder, prepare={"size": [6, 7, 8]})
    (found,) = run(loaded(folder), slope_volume(axis_geometry()))
    assert found.labels.array.shape == (9, 14, 11)


def test_argmax_of_one_channel_is_refused(tmp_path: Path) -> None:
    state = {"weight": torch.ones(1, 1, 1, 1, 1), "bias": torch.zeros(1)}
    folder = write_plain(Bundle(state=state, network=conv(1, 1)), "network", tmp_path / "model")
    with pytest.raises(PredictionError, match="gives one channel"):
        run(loaded(folder), slope_volume(axis_geometry()))
