"""Networks that are compiled, and that cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import Bundle, axis_geometry, expected_levels, slope_volume
from plain_models import write_plain

from inference_server.models.case import Case
from inference_server.models.compiled import Compiled
from inference_server.models.engine import Engine
from inference_server.models.registry import Registry, read_model

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of torch's own compiler


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch.compiler.reset()


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler here")
@pytest.mark.parametrize("weights", ["safetensors", "network"])
def test_a_compiled_network_gives_the_same_labels(tmp_path: Path, weights: str) -> None:
    bundle, folder = Bundle(manifest={"compile": True}), tmp_path / "model"
    write_plain(bundle, weights, folder) if weights == "network" else bundle.write(folder)
    engine, case = Engine(Registry([])), Case({"image": slope_volume(axis_geometry())})
    model = read_model(folder)
    result = engine.run(model, case)
    np.testing.assert_array_equal(result.segmentations[0].labels.array, expected_levels(case.reference.array))
    assert result.report.notes == ()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1


DOUBLED = """
import torch

class Doubled(torch.nn.Conv3d):
    def forward(self, x):
        return super().forward(x) * 2
"""
"""A convolution alone is a call of torch's library, for which no compiler is needed."""
UNCOMPILED = """
import sys
from pathlib import Path
from bundles import axis_geometry, expected_levels, slope_volume
from inference_server.models.case import Case
from inference_server.models.engine import Engine
from inference_server.models.registry import Registry, read_model

case = Case({"image": slope_volume(axis_geometry())})
result = Engine(Registry([])).run(read_model(Path(sys.argv[1])), case)
assert (result.segmentations[0].labels.array == expected_levels(case.reference.array)).all()
print(*result.report.notes)
"""


def test_without_a_compiler_the_network_runs_as_it_is_and_the_report_says_so(tmp_path: Path) -> None:
    folder = write_plain(Bundle(manifest={"compile": True}), "network", tmp_path / "model")
    (folder / "doubled.py").write_text(DOUBLED)
    manifest = (folder / "model.yaml").read_text()
    (folder / "model.yaml").write_text(manifest.replace("torch.nn.Conv3d", "doubled.py:Doubled"))
    environment = {**os.environ, "CXX": "/nowhere/c++", "PATH": "/nowhere", "PYTHONPATH": os.pathsep.join(sys.path)}
    script = [sys.executable, "-c", UNCOMPILED, str(folder)]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "The network was not compiled: there is no C++ compiler."


def test_torchscript_runs_as_it_is() -> None:
    network = Compiled(torch.jit.script(torch.nn.Conv3d(1, 2, 1)))
    assert network(torch.zeros(1, 1, 2, 2, 2)).shape == (1, 2, 2, 2, 2)  # type: ignore[attr-defined]
    assert network.notes == ("The network was not compiled: TorchScript cannot be compiled.",)


def test_what_the_network_itself_raises_is_its_own_failure() -> None:
    class Broken(torch.nn.Module):
        def forward(self, window: torch.Tensor) -> torch.Tensor:
            raise KeyError(window.shape)

    network = Compiled(Broken())
    with pytest.raises(KeyError):
        network(torch.zeros(1))
