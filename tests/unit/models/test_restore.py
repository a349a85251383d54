"""From class scores to labels on the contour grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import axis_geometry, centred, slope_volume

from inference_server.errors import PredictionError
from inference_server.imaging.nifti import read_volume, write_labels
from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.bundle import Activation
from inference_server.models.case import Case
from inference_server.models.manifest import parse_manifest
from inference_server.models.restore import restore_labels, restore_scores
from inference_server.models.runtimes.base import Prediction, Prepared

CLASSES = parse_manifest({"id": "m", "labels": {1: {"name": "one"}, 2: {"name": "two"}}})


def predicted(scores: torch.Tensor, grid: Geometry, case: Case) -> Prediction:
    return Prediction(Prepared(case, torch.zeros(1), grid.affine), scores)


def blank(geometry: Geometry) -> Volume:
    return Volume(np.zeros(geometry.shape, np.int16), geometry)


def test_classes_are_decided_on_the_contour_grid_from_interpolated_scores() -> None:
    """Two classes whose scores cross at 0.9: on a grid four times finer the border lies between 0.875 and 1.125."""
    geometry = Geometry((1, 1, 3))
    ramp = torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1)
    scores = torch.cat([torch.full_like(ramp, 0.9), ramp])
    case = Case({"image": blank(geometry)}, scaling_factor=(1, 1, 4))
    (found,) = restore_scores(predicted(scores, geometry, case), CLASSES, None)
    positions = (np.arange(12) + 0.5) / 4 - 0.5
    np.testing.assert_array_equal(found.labels.array[0, 0], (np.clip(positions, 0, 2) > 0.9).astype(np.uint8))


def test_of_equal_scores_the_lower_class_wins() -> None:
    geometry = Geometry((2, 3, 4))
    scores = torch.zeros(3, 4, 3, 2)
    scores[1:, 0] = 1.0
    (found,) = restore_scores(predicted(scores, geometry, Case({"image": blank(geometry)})), CLASSES, None)
    assert found.labels.array[..., 0].tolist() == [[1] * 3] * 2
    assert not found.labels.array[..., 1:].any()


def test_many_classes_agree_with_the_plain_maximum() -> None:
    geometry = axis_geometry("PIR", (7, 6, 5), (1.0, 1.0, 1.0))
    scores = torch.rand(300, 5, 6, 7)
    manifest = parse_manifest({"id": "m"})
    case = Case({"image": blank(geometry)})
    (found,) = restore_scores(predicted(scores.clone(), geometry, case), manifest, "softmax")
    assert found.labels.array.dtype == np.uint16
    np.testing.assert_array_equal(found.labels.array, scores.argmax(0).permute(2, 1, 0))
    assert len(found.names) == 299
    assert found.names[299].name == "class 299"


def test_overlapping_structures_get_a_segmentation_each() -> None:
    geometry = Geometry((2, 3, 4))
    names = {1: {"name": "GTV t/1"}, 2: {"name": "gtv_T_1"}, 3: {"name": "../"}}
    manifest = parse_manifest({"id": "m", "labels": names, "restore": "threshold", "threshold": 0.7})
    scores = torch.full((3, 4, 3, 2), -5.0)
    scores[0], scores[1, :2], scores[2] = 5.0, 5.0, 0.8  # sigmoid(0.8) = 0.69
    found = restore_scores(predicted(scores, geometry, Case({"image": blank(geometry)})), manifest, "sigmoid")
    assert [segmentation.name for segmentation in found] == ["GTV_t_1", "gtv_T_1_2", "label"]
    assert [segmentation.labels.array.max() for segmentation in found] == [1, 2, 0]
    assert np.count_nonzero(found[1].labels.array) == 12
    assert [dict(segmentation.names) for segmentation in found] == [{k: manifest.labels[k]} for k in (1, 2, 3)]


def test_beyond_the_networks_field_of_view_there_is_background() -> None:
    geometry = Geometry((4, 4, 10))
    cropped = Geometry((4, 4, 4), origin_mm=(3.0, 0.0, 0.0))
    scores = torch.zeros(2, 4, 4, 4)
    scores[1] = 1.0
    (found,) = restore_scores(predicted(scores, cropped, Case({"image": blank(geometry)})), CLASSES, None)
    assert found.labels.array[0, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 0]


def test_half_precision_scores_are_decided_in_float32() -> None:
    geometry = axis_geometry("LPS", (6, 7, 8), (1.0, 1.0, 1.0))
    scores = torch.rand(3, 8, 7, 6).bfloat16()
    case = Case({"image": blank(geometry)}, scaling_factor=(2, 2, 2))
    (half,) = restore_scores(predicted(scores.clone(), geometry, case), CLASSES, None)
    (full,) = restore_scores(predicted(scores.float(), geometry, case), CLASSES, None)
    np.testing.assert_array_equal(half.labels.array, full.labels.array)


def test_labels_of_the_model_must_be_whole_numbers() -> None:
    geometry = Geometry((2, 2, 2))
    case = Case({"image": blank(geometry)})
    with pytest.raises(PredictionError, match="whole numbers"):
        restore_labels(torch.full((1, 2, 2, 2), 0.5), geometry.affine, case, CLASSES)


def test_masks_of_the_model_become_structures() -> None:
    geometry = axis_geometry("RAI", (3, 4, 5), (1.0, 2.0, 3.0))
    masks = torch.zeros(2, 5, 4, 3)
    masks[0, 0], masks[1, :, :, 2] = 1, 1
    one, two = restore_labels(masks, geometry.affine, Case({"image": blank(geometry)}), CLASSES)
    assert (one.name, two.name, int(one.labels.array.max()), int(two.labels.array.max())) == ("one", "two", 1, 2)
    np.testing.assert_array_equal(one.labels.array[..., 0], 1)
    np.testing.assert_array_equal(two.labels.array[2], 2)


def test_labels_carry_the_inputs_header_onto_the_contour_grid(tmp_path: Path) -> None:
    geometry = axis_geometry("RAI", (3, 4, 5), (1.0, 2.0, 3.0))
    write_labels(tmp_path / "a.nii.gz", Volume(np.zeros(geometry.shape, np.uint8), geometry))
    image = read_volume(tmp_path / "a.nii.gz", max_bytes=1000)
    case = Case({"image": image}, scaling_factor=(1, 2, 2))
    (found,) = restore_scores(predicted(torch.zeros(2, 5, 4, 3), geometry, case), CLASSES, None)
    write_labels(tmp_path / "b.nii.gz", found.labels)
    back = read_volume(tmp_path / "b.nii.gz", max_bytes=1000).geometry
    np.testing.assert_allclose(back.affine, image.geometry.refined((1, 2, 2)).affine, atol=1e-5)
    assert back.shape == (3, 8, 10)


def test_memory_does_not_grow_with_the_number_of_classes() -> None:
    """60 classes on 96 x 112 x 112 voxels: all probabilities interpolated at once would take 290 MB."""
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        pytest.skip("this system does not tell a process's peak memory")
    source, grid = Geometry((32, 32, 32), (3.5, 3.5, 3.0)), Geometry((96, 112, 112))
    scores, case = torch.rand(60, 32, 32, 32), Case({"image": Volume(slope_volume(grid).array, grid)})
    prediction = predicted(scores, source, case)
    clear.write_text("5")
    before = memory_kb("VmRSS")
    restore_scores(prediction, CLASSES, None)
    assert memory_kb("VmHWM") - before < 200_000  # each of torch's threads has a block of its own


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_structures_by_softmax_are_those_of_interpolating_all_probabilities(dtype: torch.dtype) -> None:
    """On a grid two times finer along x, whose voxels lie at quarters between the scores."""
    manifest = parse_manifest({"id": "m", "restore": "threshold", "threshold": 0.4})
    geometry, scores = Geometry((3, 4, 5)), 4 * torch.randn(4, 5, 4, 3, generator=torch.Generator().manual_seed(0))
    case = Case({"image": blank(geometry)}, scaling_factor=(1, 1, 2))
    kept = scores.to(dtype).clone()
    found = restore_scores(predicted(kept, geometry, case), manifest, "softmax")
    assert torch.equal(kept, scores.to(dtype))
    chances = kept.double().softmax(0).permute(0, 3, 2, 1).numpy()
    low = np.clip((np.arange(10) + 0.5) / 2 - 0.5, 0, 4)
    whole, share = np.minimum(low.astype(int), 3), low - np.minimum(low.astype(int), 3)
    fine = chances[..., whole] * (1 - share) + chances[..., whole + 1] * share
    assert np.abs(fine - 0.4).min() > 1e-5
    for value, (structure, expected) in enumerate(zip(found, fine > 0.4, strict=True), 1):
        assert 0 < expected.sum() < expected.size
        np.testing.assert_array_equal(structure.labels.array, expected * value)


def test_memory_of_structures_by_softmax_does_not_grow_with_their_number() -> None:
    """60 classes on 96 x 112 x 112 voxels: all probabilities at once would take 290 MB."""
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        pytest.skip("this system does not tell a process's peak memory")
    manifest = parse_manifest({"id": "m", "restore": "threshold", "threshold": 0.5})
    grid = Geometry((96, 112, 112))
    scores, case = torch.zeros(60, 112, 112, 96), Case({"image": blank(grid)})
    scores[7] = 9.0
    clear.write_text("5")
    before = memory_kb("VmRSS")
    found = restore_scores(predicted(scores, grid, case), manifest, "softmax")
    labels = sum(structure.labels.array.nbytes for structure in found) // 1024
    assert [structure.labels.array.any() for structure in found] == [value == 7 for value in range(60)]
    assert memory_kb("VmHWM") - before - labels < 100_000


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_everything_is_computed_where_the_scores_are(activation: Activation) -> None:
    """Whatever is made without saying where would lie on a device that has no memory at all."""
    geometry = axis_geometry("RAI", (9, 8, 7), (1.0, 2.0, 3.0))
    turned = centred((5, 6, 7), (2.0, 2.0, 3.0), np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]]))
    names = parse_manifest({"id": "m", "labels": {1: {"name": "one"}, 2: {"name": "two"}}, "restore": "threshold"})
    threads = torch.get_num_threads()
    scores, case = torch.randn(2, 7, 6, 5), Case({"image": blank(geometry)}, scaling_factor=(1, 2, 1))
    for grid in (geometry, turned):
        expected = [part.labels.array for part in restore_scores(predicted(scores, grid, case), names, activation)]
        try:
            torch.set_num_threads(1)
            torch.set_default_device("meta")
            found = restore_scores(predicted(scores, grid, case), names, activation)
            restore_scores(predicted(scores, grid, case), CLASSES, "softmax")
            restore_labels((scores > 0).float(), grid.affine, case, CLASSES)
        finally:
            torch.set_default_device(None)
            torch.set_num_threads(threads)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.labels.array, other)


def memory_kb(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
