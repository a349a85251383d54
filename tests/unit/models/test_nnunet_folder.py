"""What is read from an nnU-Net folder, without torch and without nnunetv2."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from inference_server.errors import ModelLoadError
from inference_server.models import nnunet_folder
from inference_server.models.manifest import Manifest
from inference_server.models.nnunet_folder import NnUNet, find_checkpoints
from inference_server.models.registry import Registry, read_model

LABELS = {"background": 0, "Anterior": 1, "Posterior": 2}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": 3, "ignore": 4}


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nnunet_folder, "find_spec", lambda name: name)


def write(folder: Path, *, plans: Any = None, text: str = "", folds: tuple[Any, ...] = (0,), **dataset: Any) -> Path:
    for fold in folds:
        (folder / f"fold_{fold}").mkdir(parents=True)
        (folder / f"fold_{fold}" / "checkpoint_final.pth").touch()
    described = {"channel_names": {"0": "MRI"}, "labels": LABELS, "file_ending": ".nii.gz", **dataset}
    (folder / "dataset.json").write_text(json.dumps(described))
    (folder / "plans.json").write_text(json.dumps(plans or {"dataset_name": "Dataset004_Hippocampus_Parts"}))
    (folder / "model.yaml").write_text(text) if text else None
    return folder


def labels(manifest: Manifest) -> dict[int, str]:
    return {value: name.name for value, name in manifest.labels.items()}


def test_a_folder_needs_no_manifest(tmp_path: Path) -> None:
    manifest = read_model(write(tmp_path / "hippocampus", release="2.1 of May")).manifest
    assert (manifest.id, manifest.version, manifest.runtime) == ("hippocampus", "2.1", "nnunet")
    assert (manifest.title, manifest.restore, manifest.dimensions) == ("Hippocampus Parts", "argmax", 3)
    assert [(channel.name, channel.modality) for channel in manifest.channels] == [("MRI", "MR")]
    assert labels(manifest) == {1: "Anterior", 2: "Posterior"}
    assert len({name.color for name in manifest.labels.values()}) == 2


def test_what_the_manifest_says_wins(tmp_path: Path) -> None:
    written = {"id": "hc", "version": "3", "title": "Both parts", "labels": {1: {"name": "head"}}, "queue": "gpu"}
    manifest = read_model(write(tmp_path / "hippocampus", text=yaml.safe_dump(written))).manifest
    assert (manifest.id, manifest.version, manifest.title) == ("hc", "3", "Both parts")
    assert (labels(manifest), manifest.resources.queue) == ({1: "head"}, "gpu")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"0": "CT"}, [("CT", "CT")]),
        (
            {"0": "T1", "1": "T2w", "2": "FLAIR", "3": "ADC"},
            [("T1", "MR"), ("T2w", "MR"), ("FLAIR", "MR"), ("ADC", "MR")],
        ),
        ({"0": "PET", "1": "CT"}, [("PET", "PT"), ("CT", "CT")]),
        ({"0": "noNorm", "1": "noNorm"}, [("noNorm", None), ("noNorm 2", None)]),
        ({"0": "contrast", "1": "rescale_to_0_1"}, [("contrast", None), ("rescale_to_0_1", None)]),
    ],
)
def test_channels_have_their_modality_where_their_names_tell(
    tmp_path: Path, names: dict[str, str], expected: list[tuple[str, str | None]]
) -> None:
    manifest = read_model(write(tmp_path / "model", channel_names=names)).manifest
    assert [(channel.name, channel.modality) for channel in manifest.channels] == expected
    older = read_model(write(tmp_path / "older", channel_names=None, modality=names)).manifest
    assert older.channels == manifest.channels


def test_regions_overlap_and_are_numbered_as_the_network_gives_them(tmp_path: Path) -> None:
    manifest = read_model(write(tmp_path / "model", labels=REGIONS, regions_class_order=[3, 1, 2])).manifest
    assert (manifest.restore, labels(manifest)) == ("threshold", {1: "whole", 2: "core", 3: "rim"})


def test_as_labels_regions_have_the_values_with_which_nnunet_paints_them(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", labels=REGIONS, regions_class_order=[3, 1, 2], text="restore: labels\n")
    manifest = read_model(folder).manifest
    assert (manifest.restore, labels(manifest)) == ("labels", {1: "core", 2: "rim", 3: "whole"})


def test_the_label_to_ignore_is_none(tmp_path: Path) -> None:
    assert labels(read_model(write(tmp_path / "model", labels={**LABELS, "ignore": 3})).manifest) == {
        1: "Anterior",
        2: "Posterior",
    }


def test_pictures_have_two_dimensions(tmp_path: Path) -> None:
    plans = {"dataset_name": "Dataset120_Roads", "image_reader_writer": "NaturalImage2DIO"}
    assert read_model(write(tmp_path / "model", plans=plans)).manifest.dimensions == 2


@pytest.mark.parametrize(
    "dataset",
    [
        {"labels": {"0": "background", "1": "Anterior"}},
        {"labels": [0, 1]},
        {"labels": REGIONS},
        {"labels": REGIONS, "regions_class_order": [1, 2]},
        {"channel_names": {"1": "CT"}},
        {"channel_names": None},
    ],
)
def test_a_folder_of_another_layout_is_reported(tmp_path: Path, dataset: dict[str, Any]) -> None:
    with pytest.raises(ModelLoadError, match=r"dataset\.json or plans\.json is not laid out as nnU-Net v2 writes it"):
        read_model(write(tmp_path / "model", **dataset))


def test_labels_with_gaps_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"labels of dataset\.json are not numbered from 1 without gaps"):
        read_model(write(tmp_path / "model", labels={"background": 0, "a": 1, "b": 3}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nnunet:\n  folds: [0, x]", "line 2, nnunet.folds.1: a fold's number, or `all`, was expected; 'x' came"),
        ("nnunet:\n  folds: []", "line 2, nnunet.folds: "),
        ("nnunet:\n  chekpoint: best", "line 2, nnunet.chekpoint: this key is unknown, did you mean 'checkpoint'?"),
        ("nnunet: {checkpoint: newest}", "line 1, nnunet.checkpoint: "),
        ("nnunet:\n  mirroring: perhaps", "line 2, nnunet.mirroring: Input should be a valid boolean"),
        ("nnunet:\n  step: 1.5", "line 2, nnunet.step: Input should be less than or equal to 1"),
        ("nnunet:\n  orientation: RRA", "line 2, nnunet.orientation: three letters were expected"),
        ("inferer: {kind: whole}", "an nnU-Net folder says itself what these would: inferer"),
    ],
)
def test_what_is_wrong_in_the_section_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ModelLoadError, match=re.escape(said)):
        read_model(write(tmp_path / "model", text=text + "\n"))


def test_the_section_is_for_nnunet_folders_only(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("runtime: torchscript\nnnunet: {folds: [0]}\n")
    with pytest.raises(ModelLoadError, match="the section `nnunet` is for nnU-Net folders"):
        read_model(tmp_path)


def chosen(folder: Path, **section: Any) -> list[str]:
    paths = find_checkpoints(folder, NnUNet.model_validate(section))
    return [path.relative_to(folder).as_posix() for path in paths]


def test_all_numbered_folds_run_unless_some_are_chosen(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", folds=(10, 2, "all", 0))
    assert chosen(folder) == [f"fold_{fold}/checkpoint_final.pth" for fold in (0, 2, 10)]
    assert chosen(folder, folds=[2, "all"]) == ["fold_2/checkpoint_final.pth", "fold_all/checkpoint_final.pth"]
    only = write(tmp_path / "only", folds=("all",))
    assert chosen(only) == ["fold_all/checkpoint_final.pth"]


def test_the_best_checkpoint_runs_where_there_is_no_final_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", folds=(0, 1))
    (folder / "fold_1" / "checkpoint_best.pth").touch()
    assert chosen(folder, checkpoint="best") == ["fold_1/checkpoint_best.pth"]
    for fold in (0, 1):
        (folder / f"fold_{fold}" / "checkpoint_final.pth").unlink()
    assert chosen(folder) == ["fold_1/checkpoint_best.pth"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nnunet: {folds: [0, 7]}", "nnunet.folds: fold_7 has no checkpoint_final.pth; the folds that do: 0, 1."),
        ("nnunet: {checkpoint: latest}", "no weights: checkpoint_latest.pth was expected"),
    ],
)
def test_folds_that_are_missing_are_reported(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path / "models" / "a", folds=(0, 1), text=text + "\n")
    registry = Registry([tmp_path / "models"])
    assert said in registry.problems()[tmp_path / "models" / "a"]


def test_configurations_of_a_dataset_stand_side_by_side(tmp_path: Path) -> None:
    for name in ("nnUNetTrainer__nnUNetPlans__2d", "nnUNetTrainer__nnUNetPlans__3d_fullres"):
        write(tmp_path / "Dataset004_Hippocampus" / name)
    registry = Registry([tmp_path])
    assert not registry.problems()
    assert [model.version for model in registry.models()] == [
        "nnUNetTrainer__nnUNetPlans__3d_fullres",
        "nnUNetTrainer__nnUNetPlans__2d",
    ]
    assert registry.get("Dataset004_Hippocampus:nnUNetTrainer__nnUNetPlans__2d").id == "Dataset004_Hippocampus"


def test_without_the_extra_the_folder_is_reported_and_others_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "hippocampus")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "model.yaml").write_text("runtime: python-app\napp: app.py:run\n")
    (tmp_path / "app" / "app.py").touch()
    monkeypatch.setattr(nnunet_folder, "find_spec", lambda name: None if name == "nnunetv2" else name)
    registry = Registry([tmp_path])
    assert [model.id for model in registry.models()] == ["app"]
    assert "need the extra `nnunet`, which is not installed here" in registry.problems()[tmp_path / "hippocampus"]


def test_an_api_that_runs_no_models_lists_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "hippocampus")
    monkeypatch.setattr(nnunet_folder, "find_spec", lambda _: None)
    registry = Registry([tmp_path])
    assert [model.id for model in registry.models()] == ["hippocampus"]


def test_reading_a_folder_imports_neither_torch_nor_nnunetv2(tmp_path: Path) -> None:
    write(tmp_path / "hippocampus")
    code = (
        "import sys; from pathlib import Path; from inference_server.models.registry import Registry; "
        f"print([m.id for m in Registry([Path({str(tmp_path)!r})]).models()], "
        "sorted({'torch', 'nnunetv2'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['hippocampus'] []\n"


def test_the_example_to_copy_is_valid(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    text = (root / "examples" / "models" / "nnunet" / "model.yaml").read_text()
    manifest = read_model(write(tmp_path / "model", folds=(0, 1, 2), text=text)).manifest
    assert manifest.id == "hippocampus-nnunet"
    assert manifest.nnunet == NnUNet(folds=(0, 1), checkpoint="final", mirroring=False)


def test_every_key_of_the_section_is_described() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "models.md").read_text()
    assert set(re.findall(r"^\| `nnunet\.(\w+)`", page, re.MULTILINE)) == set(NnUNet.model_fields)
