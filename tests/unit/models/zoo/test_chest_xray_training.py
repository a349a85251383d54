"""The training of the chest X-ray models: who is in which fold, how it is scored, and that a run can go on."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from pictures import save_picture

from inference_server.models.registry import ZOO
from inference_server.models.runtimes.monai_config import bundle_code

FOLDER = ZOO / "chest-xray-ensemble"
MODEL = "chest-xray-mycn"


@pytest.fixture(scope="module")
def code() -> dict[str, ModuleType]:
    with bundle_code(FOLDER):
        return {name: importlib.import_module(name) for name in ("xrays", "folds", "scoring", "training", "train")}


def write_labels(folder: Path, *rows: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.csv").write_text("\n".join(("file,label", *rows)) + "\n")
    return folder


def test_a_table_of_labels_names_pictures_and_their_patients(code: dict[str, ModuleType], tmp_path: Path) -> None:
    data = write_labels(
        tmp_path, "b/7_001.png,pneumonia", "a/3_002.png,normal", "a/3_001.png,normal", "a/4_000.png,normal"
    )
    found = code["xrays"].list_xrays(data, most_normals=5, seed=0)
    assert [(xray.name, xray.label, xray.patient) for xray in found] == [
        ("3_001", 0, "3"),
        ("3_002", 0, "3"),
        ("4_000", 0, "4"),
        ("7_001", 1, "7"),
    ]
    assert found[-1].path == tmp_path / "b" / "7_001.png"
    fewer = code["xrays"].list_xrays(data, most_normals=2, seed=0)
    assert [xray.label for xray in fewer] == [0, 0, 1]


def test_the_public_data_set_is_read_as_it_is_published(code: dict[str, ModuleType], tmp_path: Path) -> None:
    rows = ["1_0.png,No Finding,1", "2_0.png,Edema|Pneumonia,2", "3_0.png,Mass,3", "4_0.png,No Finding,4"]
    table = "\n".join(["Image Index,Finding Labels,Patient ID", *rows])
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text(table)
    (tmp_path / "images_001" / "images").mkdir(parents=True)
    for name in ("1_0.png", "2_0.png", "3_0.png"):
        (tmp_path / "images_001" / "images" / name).touch()
    found = code["xrays"].list_xrays(tmp_path, most_normals=5, seed=0)
    assert [(xray.name, xray.label, xray.patient) for xray in found] == [("1_0", 0, "1"), ("2_0", 1, "2")]


def test_a_folder_without_a_table_is_named(code: dict[str, ModuleType], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected labels\.csv"):
        code["xrays"].list_xrays(tmp_path, most_normals=5, seed=0)


def test_folds_keep_patients_together_and_share_out_the_classes(code: dict[str, ModuleType]) -> None:
    xray = code["xrays"].Xray
    xrays = [xray(Path(), f"{n}_{k}", int(n < 20), str(n)) for n in range(40) for k in range(1 + n % 3)]
    fold = code["folds"].deal(xrays, 5, seed=1)
    of_patient: dict[str, set[int]] = {}
    for one, number in zip(xrays, fold, strict=True):
        of_patient.setdefault(one.patient, set()).add(int(number))
    assert all(len(folds) == 1 for folds in of_patient.values())
    for ill in (range(20), range(20, 40)):
        assert sorted(min(of_patient[str(n)]) for n in ill) == sorted([*range(5)] * 4)
    assert (fold != code["folds"].deal(xrays, 5, seed=2)).any()


def test_the_area_is_the_share_of_pairs_in_order(code: dict[str, ModuleType]) -> None:
    labels, chances = np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.4, 0.1])
    assert code["scoring"].area(labels, chances) == (1 + 1 + 0.5 + 1) / 4


def test_figures_are_means_over_repeats_with_intervals(code: dict[str, ModuleType]) -> None:
    labels = np.repeat([1, 0], 30)
    patients = [str(number) for number in range(60)]
    perfect, reverse = labels * 0.8 + 0.1, 0.9 - labels * 0.8
    sure = code["scoring"].score(labels, np.stack([perfect, perfect]), patients)
    assert (sure.auc.value, sure.auc.low, sure.auc.high, sure.verdict) == (1, 1, 1, "better than chance")
    mixed = code["scoring"].score(labels, np.stack([perfect, reverse]), patients)
    assert (mixed.auc.value, mixed.aucs, mixed.accuracy.value) == (0.5, (1.0, 0.0), 0.5)
    assert mixed.verdict == "no better than chance"


def test_intervals_are_as_wide_as_patients_are_few(code: dict[str, ModuleType]) -> None:
    generator = np.random.default_rng(0)
    labels = np.tile([1, 0], 60)
    chances = (labels * 0.3 + generator.random(120))[None]
    alone = code["scoring"].score(labels, chances, [str(number) for number in range(120)])
    shared = code["scoring"].score(labels, chances, [str(number // 12) for number in range(120)])
    assert alone.auc.value == shared.auc.value
    assert alone.auc.low < alone.auc.value < alone.auc.high
    # The normal approximation of Hanley and McNeil says the same within a hundredth.
    area = alone.auc.value
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = np.sqrt((area * (1 - area) + 59 * (q1 - area**2) + 59 * (q2 - area**2)) / 3600)
    assert alone.auc.low == pytest.approx(area - 1.96 * error, abs=0.015)
    assert shared.accuracy.high - shared.accuracy.low != alone.accuracy.high - alone.accuracy.low


def test_only_complete_repeats_count(code: dict[str, ModuleType], tmp_path: Path) -> None:
    folds, xray = code["folds"], code["xrays"].Xray
    xrays = [xray(Path(), name, 0, name) for name in ("a", "b")]
    record = folds.Record(tmp_path / "predictions.csv")
    assert record.read() == []
    record.add([folds.Said("m", 0, 0, "a", 0.25)])
    record.add([folds.Said("m", 0, 1, "b", 0.5), folds.Said("m", 1, 0, "b", 1.0), folds.Said("n", 0, 0, "a", 0.5)])
    tables = folds.table_of(record.read(), xrays)
    assert {name: table.tolist() for name, table in tables.items()} == {"m": [[0.25, 0.5]]}
    both = folds.together({"m": np.array([[0.2, 0.4], [0.0, 0.0]]), "n": np.array([[0.4, 0.8]])})
    np.testing.assert_allclose(both, [[0.3, 0.6]])


def test_an_epoch_sees_as_many_of_either_class(code: dict[str, ModuleType]) -> None:
    labels = torch.tensor([0] * 20 + [1] * 5)
    batches = list(code["training"].epoch(labels, 4, torch.Generator().manual_seed(0)))
    seen = torch.cat(batches)
    assert [len(batch) for batch in batches] == [4, 3, 3]
    assert (labels[seen] == 1).sum() == (labels[seen] == 0).sum() == len(seen.unique()) / 2 == 5


def test_the_shipped_example_is_what_its_script_draws() -> None:
    with bundle_code(FOLDER):
        drawn = importlib.import_module("example").draw()
    for folder in sorted(ZOO.glob("chest-xray-*")):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "example.png"))), drawn)


def test_a_run_trains_judges_goes_on_where_it_was_and_can_be_repeated(
    code: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, threads = np.random.default_rng(0), torch.get_num_threads()
    rows = [f"{number}_0.png,{('normal', 'pneumonia')[number % 2]}" for number in range(8)]
    data = write_labels(tmp_path / "data", *rows)
    for row in rows:
        save_picture(data / row.partition(",")[0], generator.integers(0, 255, (32, 32), np.uint8))
    given = ["train", "--data", data, "--out", tmp_path / "out", "--networks", MODEL, "--folds", 2, "--epochs", 1]
    monkeypatch.setattr("sys.argv", [*map(str, given), "--repeats", "1", "--threads", str(threads)])
    code["train"].main()
    record = code["folds"].Record(tmp_path / "out" / "predictions.csv")
    said = record.read()
    assert sorted(one.picture for one in said) == [f"{number}_0" for number in range(8)]
    assert f"| `{MODEL}` | 1 |" in (tmp_path / "out" / "report.md").read_text()
    path = tmp_path / "out" / MODEL / "model.safetensors"
    weights, written_ns = path.read_bytes(), path.stat().st_mtime_ns
    code["train"].main()
    assert (record.read(), path.stat().st_mtime_ns) == (said, written_ns)
    path.unlink()
    code["train"].main()
    assert path.read_bytes() == weights
    monkeypatch.setattr("sys.argv", [*sys.argv, "--seed", "1"])
    with pytest.raises(ValueError, match="holds a run with other pictures, networks or settings"):
        code["train"].main()
