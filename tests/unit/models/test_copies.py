"""Copies of models: what is done to a folder reaches what is served only as a whole, and only if it can be served."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bundles import Bundle

from inference_server.errors import UnknownModel
from inference_server.models import copies as copies_module
from inference_server.models import intake, listing
from inference_server.models import registry as registry_module
from inference_server.models.copies import Copies
from inference_server.models.intake import BEING_WRITTEN, CopiedFolders
from inference_server.models.registry import Registry

LIMIT_S = 20.0
WEIGHTS = "models/model.safetensors"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "SETTLE_S", 0.0)
    monkeypatch.setattr(registry_module, "RESCAN_S", 0.0)
    monkeypatch.setattr(copies_module, "GRACE_S", 0.0)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "repository").mkdir()
    return tmp_path / "repository"


@pytest.fixture
def levels(repository: Path) -> Path:
    return Bundle(manifest={"title": "first"}).write(repository / "levels")


@pytest.fixture
def opened(repository: Path, tmp_path: Path) -> Callable[[], Registry]:
    """Return what makes a registry as another process of the same server has it."""
    return lambda: Registry([repository], CopiedFolders(Copies(tmp_path / "copies")))


def retitle(folder: Path, title: str) -> None:
    (folder / "model.yaml").write_text(f"title: {title}")


def until(question: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not question():
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.005)


def test_a_model_is_served_from_a_copy(levels: Path, opened: Callable[[], Registry]) -> None:
    model, lying = opened().get("levels"), Registry([levels]).get("levels")
    assert (model.manifest, model.digest) == (lying.manifest, lying.digest)
    assert model.folder.name == model.digest
    assert (model.folder / WEIGHTS).read_bytes() == (levels / WEIGHTS).read_bytes()
    assert (model.folder / WEIGHTS).stat().st_ino != (levels / WEIGHTS).stat().st_ino


def test_a_broken_change_leaves_the_version_before_in_service(levels: Path, opened: Callable[[], Registry]) -> None:
    registry = opened()
    before = registry.get("levels")
    weights = (levels / WEIGHTS).read_bytes()
    with (levels / WEIGHTS).open("r+b") as stream:  # in place, as `cp` does it
        stream.write(b"0000")
    (levels / "model.yaml").write_text("title: [")
    registry.scan()
    assert registry.get("levels") == before
    assert (before.folder / WEIGHTS).read_bytes() == weights
    [sentence] = registry.problems().values()
    assert sentence.startswith("model.yaml is malformed at line 1")
    assert sentence.endswith("The version before it stays in service.")
    after_a_restart = opened()
    assert after_a_restart.get("levels") == before
    assert after_a_restart.problems() == registry.problems()
    retitle(levels, "mended")
    registry.scan()
    assert registry.get("levels").manifest.title == "mended"
    assert not registry.problems()


@pytest.mark.parametrize("harm", ["the manifest is gone", "it cannot be read", "it is a file", "a file is missing"])
def test_so_does_any_other_harm(levels: Path, opened: Callable[[], Registry], harm: str) -> None:
    registry = opened()
    before = registry.get("levels")
    match harm:
        case "the manifest is gone":
            shutil.rmtree(levels / "configs")
            (levels / "model.yaml").unlink()
        case "it cannot be read":
            (levels / "a").symlink_to("a")
        case "it is a file":
            os.mkfifo(levels / "pipe")
        case "a file is missing":
            (levels / WEIGHTS).unlink()
    for one in (registry, opened()):
        one.scan()
        assert one.get("levels") == before
        assert list(one.problems()) == [levels]


def test_a_repository_that_is_away_keeps_its_models_in_service(
    levels: Path, repository: Path, opened: Callable[[], Registry]
) -> None:
    registry = opened()
    before = registry.get("levels")
    repository.rename(repository.with_name("away"))
    for one in (registry, opened()):
        one.scan()
        assert one.get("levels") == before
        assert one.problems()[repository] == "The folder of models does not exist."
    repository.with_name("away").rename(repository)
    registry.scan()
    assert not registry.problems()


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_removed_folder_is_withdrawn_for_good(levels: Path, opened: Callable[[], Registry], is_seen: bool) -> None:
    registry = opened()
    assert registry.get("levels")
    shutil.rmtree(levels)
    (registry if is_seen else opened()).scan()
    levels.mkdir()
    (levels / "model.yaml").write_text("title: [")
    for one in (registry, opened()):
        one.scan()
        with pytest.raises(UnknownModel):
            one.get("levels")


def test_a_folder_that_is_being_written_waits(
    levels: Path, opened: Callable[[], Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = opened()
    before = registry.get("levels")
    monkeypatch.setattr(listing, "SETTLE_S", 3600.0)
    retitle(levels, "half")
    assert registry.get("levels") == before
    assert registry.problems()[levels].startswith(BEING_WRITTEN)
    monkeypatch.setattr(listing, "SETTLE_S", 0.0)
    until(lambda: registry.get("levels").manifest.title == "half")
    until(lambda: not registry.problems())


def test_the_first_look_waits_until_a_folder_is_complete(
    levels: Path, opened: Callable[[], Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "SETTLE_S", 0.2)
    retitle(levels, "just written")
    assert opened().get("levels").manifest.title == "just written"


def test_a_change_that_keeps_time_and_size_is_seen(levels: Path, opened: Callable[[], Registry]) -> None:
    registry = opened()
    before = registry.get("levels")
    status = (levels / WEIGHTS).stat()
    with (levels / WEIGHTS).open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\xff")
    os.utime(levels / WEIGHTS, ns=(status.st_atime_ns, status.st_mtime_ns))
    registry.scan()
    assert registry.get("levels").digest != before.digest


def test_a_later_look_lets_nobody_wait_for_the_reading(
    levels: Path, opened: Callable[[], Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, gate = opened(), threading.Event()
    assert registry.get("levels").manifest.title == "first"
    store = Copies._store
    monkeypatch.setattr(Copies, "_store", lambda self, path: gate.wait(LIMIT_S) and store(self, path))
    retitle(levels, "second")
    assert registry.get("levels").manifest.title == "first"
    assert registry.problems()[levels].startswith("The folder is being read.")
    gate.set()
    until(lambda: registry.get("levels").manifest.title == "second")


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of all files that are read for a copy."""
    names: list[str] = []
    store = Copies._store
    monkeypatch.setattr(Copies, "_store", lambda self, path: names.append(path.name) or store(self, path))
    return names


