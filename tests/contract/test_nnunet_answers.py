"""nnU-Net folders give, voxel for voxel, what nnunetv2's own predictor gives."""

from __future__ import annotations

import pickle
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import axis_geometry
from nnunet_folders import LINEAR, FlatConvolution, Folder, answer_of_nnunetv2
from scipy.ndimage import gaussian_filter

from inference_server.errors import Cancelled, ModelLoadError, PredictionError
from inference_server.imaging.volume import Volume
from inference_server.models.case import Case, Segmentation
from inference_server.models.engine import Engine
from inference_server.models.hooks import Hooks
from inference_server.models.registry import Registry, read_model
from inference_server.models.runtimes import make_runtime

SHAPE, SPACING = (14, 33, 27), (0.8, 1.1, 1.7)
TORCH = {"force_separate_z": None, "mode": "linear", "aniso_axis_mode": "nearest-exact"}


def weights(seed: int, heads: int = 3, channels: int = 1, *, size: tuple[int, ...] = (3, 3, 3)) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(heads, channels, *size, generator=generator) * 2,
        "bias": torch.randn(heads, generator=generator) / 2,
    }


def blobs(seed: int, spacing: tuple[float, float, float] = SPACING, *, rim: int = 0) -> Volume:
    """Return smooth noise; `rim` voxels at the edges are zero, more of them on one side."""
    array = np.random.default_rng(seed).normal(size=SHAPE)
    array = (gaussian_filter(array, 1.5) * 8).astype(np.float32)
    if rim:
        inner = np.zeros_like(array)
        kept = (slice(rim, -1), slice(rim + 1, -rim), slice(1, -rim - 2))
        inner[kept] = array[kept]
        array = inner
    return Volume(array, axis_geometry("LPS", SHAPE, spacing))


def served(folder: Path, *volumes: Volume, hooks: Hooks | None = None, scaling: Any = (1, 1, 1)) -> list[Segmentation]:
    registry = Registry([folder])
    assert not registry.problems()
    [model] = registry.models()
    names = [channel.name for channel in model.manifest.channels]
    case = Case(dict(zip(names, volumes, strict=True)), scaling_factor=scaling)
    return list(Engine(registry).run(model, case, *([hooks] if hooks else [])).segmentations)


VARIANTS: dict[str, tuple[Folder, dict[str, Any]]] = {
    "plain": (Folder({0: weights(0)}, patch=(8, 16, 16)), {}),
    "resampled to larger voxels": (Folder({0: weights(1)}, spacing=(2.1, 1.3, 1.4)), {}),
    "resampled to smaller voxels": (Folder({0: weights(2)}, spacing=(1.1, 0.9, 0.7), patch=(16, 16, 16)), {}),
    "transposed": (Folder({0: weights(3)}, spacing=(1.2, 1.5, 1.1), transpose=(2, 0, 1), patch=(12, 10, 8)), {}),
    "cropped": (Folder({0: weights(4)}, spacing=(1.4, 1.2, 1.2), transpose=(1, 0, 2)), {"rim": 3}),
    "thick slices": (Folder({0: weights(5)}, spacing=(5.0, 1.0, 0.9), patch=(4, 16, 16)), {}),
    "thick slices, cropped": (Folder({0: weights(6)}, spacing=(6.0, 0.9, 1.3), patch=(4, 16, 16)), {"rim": 2}),
    "case of thick slices": (Folder({0: weights(7)}, spacing=(2.0, 1.0, 1.0)), {"spacing": (0.8, 0.9, 4.0)}),
    "slice by slice": (
        Folder({0: weights(8, size=(3, 3))}, spacing=(1.0, 1.2), patch=(16, 16), network=FlatConvolution),
        {},
    ),
    "resampled by torch": (
        Folder(
            {0: weights(9)},
            spacing=(5.0, 1.0, 1.2),
            configuration={
                "resampling_fn_probabilities": "resample_torch_fornnunet",
                "resampling_fn_probabilities_kwargs": TORCH,
            },
        ),
        {},
    ),
    "smaller than a window": (Folder({0: weights(10)}, patch=(24, 48, 48)), {}),
    "normalised": (Folder({0: weights(11)}, normalization="ZScoreNormalization", spacing=(1.5, 1.2, 1.0)), {}),
    "mirrored": (Folder({0: weights(12)}, mirror=(0, 1, 2), patch=(8, 16, 16)), {}),
}
for variant, _ in VARIANTS.values():
    variant.kernel_size = 3


