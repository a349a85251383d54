"""The registry: what is found in folders, and what is said of those that cannot be served."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import Bundle

from inference_server.errors import UnknownModel
from inference_server.models import registry as registry_module
from inference_server.models.registry import Registry, open_registry, plain_registry
from inference_server.settings import Settings


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    return folder


def write(folder: Path, **manifest: object) -> Path:
    return Bundle(manifest=dict(manifest)).write(folder)


def test_a_bundle_dropped_into_the_repository_is_served(repository: Path) -> None:
    write(repository / "levels")
    (model,) = Registry([repository]).models()
    assert (model.id, model.version, model.folder) == ("levels", "2.1.0", repository / "levels")


def test_the_highest_version_answers_unless_one_is_named(repository: Path) -> None:
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        write(repository / "levels" / version)
    registry = Registry([repository])
    assert registry.get("levels").version == "1.10.0"
    assert registry.get("levels", "1.2.0").version == "1.2.0"
    assert registry.get("levels:1.9.0").version == "1.9.0"
    assert [model.version for model in registry.models()] == ["1.10.0", "1.9.0", "1.2.0"]


def test_a_model_folder_is_a_repository_of_one(repository: Path) -> None:
    assert Registry([write(repository / "levels")]).get("levels").folder == repository / "levels"


def test_an_unknown_model_is_answered_with_the_known_ones(repository: Path) -> None:
    write(repository / "b")
    write(repository / "a")
    with pytest.raises(UnknownModel, match=r"'c'\. Known models: a, b\.") as caught:
        Registry([repository]).get("c")
    assert caught.value.field == "model"


@pytest.mark.parametrize("content", ["", "\n", "# labels: {}\n", "---\n"])
def test_a_model_yaml_without_content_changes_nothing(repository: Path, content: str) -> None:
    (write(repository / "levels") / "model.yaml").write_text(content)
    (repository / "bare").mkdir()
    (repository / "bare" / "model.yaml").write_text(content)
    registry = Registry([repository])
    assert [(model.id, model.version) for model in registry.models()] == [("levels", "2.1.0")]
    assert registry.problems()[repository / "bare"].startswith("No runtime is named.")


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("model.yaml", "id: [", "model.yaml is malformed at line 1"),
        ("model.yaml", "- a", "model.yaml holds no mapping"),
        ("model.yaml", "lables: {}", "line 1, lables: this key is unknown, did you mean 'labels'?"),
        ("model.yaml", "runtime: abacus", "The runtime 'abacus' is unknown. Known runtimes: monai-bundle"),
        ("model.yaml", "example: e.nii.gz", "The example image e.nii.gz is missing"),
        ("configs/metadata.json", '{"network_data_format": [1]}', "not laid out as MONAI says"),
        ("configs/metadata.json", "null", "metadata.json holds no mapping"),
        ("configs/inference.json", "{", "inference.json is malformed at line 1"),
    ],
)
def test_a_broken_folder_is_reported_and_the_others_are_served(
    repository: Path, file: str, content: str, sentence: str
) -> None:
    write(repository / "good")
    (write(repository / "bad") / file).write_text(content)
    registry = Registry([repository])
    assert [model.id for model in registry.models()] == ["good"]
    assert list(registry.problems()) == [repository / "bad"]
    assert sentence in registry.problems()[repository / "bad"]


def test_missing_weights_folders_and_manifests_are_reported(repository: Path) -> None:
    shutil.rmtree(write(repository / "weightless") / "models")
    (repository / "empty").mkdir()
    problems = Registry([repository, repository / "nowhere"]).problems()
    assert "model.safetensors" in problems[repository / "weightless"]
    assert "model.yaml, configs/metadata.json or plans.json was expected" in problems[repository / "empty"]
    assert problems[repository / "nowhere"] == "The folder of models does not exist."


def test_the_first_of_two_equal_models_is_served(repository: Path) -> None:
    write(repository / "a", id="levels")
    write(repository / "b", id="levels")
    registry = Registry([repository])
    assert registry.get("levels").folder == repository / "a"
    assert "already serves" in registry.problems()[repository / "b"]


@pytest.mark.parametrize("name", ["weights.bin", "model.yaml"])
@pytest.mark.parametrize("special", ["link to a device", "pipe"])
def test_what_is_no_plain_file_is_never_read(repository: Path, special: str, name: str) -> None:
    write(repository / "good")
    path = write(repository / "bad") / name
    path.unlink(missing_ok=True)
    os.mkfifo(path) if special == "pipe" else path.symlink_to("/dev/zero")
    registry = Registry([repository])
    assert [model.id for model in registry.models()] == ["good"]
    assert "a model is made of plain files" in registry.problems()[repository / "bad"]


def test_a_link_to_a_plain_file_is_taken_for_it(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("1")
    (write(repository / "levels") / "note.txt").symlink_to(tmp_path / "elsewhere")
    linked = Registry([repository]).get("levels").digest
    (repository / "levels" / "note.txt").unlink()
    (repository / "levels" / "note.txt").write_text("1")
    assert Registry([repository]).get("levels").digest == linked


def test_nothing_of_a_model_runs_when_it_is_scanned(repository: Path) -> None:
    trap = repository / "trap"
    folder = Bundle(more={"imports": [f"$open({str(trap)!r}, 'w')"], "device": f"$open({str(trap)!r}, 'w')"})
    written = folder.write(repository / "levels")
    (written / "__init__.py").write_text(f"open({str(trap)!r}, 'w')")
    assert Registry([repository]).get("levels")
    assert not trap.exists()


def test_the_digest_tells_names_and_contents_and_forgets_caches(repository: Path) -> None:
    folder = write(repository / "levels")
    first = Registry([repository]).get("levels").digest
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_text("1")
    assert Registry([repository]).get("levels").digest == first
    (folder / "note.txt").write_text("1")
    second = Registry([repository]).get("levels").digest
    (folder / "note.txt").rename(folder / "other.txt")
    third = Registry([repository]).get("levels").digest
    assert len({first, second, third}) == 3
    shutil.copytree(folder, repository / "elsewhere" / "levels")
    assert Registry([repository / "elsewhere"]).get("levels").digest == third


def test_changes_are_seen_without_a_restart(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "RESCAN_S", 0.0)
    folder = write(repository / "levels", title="old")
    registry = Registry([repository])
    before = registry.get("levels")
    assert registry.get("levels") is before
    (folder / "model.yaml").write_text("title: new")
    os.utime(folder / "model.yaml", (1, 1))
    assert registry.get("levels").manifest.title == "new"
    assert registry.get("levels").digest != before.digest
    write(repository / "added")
    assert [model.id for model in registry.models()] == ["added", "levels"]
    shutil.rmtree(folder)
    assert [model.id for model in registry.models()] == ["added"]


def test_folders_are_looked_at_once_a_second_at_most(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "RESCAN_S", 3600.0)
    registry = Registry([repository])
    assert registry.models() == ()
    write(repository / "levels")
    assert registry.models() == ()
    registry.scan()
    assert [model.id for model in registry.models()] == ["levels"]


@pytest.mark.parametrize("opened", [open_registry, plain_registry])
def test_the_operators_folders_win_over_the_zoo(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[[Settings], Registry]
) -> None:
    write(repository / "own" / "levels")
    write(repository / "zoo" / "levels")
    monkeypatch.setattr(registry_module, "ZOO", repository / "zoo")
    (repository / "own" / "levels" / "model.yaml").write_text("title: own")
    given = {"data_dir": tmp_path / "data", "models_dirs": str(repository / "own")}
    assert opened(Settings(**given)).get("levels").manifest.title == "own"
    assert opened(Settings(**given, zoo=False)).problems() == {}
    assert opened(Settings(data_dir=tmp_path / "data")).get("levels").manifest.title == "Levels"