def test_nothing_is_read_again_by_other_processes_nor_after_a_restart(
    levels: Path, opened: Callable[[], Registry], stored: list[str]
) -> None:
    first = opened().get("levels")
    assert sorted(stored) == ["inference.json", "metadata.json", "model.safetensors", "model.yaml"]
    assert opened().get("levels") == first
    assert len(stored) == 4


def test_of_a_change_only_the_changed_files_are_read_and_kept(
    levels: Path, opened: Callable[[], Registry], stored: list[str], tmp_path: Path
) -> None:
    registry = opened()
    first = registry.get("levels")
    stored.clear()
    retitle(levels, "second")
    registry.scan()
    second = registry.get("levels")
    assert stored == ["model.yaml"]
    assert (first.folder / WEIGHTS).samefile(second.folder / WEIGHTS)
    assert len(list((tmp_path / "copies" / "contents").iterdir())) == 5


def test_processes_that_look_at_once_agree(levels: Path, opened: Callable[[], Registry], stored: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: opened().get("levels"), range(4)))
    assert len({model.digest for model in found}) == 1
    assert len(stored) == 4


def test_a_task_gets_what_it_was_submitted_for_as_long_as_it_waits(
    levels: Path, opened: Callable[[], Registry]
) -> None:
    registry = opened()
    first = registry.get("levels")
    retitle(levels, "second")
    registry.scan()
    second = registry.get("levels")
    assert second.digest != first.digest
    other = opened()
    assert other.get("levels", "2.1.0", first.digest) == first
    registry.prune({first.digest})
    assert other.get("levels", "2.1.0", first.digest) == first
    registry.prune(set())
    assert not first.folder.exists()
    assert second.folder.exists()
    assert other.get("levels", "2.1.0", first.digest) == second