@pytest.mark.parametrize("name", VARIANTS)
def test_labels_are_those_of_nnunetv2(tmp_path: Path, name: str) -> None:
    declared, how = VARIANTS[name]
    folder, image = declared.write(tmp_path / "model"), blobs(21, **how)
    expected = answer_of_nnunetv2(folder, [image])
    assert np.bincount(expected.ravel(), minlength=3).min() > 0.02 * expected.size
    [found] = served(folder, image)
    assert found.labels.geometry == image.geometry
    assert np.mean(found.labels.array == expected) >= 0.999
    (folder / "model.yaml").write_text("restore: labels\n")
    [as_written] = served(folder, image)
    np.testing.assert_array_equal(as_written.labels.array, expected)


def test_scores_of_folds_are_averaged_and_folds_can_be_chosen(tmp_path: Path) -> None:
    folds = {0: weights(1, channels=2), 2: weights(2, channels=2), "all": weights(3, channels=2)}
    declared = Folder(folds, kernel_size=3, channels={"0": "T1", "1": "FLAIR"}, patch=(8, 16, 16))
    folder, images = declared.write(tmp_path / "model"), (blobs(1), blobs(2))
    answers = []
    for text, chosen in (("", [0, 2]), ("nnunet: {folds: [2]}", [2]), ("nnunet: {folds: [all, 0]}", ["all", 0])):
        (folder / "model.yaml").write_text(f"{text}\nrestore: labels\n")
        [found] = served(folder, *images)
        np.testing.assert_array_equal(found.labels.array, answer_of_nnunetv2(folder, images, folds=chosen))
        answers.append(found.labels.array)
    assert len({answer.tobytes() for answer in answers}) == 3


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("{mirroring: false}", {"use_mirroring": False}),
        ("{step: 1}", {"tile_step_size": 1}),
        ("{mirroring: true}", {}),
    ],
)
def test_mirroring_and_the_step_of_windows_can_be_chosen(tmp_path: Path, text: str, options: dict[str, Any]) -> None:
    folder = Folder({0: weights(5)}, kernel_size=3, mirror=(0, 2), patch=(8, 16, 16)).write(tmp_path / "model")
    (folder / "model.yaml").write_text(f"nnunet: {text}\n")
    calls: list[float] = []
    [found] = served(folder, blobs(3), hooks=Hooks(progress=calls.append))
    assert np.mean(found.labels.array == answer_of_nnunetv2(folder, [blobs(3)], **options)) >= 0.999
    windows = 3 * 3 * 2 if "step" in text else 5 * 4 * 2  # of 24 x 36 x 22 voxels
    mirrors = 1 if "false" in text else 4
    assert calls == pytest.approx([(done + 1) / (windows * mirrors) for done in range(windows * mirrors)])


REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": [3]}


def test_regions_are_structures_that_overlap(tmp_path: Path) -> None:
    declared = Folder(
        {0: weights(6)}, REGIONS, dataset={"regions_class_order": [3, 1, 2]}, kernel_size=3, spacing=(1.3, 1.3, 1.3)
    )
    folder, image = declared.write(tmp_path / "model"), blobs(4)
    painted = answer_of_nnunetv2(folder, [image])
    found = served(folder, image)
    assert [(one.name, {value: name.name for value, name in one.names.items()}) for one in found] == [
        ("whole", {1: "whole"}),
        ("core", {2: "core"}),
        ("rim", {3: "rim"}),
    ]
    expected = np.zeros_like(painted)
    for structure, value in zip(found, (3, 1, 2), strict=True):
        expected[structure.labels.array > 0] = value
    assert np.mean(expected == painted) >= 0.999
    assert sum((one.labels.array > 0).astype(int) for one in found).max() > 1
    (folder / "model.yaml").write_text("restore: labels\n")
    [as_written] = served(folder, image)
    np.testing.assert_array_equal(as_written.labels.array, painted)
    assert {value: name.name for value, name in as_written.names.items()} == {1: "core", 2: "rim", 3: "whole"}


def test_the_threshold_of_regions_is_one_of_probabilities(tmp_path: Path) -> None:
    declared = Folder({0: weights(6)}, REGIONS, dataset={"regions_class_order": [1, 2, 3]}, kernel_size=3)
    folder = declared.write(tmp_path / "model")
    usual = served(folder, blobs(4))
    (folder / "model.yaml").write_text("threshold: 0.9\n")
    strict = served(folder, blobs(4))
    for low, high in zip(usual, strict, strict=True):
        assert 0 < np.count_nonzero(high.labels.array) < np.count_nonzero(low.labels.array)
        assert not np.any(high.labels.array > low.labels.array)


