"""When memory does not suffice, and when the device fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from bundles import axis_geometry, expected_levels, level_state, slope_volume
from safetensors.torch import save_file

from inference_server.errors import DeviceFailed, ModelLoadError, OutOfMemory
from inference_server.models.case import Case, Result
from inference_server.models.engine import Engine
from inference_server.models.hooks import Hooks
from inference_server.models.registry import Model, Registry, read_model
from inference_server.models.trouble import is_broken_device, is_out_of_memory

CUDA_OOM = "torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')"
NETWORK = """
import torch

class Network(torch.nn.Conv3d):
    def forward(self, x):
        with open({log!r}, "a+") as log:
            log.write(str(len(x)) + " ")
            log.seek(0)
            batches = log.read().split()
        {trouble}
        return super().forward(x)
"""
FULL = "There was not enough memory for this case: "
MakeModel = Callable[..., Model]


@pytest.fixture
def case() -> Case:
    return Case({"image": slope_volume(axis_geometry())})


@pytest.fixture
def engine() -> Engine:
    return Engine(Registry([]))


@pytest.fixture
def make_troubled(tmp_path: Path) -> MakeModel:
    """Write a model that gives the class of `expected_levels`, in windows, unless there is trouble."""

    def make(trouble: str = "", *, batch: int = 8, name: str = "model", **manifest: Any) -> Model:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "net.py").write_text(NETWORK.format(trouble=trouble, log=str(folder.with_suffix(".log"))))
        save_file(level_state(), folder / "model.safetensors")
        windows = {"kind": "windows", "size": [8, 8, 8], "batch": batch}
        network = {"class": "net.py:Network", "arguments": {"in_channels": 1, "out_channels": 3, "kernel_size": 1}}
        declared = {"runtime": "network", "network": network, "inferer": windows, "precision": "float32", **manifest}
        (folder / "model.yaml").write_text(yaml.safe_dump(declared))
        return read_model(folder)

    return make


def batches_of(model: Model) -> list[int]:
    """Return the sizes of the batches that a model's network was given."""
    return [int(size) for size in model.folder.with_suffix(".log").read_text().split()]


def is_right(result: Result, case: Case) -> bool:
    return bool((result.segmentations[0].labels.array == expected_levels(case.reference.array)).all())


def test_with_enough_memory_nothing_is_said(engine: Engine, case: Case, make_troubled: MakeModel) -> None:
    model = make_troubled()
    result = engine.run(model, case)
    assert is_right(result, case)
    assert result.report.notes == ()
    assert batches_of(model) == [8]


def test_the_batch_is_halved_until_it_fits_and_the_report_says_so(
    engine: Engine, case: Case, make_troubled: MakeModel
) -> None:
    model = make_troubled(f"if len(x) > 2: raise {CUDA_OOM}")
    events: list[tuple[str, str]] = []
    result = engine.run(model, case, Hooks(event=lambda level, text: events.append((level, text))))
    assert is_right(result, case)
    notes = tuple(f"{FULL}the windows were computed {size} at a time instead of 8." for size in (4, 2))
    assert result.report.notes == notes
    assert events == [("warning", note) for note in notes]
    assert batches_of(model) == [8, 4, 2, 2, 2, 2]


def test_the_next_case_has_full_batches_again(engine: Engine, case: Case, make_troubled: MakeModel) -> None:
    model = make_troubled(f"if len(batches) == 1: raise {CUDA_OOM}")
    assert engine.run(model, case).report.notes
    result = engine.run(model, case)
    assert is_right(result, case)
    assert result.report.notes == ()
    assert batches_of(model) == [8, 4, 4, 8]


def test_other_models_are_dropped_before_less_is_computed_at_a_time(
    engine: Engine, case: Case, make_troubled: MakeModel
) -> None:
    other = engine.load(make_troubled(name="other"))
    model = make_troubled(f"if len(batches) == 1: raise {CUDA_OOM}")
    result = engine.run(model, case)
    assert result.report.notes == (f"{FULL}other models were dropped from it.",)
    assert batches_of(model) == [8, 8]
    assert engine.load(other.model) is not other


def test_scores_are_held_in_pieces_when_single_windows_do_not_suffice(
    engine: Engine, case: Case, make_troubled: MakeModel
) -> None:
    model = make_troubled(f"if len(batches) < 3: raise {CUDA_OOM}", batch=2)
    result = engine.run(model, case)
    assert is_right(result, case)
    assert result.report.notes[-1] == f"{FULL}no more of the scores was held at a time than is needed."


def test_what_fits_in_no_way_is_out_of_memory_and_the_engine_goes_on(
    engine: Engine, case: Case, make_troubled: MakeModel
) -> None:
    model = make_troubled(f"raise {CUDA_OOM}", batch=2)
    with pytest.raises(OutOfMemory):
        engine.run(model, case)
    assert is_right(engine.run(make_troubled(name="sound"), case), case)


def test_other_failures_are_not_tried_again(engine: Engine, case: Case, make_troubled: MakeModel) -> None:
    model = make_troubled("raise RuntimeError('The size of tensor a must match')")
    with pytest.raises(Exception, match="failed on this case"):
        engine.run(model, case)
    assert batches_of(model) == [8]


def elsewhere(device: str) -> Engine:
    """Return an engine on another device than the CPU: torch's `meta`, on which anything runs and gives no values."""
    return Engine(Registry([]), device=torch.device(device))


