"""The choice of the precision: the fastest that agrees with float32, found out once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bundles import LOAD, WHOLE, Bundle, axis_geometry, conv, slope_volume

from inference_server.errors import ModelLoadError
from inference_server.imaging.nifti import write_labels
from inference_server.imaging.volume import Volume
from inference_server.models import precision
from inference_server.models.check import check_model
from inference_server.models.engine import Engine
from inference_server.models.example import read_example
from inference_server.models.manifest import Precision
from inference_server.models.precision import Verdict, settle
from inference_server.models.registry import Model, Registry, read_model
from inference_server.models.runtimes.monai_bundle import MonaiBundle

CPU = torch.device("cpu")
BF16 = Precision.BFLOAT16
Runtimes = Callable[..., MonaiBundle]


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
def bfloat16_is_to_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "candidates", lambda _: (BF16,))


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> dict[Precision, float]:
    """Seconds that a prediction seems to take in each precision."""
    seconds = {Precision.FLOAT32: 1.0, BF16: 0.2}
    measured = precision._predict

    def predict(runtime: MonaiBundle, case: object) -> tuple[object, float]:
        return measured(runtime, case)[0], seconds[runtime.precision]  # type: ignore[arg-type]

    monkeypatch.setattr(precision, "_predict", predict)
    return seconds


def loaded(model: Model) -> MonaiBundle:
    runtime = MonaiBundle(model)
    runtime.load(CPU)
    return runtime


def test_half_precision_is_used_where_it_is_faster_and_gives_the_same_labels(
    model: Model, speed: dict[Precision, float]
) -> None:
    runtime = loaded(model)
    verdict = settle(runtime, CPU, cache_dir=None)
    assert verdict == Verdict(BF16, 1.0, 1.0, 0.2)
    assert runtime.precision is BF16


def test_half_precision_is_not_used_where_it_gains_nothing(model: Model, speed: dict[Precision, float]) -> None:
    speed[BF16] = 0.95
    runtime = loaded(model)
    assert settle(runtime, CPU, cache_dir=None).precision is Precision.FLOAT32
    assert runtime.precision is Precision.FLOAT32


def test_half_precision_is_not_used_where_labels_differ(tmp_path: Path, speed: dict[Precision, float]) -> None:
    """The border between two classes lies between 1 and 1.001: in bfloat16 both are 1."""
    state = {"weight": torch.tensor([1.0, 1.001]).view(2, 1, 1, 1, 1), "bias": torch.zeros(2)}
    bundle = Bundle(network=conv(1, 2), state=state, transforms=LOAD, manifest={"example": "example.nii.gz"})
    runtime = loaded(read_model(with_example(bundle, tmp_path / "fine")))
    assert settle(runtime, CPU, cache_dir=None).precision is Precision.FLOAT32
    prepared = runtime.prepare(read_example(runtime.model))  # type: ignore[arg-type]
    scores = runtime.predict(prepared, progress=lambda _: None, cancelled=lambda: False).scores
    assert float(scores[1].max()) == pytest.approx(1.001, abs=1e-5)


def test_half_precision_is_not_used_where_the_network_cannot_do_it(
    model: Model, speed: dict[Precision, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: MonaiBundle, wanted: Precision) -> None:
        raise RuntimeError("expected scalar type Float but found BFloat16")

    monkeypatch.setattr(MonaiBundle, "use", refuse)
    assert settle(loaded(model), CPU, cache_dir=None).precision is Precision.FLOAT32


def test_the_verdict_is_remembered_for_the_same_model_alone(
    model: Model, speed: dict[Precision, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    compare = precision._compare
    monkeypatch.setattr(precision, "_compare", lambda *a: compared.append(a[0].model.digest) or compare(*a))
    cache = tmp_path / "cache"
    verdicts = [settle(loaded(model), CPU, cache_dir=cache) for _ in range(3)]
    assert len(compared) == 1
    assert verdicts == [Verdict(BF16, 1.0, 1.0, 0.2)] * 3
    settle(loaded(Model(model.manifest, model.folder, "other")), CPU, cache_dir=cache)
    assert compared == [model.digest, "other"]
    for path in cache.iterdir():
        path.write_text("damaged")
    settle(loaded(model), CPU, cache_dir=cache)
    assert len(compared) == 3


def test_without_an_example_nothing_can_be_compared(tmp_path: Path) -> None:
    runtime = loaded(read_model(Bundle().write(tmp_path / "levels")))
    assert settle(runtime, CPU, cache_dir=tmp_path / "cache") == Verdict(Precision.FLOAT32)
    assert not (tmp_path / "cache").exists()


def test_what_the_manifest_says_is_not_questioned(tmp_path: Path) -> None:
    runtime = loaded(read_model(Bundle(manifest={"precision": "bfloat16"}).write(tmp_path / "levels")))
    settle(runtime, CPU, cache_dir=None)
    assert runtime.precision is BF16


def test_the_check_of_a_model_says_what_it_found_in_the_example(model: Model, speed: dict[Precision, float]) -> None:
    engine = Engine(Registry([]), device=CPU)
    check = check_model(model, engine)
    image = read_example(model)
    assert image is not None
    low, high = (float((image.reference.array == value).sum()) for value in (0, 1))
    voxel_cc = image.reference.geometry.voxel_volume_mm3 / 1000
    assert check.volumes_cc == pytest.approx({"low": low * voxel_cc, "high": high * voxel_cc})
    assert check.precision == "bfloat16"
    assert str(check).startswith("levels 2.1.0: works (bfloat16, ")


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
