"""The engine: phases, warmth, cancellation, and trouble that leaves it usable."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import LOAD, WHOLE, Bundle, axis_geometry, expected_levels, slope_volume

from inference_server.errors import Cancelled, ModelLoadError, OutOfMemory, PredictionError
from inference_server.models.case import Case
from inference_server.models.check import check_model
from inference_server.models.engine import Engine, Hooks, open_engine
from inference_server.models.registry import Model, Registry
from inference_server.models.runtimes.monai_bundle import MonaiBundle
from inference_server.settings import Settings

MakeModel = Callable[..., Model]
CODE = {"_target_": "scripts.network.Network"}


@pytest.fixture
def engine() -> Engine:
    return Engine(Registry([]), device=torch.device("cpu"), threads=2)


@pytest.fixture
def case() -> Case:
    return Case({"image": slope_volume(axis_geometry())}, assumed=("The directions were assumed.",))


def make_scripted(folder: Path, forward: str) -> Model:
    """Write a bundle whose network is Python code of its own."""
    from inference_server.models.registry import read_model

    Bundle(network=CODE, state={"weight": torch.zeros(1)}, transforms=LOAD, inferer=dict(WHOLE)).write(folder)
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").touch()
    (folder / "scripts" / "network.py").write_text(
        "import torch\n"
        "class Network(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.weight = torch.nn.Parameter(torch.zeros(1))\n"
        "    def forward(self, x):\n"
        f"        {forward}\n"
    )
    return read_model(folder)


def test_a_run_reports_its_phases_progress_and_how_it_was_done(
    engine: Engine, case: Case, make_model: MakeModel
) -> None:
    model, phases, progress = make_model(), [], []
    result = engine.run(model, case, Hooks(phase=phases.append, progress=progress.append))
    (found,) = result.segmentations
    np.testing.assert_array_equal(found.labels.array, expected_levels(case.reference.array))
    assert phases == ["loading", "preparing", "predicting", "restoring"]
    assert progress == pytest.approx([(done + 1) / 8 for done in range(8)])
    report = result.report
    assert (report.model, report.version, report.digest) == ("levels", "2.1.0", model.digest)
    assert (report.precision, report.backend) == ("float32", "eager")
    assert report.notes == ("The directions were assumed.",)
    assert report.device.startswith("cpu")
    assert set(report.timings_s) == set(phases)
    assert report.software["torch"] == torch.__version__


def test_from_the_second_case_on_nothing_is_loaded(engine: Engine, case: Case, make_model: MakeModel) -> None:
    model = make_model()
    engine.load(model)
    phases: list[str] = []
    result = engine.run(model, case, Hooks(phase=phases.append))
    assert phases == ["preparing", "predicting", "restoring"]
    assert "loading" not in result.report.timings_s


def test_a_model_whose_folder_changed_is_loaded_again(engine: Engine, make_model: MakeModel) -> None:
    model = make_model()
    first = engine.load(model)
    assert engine.load(model) is first
    changed = Model(model.manifest, model.folder, "another digest")
    assert engine.load(changed) is not first
    assert engine.load(model) is not first


def test_the_least_recently_used_model_makes_room(make_model: MakeModel) -> None:
    one, two, three = (make_model(name) for name in ("one", "two", "three"))
    size = MonaiBundle(one)
    size.load(torch.device("cpu"))
    engine = Engine(Registry([]), budget_bytes=2 * size.size_bytes)
    first, second = engine.load(one), engine.load(two)
    assert engine.load(one) is first
    engine.load(three)
    assert engine.load(one) is first
    assert engine.load(two) is not second


def test_the_device_is_held_only_to_load_and_to_predict(engine: Engine, case: Case, make_model: MakeModel) -> None:
    seen: list[str] = []

    @contextmanager
    def hold() -> Iterator[None]:
        seen.append("held")
        yield
        seen.append("freed")

    engine.run(make_model(), case, Hooks(phase=seen.append, hold=hold))
    held = ["held", "freed"]
    assert seen == ["loading", *held, "preparing", "predicting", *held, "restoring"]


def test_a_cancelled_run_stops_before_the_next_window(engine: Engine, case: Case, make_model: MakeModel) -> None:
    progress: list[float] = []
    with pytest.raises(Cancelled):
        engine.run(make_model(), case, Hooks(progress=progress.append, cancelled=lambda: len(progress) >= 3))
    assert len(progress) == 3


def test_a_run_that_is_cancelled_before_it_begins_loads_nothing(
    engine: Engine, case: Case, make_model: MakeModel
) -> None:
    phases: list[str] = []
    with pytest.raises(Cancelled):
        engine.run(make_model(), case, Hooks(phase=phases.append, cancelled=lambda: True))
    assert phases == []


@pytest.mark.parametrize(
    "forward",
    [
        "raise MemoryError",
        "raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate')",
        "return torch.empty(2**61, dtype=torch.uint8)",
    ],
)
def test_out_of_memory_is_said_and_survived(
    engine: Engine, case: Case, make_model: MakeModel, tmp_path: Path, forward: str
) -> None:
    greedy = make_scripted(tmp_path / "greedy", forward)
    with pytest.raises(OutOfMemory, match="more memory than the worker's device has"):
        engine.run(greedy, case)
    assert engine.run(make_model(), case).segmentations[0].labels.array.any()


def test_what_a_failed_run_held_in_memory_is_freed(engine: Engine, case: Case, tmp_path: Path) -> None:
    forward = "held = torch.zeros(7); Network.seen = __import__('weakref').ref(held); raise MemoryError(Network)"
    with pytest.raises(OutOfMemory) as caught:
        engine.run(make_scripted(tmp_path / "greedy", forward), case)
    network = caught.value.__cause__.args[0]  # type: ignore[union-attr]
    assert network.seen() is None


def test_any_other_failure_is_a_neutral_sentence(
    engine: Engine, case: Case, make_model: MakeModel, tmp_path: Path
) -> None:
    broken = make_scripted(tmp_path / "broken", "raise KeyError('/secret/path')")
    with pytest.raises(PredictionError) as caught:
        engine.run(broken, case)
    assert "secret" not in caught.value.message
    assert isinstance(caught.value.__cause__, KeyError)
    assert engine.run(make_model(), case).segmentations


@pytest.mark.parametrize("value", ["torch.nan", "torch.inf"])
def test_numbers_that_are_none_are_refused(engine: Engine, case: Case, tmp_path: Path, value: str) -> None:
    forward = f"x = torch.zeros(1, 3, *x.shape[2:]); x[0, 1, 4, 5, 6] = {value}; return x"
    with pytest.raises(PredictionError, match="not numbers"):
        engine.run(make_scripted(tmp_path / "infinite", forward), case)


def test_the_first_output_of_several_is_the_segmentation(engine: Engine, case: Case, tmp_path: Path) -> None:
    forward = "y = torch.zeros(1, 3, *x.shape[2:]); y[:, 2] = 1; return {'out': [y, x]}"
    (found,) = engine.run(make_scripted(tmp_path / "several", forward), case).segmentations
    assert (found.labels.array == 2).all()


def test_bundles_with_modules_of_the_same_name_do_not_mix(engine: Engine, case: Case, tmp_path: Path) -> None:
    for value in (1, 2):
        forward = f"y = torch.zeros(1, 3, *x.shape[2:]); y[:, {value}] = 1; return y"
        (found,) = engine.run(make_scripted(tmp_path / f"model{value}", forward), case).segmentations
        assert (found.labels.array == value).all()
    assert not [name for name in sys.modules if name.startswith("scripts")]
    assert str(tmp_path) not in "".join(sys.path)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"state": {"weight": torch.zeros(3, 1, 1, 1, 1)}}, "do not fit the network"),
        ({"more": {"inferer": {"_target_": "NoSuchInferer"}}}, "could not be loaded"),
        ({"more": {"preprocessing": "$None"}}, "monai.transforms.Compose"),
    ],
)
def test_a_model_that_cannot_be_loaded_says_so(
    engine: Engine, case: Case, make_model: MakeModel, parts: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelLoadError, match=sentence):
        engine.run(make_model(**parts), case)


def test_weights_that_run_code_are_not_read(engine: Engine, make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(weights="pt")
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return open, (str(trap), "w")

    torch.save({"model": {"weight": Trap()}}, model.folder / "models" / "model.pt")
    with pytest.raises(ModelLoadError, match="without running code"):
        engine.load(model)
    assert not trap.exists()


def test_the_engine_of_the_settings_runs_the_check_of_a_model(make_model: MakeModel, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", device="cpu", cpu_threads=2)
    engine = open_engine(settings, Registry([]))
    assert str(check_model(make_model(), engine)) == "levels 2.1.0: loads (float32); it declares no example to run"
