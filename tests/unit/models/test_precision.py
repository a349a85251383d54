"""The choice of backend and precision: the fastest that agrees with plain float32, found out once."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import LOAD, WHOLE, Bundle, axis_geometry, conv, slope_volume

from inference_server.errors import ModelLoadError
from inference_server.imaging.nifti import write_labels
from inference_server.imaging.volume import Volume
from inference_server.models import precision, trials
from inference_server.models.backends import PLAIN, Mode, modes
from inference_server.models.check import check_model
from inference_server.models.engine import Engine
from inference_server.models.example import read_example
from inference_server.models.manifest import Backend, Manifest, Precision
from inference_server.models.precision import settle
from inference_server.models.registry import Model, Registry, read_model
from inference_server.models.runtimes.monai_bundle import MonaiBundle
from inference_server.models.trials import Agreement, Outcome, Trials, compare

CPU = torch.device("cpu")
HALF = Mode(precision=Precision.BFLOAT16)
TRACED = Mode(Backend.TRACED)
TRACED_HALF = Mode(Backend.TRACED, Precision.BFLOAT16)
WINDOW = (1, 1, 8, 8, 8)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return read_model(with_example(Bundle(manifest={"example": "example.nii.gz"}), tmp_path / "levels"))


def with_example(bundle: Bundle, folder: Path, *, name: str = "example.nii.gz") -> Path:
    folder.mkdir()
    (folder / name).parent.mkdir(exist_ok=True)
    volume = slope_volume(axis_geometry())
    write_labels(folder / name, Volume((volume.array > 0).astype("uint8"), volume.geometry))
    return bundle.write(folder)


@pytest.fixture(autouse=True)
def possible(monkeypatch: pytest.MonkeyPatch) -> None:
    """This device computes in float32 and bfloat16, with torch alone."""
    monkeypatch.setattr("inference_server.models.backends.half_precisions", lambda _: (Precision.BFLOAT16,))
    monkeypatch.setattr("inference_server.models.backends.find_spec", lambda _: None)


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> dict[Mode, float]:
    """Seconds that a window seems to take in each mode."""
    seconds = {PLAIN: 1.0, TRACED: 0.98, HALF: 0.2, TRACED_HALF: 0.19}
    measured = Trials._seconds

    def pretended(self: Trials) -> float:
        measured(self)
        return seconds[Mode(self._runtime.backend, self._runtime.precision)]

    monkeypatch.setattr(Trials, "_seconds", pretended)
    return seconds


def loaded(model: Model) -> MonaiBundle:
    runtime = MonaiBundle(model)
    runtime.load(CPU)
    return runtime


def mode_of(runtime: MonaiBundle) -> Mode:
    return Mode(runtime.backend, runtime.precision)


def test_half_precision_is_used_where_it_is_faster_and_gives_the_same_labels(
    model: Model, speed: dict[Mode, float]
) -> None:
    runtime = loaded(model)
    assert settle(runtime, CPU, cache_dir=None) == Outcome(HALF, Agreement(), 1.0, 0.2, WINDOW)
    assert mode_of(runtime) == HALF


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({HALF: 0.2, TRACED_HALF: 0.15}, TRACED_HALF),
        ({HALF: 0.95, TRACED_HALF: 0.95}, PLAIN),
        ({HALF: 0.95, TRACED_HALF: 0.95, TRACED: 0.5}, TRACED),
        ({HALF: 0.95, TRACED_HALF: 0.89}, TRACED_HALF),
    ],
    ids=["a faster graph", "nothing gains", "a graph in float32", "a graph alone gains"],
)
def test_the_plainest_of_the_fast_modes_is_used(
    model: Model, speed: dict[Mode, float], changed: dict[Mode, float], expected: Mode
) -> None:
    speed.update(changed)
    runtime = loaded(model)
    assert settle(runtime, CPU, cache_dir=None).mode == expected
    assert mode_of(runtime) == expected


def test_half_precision_is_not_used_where_labels_differ(
    tmp_path: Path, speed: dict[Mode, float], caplog: pytest.LogCaptureFixture
) -> None:
    """The border between two classes lies between 1 and 1.001: in bfloat16 both are 1."""
    caplog.set_level(logging.INFO)
    state = {"weight": torch.tensor([1.0, 1.001]).view(2, 1, 1, 1, 1), "bias": torch.zeros(2)}
    bundle = Bundle(network=conv(1, 2), state=state, transforms=LOAD, manifest={"example": "example.nii.gz"})
    runtime = loaded(read_model(with_example(bundle, tmp_path / "fine")))
    assert settle(runtime, CPU, cache_dir=None).mode == PLAIN
    prepared = runtime.prepare(read_example(runtime.model))  # type: ignore[arg-type]
    scores = runtime.predict(prepared, progress=lambda _: None, cancelled=lambda: False).scores
    assert float(scores[1].max()) == pytest.approx(1.001, abs=1e-5)
    refused = [record.__dict__ for record in caplog.records if record.message == "mode not used"]
    assert [line["mode"] for line in refused] == ["bfloat16", "bfloat16, traced"]
    assert all("of the voxels, Dice 0.0000, agree with float32" in line["why"] for line in refused)


def test_labels_agree_by_their_voxels_and_by_the_dice_of_each() -> None:
    expected = np.zeros((10, 100, 100), np.uint8)
    expected[0, :2] = 1
    found = expected.copy()
    found[0, 0, 0] = 0
    assert compare((expected,), (expected,)) == Agreement(1.0, 1.0)
    one_less = compare((expected, expected), (expected, found))
    assert one_less == Agreement(0.99999, pytest.approx(2 * 199 / 399))
    assert one_less.suffices
    found[0, 0, :3] = 0
    assert not compare((expected,), (found,)).suffices  # 99.997 % of the voxels, but Dice 0.992
    elsewhere = expected.copy()
    elsewhere[5, 5, 5] = 2
    assert compare((expected,), (elsewhere,)).dice == 0.0
    assert not Agreement(0.998, 1.0).suffices


def test_a_mode_that_the_network_cannot_do_is_not_used(
    model: Model, speed: dict[Mode, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: MonaiBundle, wanted: Mode) -> None:
        raise RuntimeError("expected scalar type Float but found BFloat16")

    monkeypatch.setattr(MonaiBundle, "compute", refuse)
    assert settle(loaded(model), CPU, cache_dir=None).mode == PLAIN


def test_no_further_mode_is_tried_when_the_time_is_up(
    model: Model, speed: dict[Mode, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "LIMIT_S", -1.0)
    assert settle(loaded(model), CPU, cache_dir=None).mode == PLAIN


def test_the_outcome_is_remembered_for_the_same_model_alone(
    model: Model, speed: dict[Mode, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []
    find = precision._find
    monkeypatch.setattr(precision, "_find", lambda *a: found.append(a[0].model.digest) or find(*a))
    cache = tmp_path / "cache"
    outcomes = [settle(loaded(model), CPU, cache_dir=cache) for _ in range(3)]
    assert len(found) == 1
    assert outcomes == [Outcome(HALF, Agreement(), 1.0, 0.2, WINDOW)] * 3
    settle(loaded(Model(model.manifest, model.folder, "other")), CPU, cache_dir=cache)
    assert found == [model.digest, "other"]
    for path in cache.iterdir():
        path.write_text("damaged")
    settle(loaded(model), CPU, cache_dir=cache)
    assert len(found) == 3


def test_what_a_busy_machine_had_no_time_for_is_tried_again_a_few_times(
    model: Model, speed: dict[Mode, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Outcome] = []
    find = precision._find
    monkeypatch.setattr(precision, "_find", lambda *a: found.append(find(*a)) or found[-1])
    cache = tmp_path / "cache"
    monkeypatch.setattr(trials, "LIMIT_S", -1.0)
    assert [settle(loaded(model), CPU, cache_dir=cache).mode for _ in range(5)] == [PLAIN] * 5
    assert len(found) == precision.CUT_SHORT_LIMIT


def test_what_a_busy_machine_had_no_time_for_is_found_once_it_is_idle(
    model: Model, speed: dict[Mode, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as busy:
        busy.setattr(trials, "LIMIT_S", -1.0)
        assert settle(loaded(model), CPU, cache_dir=tmp_path).mode == PLAIN
    assert [settle(loaded(model), CPU, cache_dir=tmp_path).mode for _ in range(2)] == [HALF, HALF]


def test_without_an_example_nothing_can_be_compared(tmp_path: Path) -> None:
    runtime = loaded(read_model(Bundle().write(tmp_path / "levels")))
    assert settle(runtime, CPU, cache_dir=tmp_path / "cache") == Outcome(PLAIN)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"precision": "bfloat16"}, HALF),
        ({"backend": "traced"}, TRACED),
        ({"backend": "traced", "precision": "bfloat16"}, TRACED_HALF),
    ],
)
def test_what_the_manifest_says_is_not_questioned(tmp_path: Path, declared: dict[str, str], expected: Mode) -> None:
    runtime = loaded(read_model(Bundle(manifest=declared).write(tmp_path / "levels")))
    settle(runtime, CPU, cache_dir=None)
    assert mode_of(runtime) == expected


def test_a_precision_that_the_manifest_names_leaves_the_backend_to_be_chosen(
    tmp_path: Path, speed: dict[Mode, float]
) -> None:
    bundle = Bundle(manifest={"example": "example.nii.gz", "precision": "bfloat16"})
    speed[TRACED_HALF] = 0.1
    runtime = loaded(read_model(with_example(bundle, tmp_path / "levels")))
    assert settle(runtime, CPU, cache_dir=None).mode == TRACED_HALF
    speed.update({HALF: 2.0, TRACED_HALF: 2.0})
    slow = loaded(runtime.model)
    assert settle(slow, CPU, cache_dir=None).mode == HALF


def test_a_backend_that_is_asked_for_and_not_installed_fails_the_model(tmp_path: Path) -> None:
    runtime = loaded(read_model(Bundle(manifest={"backend": "openvino"}).write(tmp_path / "levels")))
    with pytest.raises(ModelLoadError, match="backend openvino, which is not installed"):
        settle(runtime, CPU, cache_dir=None)


def test_graphs_are_for_processors_and_for_networks_that_are_not_compiled() -> None:
    everything = Manifest(id="a")
    assert modes(CPU, everything) == (PLAIN, TRACED, HALF, TRACED_HALF)
    assert {mode.backend for mode in modes(torch.device("cuda"), everything)} == {Backend.EAGER}
    assert {mode.backend for mode in modes(CPU, Manifest(id="a", compile=True))} == {Backend.EAGER}
    assert modes(torch.device("cuda"), Manifest(id="a", backend="openvino", precision="float32")) == (PLAIN,)


def test_the_check_of_a_model_says_what_it_found_in_the_example(model: Model, speed: dict[Mode, float]) -> None:
    engine = Engine(Registry([]), device=CPU)
    speed[TRACED_HALF] = 0.1
    check = check_model(model, engine)
    image = read_example(model)
    assert image is not None
    low, high = (float((image.reference.array == value).sum()) for value in (0, 1))
    voxel_cc = image.reference.geometry.voxel_volume_mm3 / 1000
    assert check.volumes_cc == pytest.approx({"low": low * voxel_cc, "high": high * voxel_cc})
    assert check.mode == "bfloat16, traced"
    assert str(check).startswith("levels 2.1.0: works (bfloat16, traced, ")


def test_an_example_of_several_channels_is_a_folder(tmp_path: Path) -> None:
    bundle = Bundle(channels={"0": "a", "1": "b"}, manifest={"example": "example"}, inferer=dict(WHOLE))
    folder = with_example(bundle, tmp_path / "two", name="example/0.nii.gz")
    with pytest.raises(ModelLoadError, match="holds 1 images; the model takes 2"):
        read_example(read_model(folder))
    volume = read_example(
        read_model(with_example(Bundle(manifest={"example": "e.nii"}), tmp_path / "one", name="e.nii"))
    )
    assert volume is not None
    write_labels(folder / "example" / "1.nii.gz", volume.reference)
    case = read_example(read_model(folder))
    assert case is not None
    assert list(case.channels) == ["a", "b"]