def test_scores_are_interpolated_on_the_contour_grid(tmp_path: Path) -> None:
    folder = Folder({0: weights(1)}, kernel_size=3, spacing=(1.5, 1.0, 1.0)).write(tmp_path / "model")
    [coarse], [fine] = served(folder, blobs(21)), served(folder, blobs(21), scaling=(1, 3, 3))
    assert fine.labels.array.shape == (14, 99, 81)
    middles = fine.labels.array[:, 1::3, 1::3]
    assert np.mean(middles == coarse.labels.array) > 0.999
    blocks = np.repeat(np.repeat(coarse.labels.array, 3, axis=1), 3, axis=2)
    assert 0.01 < np.mean(fine.labels.array != blocks) < 0.3


def test_an_empty_image_has_an_answer(tmp_path: Path) -> None:
    folder = Folder(spacing=(1.3, 1.3, 1.3)).write(tmp_path / "model")
    image = blobs(1)
    [found] = served(folder, Volume(np.zeros_like(image.array), image.geometry))
    assert np.all(found.labels.array == 1)  # the level of 0


def test_images_are_turned_where_the_plans_or_the_manifest_say_so(tmp_path: Path) -> None:
    declared, image = Folder({0: weights(1)}, kernel_size=3), blobs(1)
    turned = Volume(np.ascontiguousarray(image.array[:, ::-1, ::-1]), image.geometry)
    plans = {"image_reader_writer": "NibabelIOWithReorient"}
    for name, folder in (("plans", replace(declared, plans=plans)), ("manifest", declared)):
        folder.write(tmp_path / name)
    (tmp_path / "manifest" / "model.yaml").write_text("nnunet: {orientation: RAS}\n")
    expected = answer_of_nnunetv2(tmp_path / "manifest", [turned])[:, ::-1, ::-1]
    assert np.mean(expected == answer_of_nnunetv2(tmp_path / "manifest", [image])) < 0.9
    for name in ("plans", "manifest"):
        [found] = served(tmp_path / name, image)
        assert np.mean(found.labels.array == expected) >= 0.999, name


def test_pictures_are_segmented(tmp_path: Path) -> None:
    plans = {"image_reader_writer": "NaturalImage2DIO"}
    state = {name: value.flatten(2)[..., None] if value.ndim > 1 else value for name, value in weights(1).items()}
    state["weight"] = weights(1, size=(3, 3))["weight"]
    folder = Folder({0: state}, spacing=(1.0, 1.0), patch=(16, 16), network=FlatConvolution, kernel_size=3, plans=plans)
    folder.write(tmp_path / "model")
    array = blobs(3).array[:1]
    picture = Volume(array, axis_geometry("LPS", (1, *array.shape[1:]), (0.2, 0.2, 1.0)))
    [found] = served(tmp_path / "model", picture)
    same = Volume(array, axis_geometry("LPS", (1, *array.shape[1:]), (1.0, 1.0, 999.0)))
    np.testing.assert_array_equal(found.labels.array, answer_of_nnunetv2(tmp_path / "model", [same]))


class Greeting:
    """What a checkpoint that runs code holds."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (sys.modules[__name__].greet, ())


GREETED: list[str] = []


def greet() -> str:
    GREETED.append("hello")
    return "hello"


def test_a_checkpoint_that_runs_code_is_read_only_if_it_is_trusted(tmp_path: Path) -> None:
    folder = Folder().write(tmp_path / "model")
    path = folder / "fold_0" / "checkpoint_final.pth"
    torch.save({**torch.load(path, weights_only=False), "extra": Greeting()}, path)
    with pytest.raises(ModelLoadError, match=r"fold_0/checkpoint_final\.pth holds more .*trust_checkpoint: true"):
        load(folder)
    assert not GREETED
    (folder / "model.yaml").write_text("nnunet: {trust_checkpoint: true}\n")
    load(folder)
    assert GREETED.pop() == "hello"


def load(folder: Path) -> Any:
    runtime = make_runtime(read_model(folder))
    runtime.load(torch.device("cpu"))
    return runtime


def test_numbers_pickled_before_numpy_2_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder().write(tmp_path / "model")
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    torch.save(Folder()._checkpoint(0, Folder().folds[0]), path, pickle_module=OldNames)
    assert b"numpy._core" not in path.read_bytes()
    assert b"numpy.core.multiarray" in path.read_bytes()
    load(folder)


class OldNames:
    """A pickle that calls numpy's core by its former name."""

    class Pickler(pickle._Pickler):  # type: ignore[name-defined]
        def save_global(self, obj: Any, name: str | None = None) -> None:
            if getattr(obj, "__module__", "") == "numpy._core.multiarray":
                self.write(pickle.GLOBAL + f"numpy.core.multiarray\n{obj.__name__}\n".encode())
            else:
                super().save_global(obj, name)

    loads, dumps, Unpickler = pickle.loads, pickle.dumps, pickle.Unpickler


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        (Folder(trainer="OurOwnTrainer"), "trained by 'OurOwnTrainer', which nnunetv2 does not have here"),
        (Folder(configuration={"previous_stage": "3d_lowres"}), "'3d_fullres' is the second stage of a cascade"),
        (Folder(plans={"configurations": {}}), "plans.json has no configuration '3d_fullres'"),
        (Folder({0: weights(1)}), r"in fold_0/checkpoint_final.pth do not fit .* weight should be 3 x 1 x 1 x 1 x 1"),
        (Folder(configuration={"resampling_fn_probabilities_kwargs": {**LINEAR, "order": 3}}), "`restore: labels`"),
    ],
)
def test_what_cannot_be_served_is_said(tmp_path: Path, declared: Folder, sentence: str) -> None:
    with pytest.raises(ModelLoadError, match=sentence):
        load(declared.write(tmp_path / "model"))