def test_what_was_just_superseded_is_not_removed(
    levels: Path, opened: Callable[[], Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies_module, "GRACE_S", 3600.0)
    registry = opened()
    first = registry.get("levels")
    os.utime(first.folder, (1, 1))
    retitle(levels, "second")
    registry.scan()
    registry.prune(set())
    assert first.folder.exists()


def test_what_nobody_has_is_removed(levels: Path, opened: Callable[[], Registry], tmp_path: Path) -> None:
    registry = opened()
    first = registry.get("levels")
    retitle(levels, "second")
    registry.scan()
    (tmp_path / "copies" / ".partial" / "sub").mkdir(parents=True)
    (tmp_path / "copies" / "contents" / ".staged").touch()
    registry.prune(set())
    assert {path.name for path in (tmp_path / "copies").iterdir()} == {
        "accepted", "contents", "ensembles", "lock", registry.get("levels").digest,
    }  # fmt: skip
    assert len(list((tmp_path / "copies" / "contents").iterdir())) == 4
    assert not first.folder.exists()


def test_what_was_removed_while_nobody_looked_is_forgotten(
    levels: Path, opened: Callable[[], Registry], tmp_path: Path
) -> None:
    assert opened().get("levels")
    shutil.rmtree(levels)
    Copies(tmp_path / "copies").prune(set())
    assert list((tmp_path / "copies" / "contents").iterdir()) == []
    assert list((tmp_path / "copies" / "accepted").iterdir()) == []


def test_a_former_ensemble_is_that_of_its_former_members(
    repository: Path, opened: Callable[[], Registry], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        Bundle(manifest={"title": f"first {name}"}).write(repository / name)
    (repository / "both").mkdir()
    (repository / "both" / "model.yaml").write_text("runtime: ensemble\nmembers: [a, b]")
    registry = opened()
    first = registry.get("both")
    retitle(repository / "b", "second b")
    registry.scan()
    second = registry.get("both")
    assert [member.manifest.title for member in second.members] == ["first a", "second b"]
    registry.prune({first.digest})
    former = opened().get("both", first.version, first.digest)
    assert former == first
    assert [member.manifest.title for member in former.members] == ["first a", "first b"]
    assert all(member.folder.is_dir() for member in former.members)
    registry.prune(set())
    assert opened().get("both", first.version, first.digest) == second
    assert [path.stem for path in (tmp_path / "copies" / "ensembles").iterdir()] == [second.digest]


def test_a_copy_that_is_not_whole_is_made_again(
    levels: Path, opened: Callable[[], Registry], stored: list[str]
) -> None:
    before = opened().get("levels")
    shutil.rmtree(before.folder)
    for content in (before.folder.parent / "contents").iterdir():
        content.unlink()
    stored.clear()
    assert opened().get("levels") == before
    assert len(stored) == 4


def test_a_copy_of_a_cut_file_is_made_again(levels: Path, opened: Callable[[], Registry]) -> None:
    before = opened().get("levels")
    weights = before.folder / WEIGHTS
    weights.chmod(0o600)
    os.truncate(weights, 10)
    again = opened().get("levels")
    assert (again.folder / WEIGHTS).read_bytes() == (levels / WEIGHTS).read_bytes()


def test_without_space_for_a_copy_the_version_before_stays(
    levels: Path, opened: Callable[[], Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = opened()
    before = registry.get("levels")
    usage = shutil.disk_usage(levels)._replace(free=10)
    monkeypatch.setattr(copies_module.shutil, "disk_usage", lambda _: usage)
    retitle(levels, "a title of more than ten bytes")
    registry.scan()
    assert registry.get("levels") == before
    assert "there is no space: 37 B are needed and 10 B are left" in registry.problems()[levels]
    monkeypatch.undo()
    registry.scan()
    assert not registry.problems()


def test_what_could_not_be_copied_is_tried_again_after_a_while(
    levels: Path, opened: Callable[[], Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, tried = opened(), []
    assert registry.get("levels")

    def fail(self: Copies, path: Path) -> str:
        tried.append(path.name)
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Copies, "_store", fail)
        retitle(levels, "second")
        until(lambda: bool(registry.models()) and "Input/output error" in registry.problems()[levels])
        assert tried == ["model.yaml"]
    assert registry.get("levels").manifest.title == "first"
    monkeypatch.setattr(intake.time, "monotonic", lambda now=time.monotonic: now() + 2 * intake.RETRY_S)
    until(lambda: registry.get("levels").manifest.title == "second")


def test_a_file_that_can_be_executed_still_can_be(levels: Path, opened: Callable[[], Registry]) -> None:
    (levels / "tool.sh").write_text("#!/bin/sh\n")
    (levels / "tool.sh").chmod(0o755)
    folder = opened().get("levels").folder
    assert os.access(folder / "tool.sh", os.X_OK)
    assert not os.access(folder / "model.yaml", os.X_OK)
    assert (folder / WEIGHTS).stat().st_mode & 0o222 == 0


def test_links_to_folders_are_followed_and_circles_end(
    levels: Path, tmp_path: Path, opened: Callable[[], Registry]
) -> None:
    (levels / "models").rename(tmp_path / "elsewhere")
    (levels / "models").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(levels)
    folder = opened().get("levels").folder
    assert (folder / WEIGHTS).read_bytes() == (tmp_path / "elsewhere" / "model.safetensors").read_bytes()
    assert not (folder / "models").is_symlink()


def test_a_copy_that_this_release_cannot_serve_is_reported(
    levels: Path, opened: Callable[[], Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = opened().get("levels")
    for path in (accepted.folder, levels):
        (path / "configs" / "inference.json").chmod(0o600)
    (accepted.folder / "configs" / "inference.json").write_text("{" + " " * 100000)
    monkeypatch.setattr(Copies, "_is_whole", lambda self, accepted: True)
    registry = opened()
    assert registry.models() == ()
    assert "inference.json is malformed" in registry.problems()[levels]