def test_sums_go_to_the_main_memory_and_then_the_cpu_takes_over(case: Case, make_troubled: MakeModel) -> None:
    model = make_troubled(f"if x.is_meta: raise {CUDA_OOM}", batch=2, resources={"cpu_fallback": True})
    held: list[bool] = []
    result = elsewhere("meta").run(model, case, Hooks(hold=noted(held)))
    assert is_right(result, case)
    assert result.report.notes == (
        f"{FULL}the windows were computed one at a time instead of 2.",
        f"{FULL}the windows were added up in the main memory.",
        "There was not enough memory for this case on the device: it was computed on the processor.",
    )
    assert held == [True, False] * 2  # to load and to predict on the device, and not on the processor


def noted(held: list[bool]) -> Callable[[], Any]:
    @contextmanager
    def hold() -> Iterator[None]:
        held.append(True)
        try:
            yield
        finally:
            held.append(False)

    return hold


def test_the_cpu_takes_over_only_where_the_manifest_allows_it(case: Case, make_troubled: MakeModel) -> None:
    model = make_troubled(f"if x.is_meta: raise {CUDA_OOM}")
    with pytest.raises(OutOfMemory):
        elsewhere("meta").run(model, case)


@pytest.mark.parametrize(
    "failure",
    [
        "torch.AcceleratorError('CUDA error: device-side assert triggered')",
        "torch.AcceleratorError('CUDA error: an illegal memory access was encountered')",
        "RuntimeError('cuDNN error: CUDNN_STATUS_EXECUTION_FAILED')",
        "RuntimeError('CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`')",
    ],
)
def test_a_broken_device_is_told_from_other_failures(
    engine: Engine, case: Case, make_troubled: MakeModel, failure: str
) -> None:
    with pytest.raises(DeviceFailed):
        engine.run(make_troubled(f"raise {failure}"), case)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("patch size (8, 8, 8)\nSeems to be OOM. Please try smaller patch size"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_out_of_memory_has_many_words(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_broken_device(error)


def test_loading_makes_room_too(case: Case, make_troubled: MakeModel, tmp_path: Path) -> None:
    engine = Engine(Registry([]))
    other = engine.load(make_troubled(name="other"))
    model = make_troubled()
    code = (model.folder / "net.py").read_text()
    first_fails = "\n    def __init__(self, **k):\n        super().__init__(**k)\n        "
    trap = f"import pathlib; p = pathlib.Path({str(tmp_path / 'tried')!r})\n        "
    check = "if not p.exists(): p.touch(); raise MemoryError"
    (model.folder / "net.py").write_text(code + first_fails + trap + check + "\n")
    assert is_right(engine.run(model, case), case)
    assert engine.load(other.model) is not other


def test_a_model_too_large_to_load_is_out_of_memory(engine: Engine, case: Case, make_troubled: MakeModel) -> None:
    model = make_troubled()
    code = (model.folder / "net.py").read_text()
    (model.folder / "net.py").write_text(code + "\n    def __init__(self, **k):\n        raise MemoryError\n")
    with pytest.raises(OutOfMemory):
        engine.load(model)
    (model.folder / "net.py").write_text(code + "\n    def __init__(self, **k):\n        raise KeyError(1)\n")
    with pytest.raises(ModelLoadError):
        engine.load(model)


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np, psutil, torch
from bundles import axis_geometry, expected_levels, slope_volume
from inference_server.errors import OutOfMemory
from inference_server.models.case import Case
from inference_server.models.engine import Engine
from inference_server.models.registry import Registry, read_model

torch.set_num_threads(1)
engine, case = Engine(Registry([])), Case({"image": slope_volume(axis_geometry())})
greedy, boundless, sound = (read_model(Path(folder)) for folder in sys.argv[1:])
assert engine.run(sound, case).report.notes == ()
limit = psutil.Process().memory_info().vms + 1024**3
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
result = engine.run(greedy, case)
assert (result.segmentations[0].labels.array == expected_levels(case.reference.array)).all()
print(*result.report.notes, sep="\\n")
try:
    engine.run(boundless, case)
except OutOfMemory:
    print("out of memory")
result = engine.run(sound, case)
assert (result.segmentations[0].labels.array == expected_levels(case.reference.array)).all()
print(*result.report.notes, "sound")
"""


def test_a_process_with_too_little_memory_computes_less_at_a_time_and_survives(make_troubled: MakeModel) -> None:
    windows_of_200_mib = "held = torch.ones(len(x), 200 * 2**18)"
    models = [
        make_troubled(windows_of_200_mib, name="greedy"),
        make_troubled("held = torch.ones(2**29)", name="boundless"),
        make_troubled(name="sound"),
    ]
    script = [sys.executable, "-c", LIMITED, *(str(model.folder) for model in models)]
    path = ":".join([str(Path(__file__).parents[2]), *sys.path])
    environment = {"PYTHONPATH": path, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    first, *_, failed, last = done.stdout.splitlines()
    assert first == f"{FULL}other models were dropped from it."
    assert f"{FULL}the windows were computed 4 at a time instead of 8." in done.stdout
    assert (failed, last) == ("out of memory", "sound")


def test_the_main_memory_that_is_left_knows_the_limit_of_a_process() -> None:
    code = (
        "import resource, psutil; from inference_server.models.memory import host_memory_left as left;"
        "limit = psutil.Process().memory_info().vms + 2**28; resource.setrlimit(resource.RLIMIT_AS, (limit, limit));"
        "print(0 < left() <= 2**28)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_labels_do_not_depend_on_what_was_tried(engine: Engine, case: Case, make_troubled: MakeModel) -> None:
    found = [
        engine.run(make_troubled(trouble, name=f"m{number}", batch=2), case).segmentations[0].labels.array
        for number, trouble in enumerate(("", f"if len(batches) < 2: raise {CUDA_OOM}"))
    ]
    np.testing.assert_array_equal(found[0], found[1])