def test_an_unknown_trainer_can_be_replaced(tmp_path: Path) -> None:
    folder = Folder(trainer="OurOwnTrainer", manifest={"nnunet": {"trainer": "nnUNetTrainer"}}).write(tmp_path / "m")
    [found] = served(folder, blobs(1))
    assert found.labels.array.max() == 2


@pytest.mark.parametrize("trainer", ["nnUNetTrainerNoMirroring", "nnUNetTrainer_5epochs", "nnUNetTrainerBN"])
def test_variants_of_the_trainer_are_found(tmp_path: Path, trainer: str) -> None:
    from inference_server.models.runtimes.nnunet_network import find_trainer

    assert find_trainer(trainer).__name__ == trainer


def test_other_resampling_is_left_to_nnunetv2_where_the_manifest_says_labels(tmp_path: Path) -> None:
    cubic = {"resampling_fn_probabilities_kwargs": {**LINEAR, "order": 3}}
    declared = Folder({0: weights(1)}, kernel_size=3, spacing=(1.4, 1.4, 1.4), configuration=cubic)
    folder = declared.write(tmp_path / "model")
    (folder / "model.yaml").write_text("restore: labels\n")
    [found] = served(folder, blobs(5))
    np.testing.assert_array_equal(found.labels.array, answer_of_nnunetv2(folder, [blobs(5)]))


def test_cancelling_stops_between_windows_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = Folder({0: weights(1), 1: weights(2)}, kernel_size=3).write(tmp_path / "model")
    done: list[float] = []
    threads, count = threading.active_count(), torch.get_num_threads()
    with pytest.raises(Cancelled):
        served(folder, blobs(1), hooks=Hooks(progress=done.append, cancelled=lambda: len(done) == 3))
    assert len(done) == 3
    assert threading.active_count() == threads
    assert torch.get_num_threads() == count


class Failing(torch.nn.Module):
    """A network that fails in the fifth window."""

    def __init__(self, input_channels: int, num_classes: int, kernel_size: int, deep_supervision: bool) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return image.repeat(1, 3, 1, 1, 1)


def test_a_failing_network_fails_the_case_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = Folder({0: {}}, network=Failing).write(tmp_path / "model")
    runtime, threads = load(folder), threading.active_count()
    prepared = runtime.prepare(Case({"T1": blobs(1)}))
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        runtime.predict(prepared, progress=lambda _: None, cancelled=lambda: False)
    assert threading.active_count() == threads
    prediction = runtime.predict(prepared, progress=lambda _: None, cancelled=lambda: False)
    assert runtime.restore(prediction).segmentations


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    state = {"weight": torch.full((3, 1, 1, 1, 1), float("nan")), "bias": torch.zeros(3)}
    runtime = load(Folder({0: state}).write(tmp_path / "model"))
    prepared = runtime.prepare(Case({"T1": blobs(1)}))
    with pytest.raises(PredictionError, match="not numbers"):
        runtime.predict(prepared, progress=lambda _: None, cancelled=lambda: False)


def test_half_precision_gives_nearly_the_same(tmp_path: Path) -> None:
    folder = Folder({0: weights(1)}, kernel_size=3, spacing=(1.3, 1.3, 1.3)).write(tmp_path / "model")
    [exact] = served(folder, blobs(1))
    (folder / "model.yaml").write_text("precision: bfloat16\n")
    [found] = served(folder, blobs(1))
    agreement = np.mean(found.labels.array == exact.labels.array)
    assert 0.98 < agreement < 1
