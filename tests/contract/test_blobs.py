"""What every place for bytes does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import obstore
import pytest
from object_store import ObjectStore, object_store

from inference_server.errors import ResultGone, SettingsError, StorageFull, StoreUnavailable
from inference_server.settings import MIB, Settings, load_settings
from inference_server.tasks.blobs import Blobs, LocalBlobs, open_blobs, s3, staging
from inference_server.tasks.blobs.memory import MemoryBlobs
from inference_server.tasks.blobs.s3_store import open_store, why_unusable
from inference_server.tasks.blobs.staging import disk_errors

BUCKET = "cases"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("object-store"), tls=True) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture
def in_bucket(tmp_path: Path, server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for blobs in a folder of the bucket that nobody else uses."""
    monkeypatch.setenv("NO_PROXY", server.host)
    return Settings(data_dir=tmp_path / "data", **server.settings(BUCKET, f"of/{tmp_path.name}"))


@pytest.fixture
def remote(in_bucket: Settings) -> Blobs:
    return open_blobs(in_bucket)


@pytest.fixture(params=["local", "memory", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    (tmp_path / "scratch").mkdir()
    kinds: dict[str, Callable[[], Blobs]] = {
        "local": lambda: LocalBlobs(tmp_path / "blobs"),
        "memory": lambda: MemoryBlobs(tmp_path / "scratch"),
        "s3": lambda: request.getfixturevalue("remote"),
    }
    return kinds[request.param]()


def _put(blobs: Blobs, content: bytes) -> str:
    staged = blobs.stage()
    staged.write_bytes(content)
    return blobs.put(staged)


def test_bytes_come_back_as_they_were_put(blobs: Blobs) -> None:
    content = os.urandom(100_000)
    key = _put(blobs, content)
    with blobs.open(key) as blob:
        assert blob.read() == content
        assert blob.seek(50_000) == 50_000
        assert blob.read(10) == content[50_000:50_010]
    with blobs.as_file(key) as path:
        assert path.read_bytes() == content


def test_an_empty_blob_is_a_blob(blobs: Blobs) -> None:
    with blobs.open(_put(blobs, b"")) as blob:
        assert blob.read() == b""


def test_a_staged_file_is_empty_private_and_gone_once_put(blobs: Blobs) -> None:
    staged = blobs.stage()
    assert staged.read_bytes() == b""
    assert staged.stat().st_mode & 0o777 == 0o600
    blobs.put(staged)
    assert not staged.exists()


def test_a_discarded_file_leaves_nothing_behind(blobs: Blobs) -> None:
    staged = blobs.stage()
    blobs.discard(staged)
    blobs.discard(staged)
    assert not staged.exists()
    assert blobs.older_than(-1.0) == []


def test_discarding_what_was_put_leaves_the_blob(blobs: Blobs) -> None:
    staged = blobs.stage()
    staged.write_bytes(b"kept")
    key = blobs.put(staged)
    blobs.discard(staged)
    with blobs.open(key) as blob:
        assert blob.read() == b"kept"


def test_keys_are_all_different_and_hard_to_guess(blobs: Blobs) -> None:
    keys = {_put(blobs, b"same") for _ in range(50)}
    assert len(keys) == 50
    assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for key in keys)


def test_a_deleted_blob_is_gone_and_may_be_deleted_again(blobs: Blobs) -> None:
    key = _put(blobs, b"x")
    blobs.delete(key)
    blobs.delete(key)
    with pytest.raises(ResultGone):
        blobs.open(key)
    with pytest.raises(ResultGone), blobs.as_file(key):
        pass


def test_an_open_blob_can_be_read_to_its_end_although_it_is_deleted(blobs: Blobs) -> None:
    key = _put(blobs, b"x" * 1000)
    with blobs.open(key) as blob:
        blobs.delete(key)
        assert len(blob.read()) == 1000


@pytest.mark.parametrize(
    "key", ["", "..", "../secret", "/etc/passwd", "a" * 31, "A" * 32, "ab/cdef", "0" * 32, "0" * 33]
)
def test_what_is_no_key_is_a_blob_that_is_not_there(key: str, blobs: Blobs, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with pytest.raises(ResultGone):
        blobs.open(key)
    with pytest.raises(ResultGone), blobs.as_file(key):
        pass
    blobs.delete(key)
    assert secret.read_text() == "secret"


def test_old_blobs_and_staged_files_are_found_by_age_and_can_be_deleted(blobs: Blobs) -> None:
    key = _put(blobs, b"x")
    staged = blobs.stage()
    assert blobs.older_than(60.0) == []
    assert sorted(blobs.older_than(-1.0)) == sorted([key, staged.name])
    for old in blobs.older_than(-1.0):
        blobs.delete(old)
    assert blobs.older_than(-1.0) == []
    assert not staged.exists()


def test_the_age_of_a_blob_counts_from_when_it_was_put(blobs: Blobs) -> None:
    staged = blobs.stage()
    long_ago = time.time() - 3600
    os.utime(staged, (long_ago, long_ago))
    assert blobs.older_than(60.0) == [staged.name]
    blobs.put(staged)
    assert blobs.older_than(60.0) == []


def test_local_blobs_survive_the_process(tmp_path: Path) -> None:
    key = _put(LocalBlobs(tmp_path / "blobs"), b"durable")
    with LocalBlobs(tmp_path / "blobs").open(key) as blob:
        assert blob.read() == b"durable"


def test_file_and_folders_are_synced_to_disk_in_the_order_that_survives_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    steps: list[str] = []
    real_sync, real_rename = os.fsync, Path.rename

    def sync(descriptor: int) -> None:
        steps.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().relative_to(tmp_path)}")
        real_sync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        steps.append("rename")
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    key = _put(blobs, b"x")
    assert steps == [f"sync blobs/staging/{key}", "sync blobs", "rename", f"sync blobs/{key[:2]}"]


def test_only_files_staged_in_the_same_place_are_put(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    other = tmp_path / ("a" * 32)
    other.write_text("mine")
    for method in (blobs.put, blobs.discard):
        with pytest.raises(ValueError, match="not a file that was staged here"):
            method(other)
    assert other.read_text() == "mine"


def test_local_blobs_know_the_free_space_of_their_disk(tmp_path: Path) -> None:
    free_bytes = LocalBlobs(tmp_path / "blobs").free_bytes()
    assert free_bytes is not None
    assert 0 < free_bytes <= os.statvfs(tmp_path).f_frsize * os.statvfs(tmp_path).f_blocks


def test_a_full_disk_and_a_broken_one_are_told_apart() -> None:
    with pytest.raises(StorageFull), disk_errors():
        raise OSError(28, "No space left on device")
    with pytest.raises(StoreUnavailable), disk_errors():
        raise OSError(5, "Input/output error")


def test_a_url_names_the_place(tmp_path: Path) -> None:
    key = _put(open_blobs(Settings(blobs_url=f"file://{tmp_path / 'here'}")), b"x")
    assert (tmp_path / "here" / key[:2] / key).read_bytes() == b"x"
    with pytest.raises(SettingsError, match="INFERENCE_SERVER_BLOBS_URL"):
        open_blobs(Settings(blobs_url="ftp://host/folder"))


def test_the_folders_of_blobs_are_for_their_owner_only(tmp_path: Path) -> None:
    _put(LocalBlobs(tmp_path / "blobs"), b"x")
    folders = [path for path in (tmp_path / "blobs", *(tmp_path / "blobs").rglob("*")) if path.is_dir()]
    assert [path.stat().st_mode & 0o777 for path in folders] == [0o700] * 3


STAGER = """
import sys
from pathlib import Path
from inference_server.tasks.blobs import LocalBlobs
staged = LocalBlobs(Path(sys.argv[1])).stage()
staged.write_bytes(b"half a case")
print(staged.name, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_was_writing_is_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "LOCKING_S", -1.0)
    blobs = LocalBlobs(tmp_path)
    writing, stored = blobs.stage(), _put(blobs, b"a case")
    command = [sys.executable, "-c", STAGER, str(tmp_path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout
    left = other.stdout.readline().strip()
    assert blobs.abandoned() == []
    other.kill()
    other.communicate()
    assert blobs.abandoned() == [left]
    blobs.delete(left)
    assert blobs.abandoned() == []
    assert writing.exists()
    assert blobs.older_than(-10.0) in ([stored, writing.name], [writing.name, stored])


def test_a_file_that_is_staged_at_this_moment_is_not_abandoned(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    (tmp_path / "staging" / ("0" * 32)).touch()
    assert blobs.abandoned() == []


def test_staging_keeps_no_file_open_afterwards(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        _put(blobs, b"x")
        blobs.discard(blobs.stage())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_large_blob_goes_in_parts_and_comes_from_any_place_in_it(
    remote: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 5 * MIB)  # the smallest part that there is
    monkeypatch.setattr(s3, "BLOCK_BYTES", MIB)
    content = os.urandom(7 * MIB + 3)
    key = _put(remote, content)
    with remote.open(key) as blob:
        assert blob.read(2 * MIB) == content[: 2 * MIB]
        assert blob.seek(-5, os.SEEK_END) == len(content) - 5
        assert blob.read() == content[-5:]
        assert blob.seek(6 * MIB) == blob.tell()
        assert blob.read() == content[6 * MIB :]
        assert blob.read() == b""
    with remote.as_file(key) as path:
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


def test_a_large_remote_blob_that_is_deleted_while_it_is_read_is_gone(
    remote: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "BLOCK_BYTES", 1000)
    key = _put(remote, b"x" * 3000)
    with remote.open(key) as blob:
        assert blob.read(1000) == b"x" * 1000
        remote.delete(key)
        with pytest.raises(ResultGone):
            blob.read(2000)


def test_what_others_keep_in_the_bucket_is_left_alone(remote: Blobs, in_bucket: Settings) -> None:
    bucket = open_store(in_bucket)
    obstore.put(bucket, "notes.txt", b"of the operator")
    obstore.put(bucket, f"deeper/{'0' * 32}", b"of another program")
    key = _put(remote, b"x")
    assert remote.older_than(-10.0) == [key]


def test_an_object_store_that_is_away_or_not_ours_is_one_that_cannot_be_used(
    in_bucket: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = {"s3_endpoint": "https://127.0.0.1:1"}
    for wrong in (nowhere, {"s3_ca": None}, {"blobs_url": "s3://no-such-bucket"}):
        blobs = open_blobs(in_bucket.model_copy(update=wrong))
        with pytest.raises(StoreUnavailable):
            _put(blobs, b"x")
        with pytest.raises(StoreUnavailable):
            blobs.older_than(60.0)
    assert {record.getMessage() for record in caplog.records} == {"object store cannot be used"}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"blobs_url": "s3://"}, "INFERENCE_SERVER_BLOBS_URL"),
        ({"s3_ca": Path("/no/such/file.pem")}, "INFERENCE_SERVER_S3_CA"),
        ({"s3_ca": Path(__file__)}, "INFERENCE_SERVER_S3_"),
    ],
)
def test_settings_that_cannot_be_used_are_named(wrong: dict[str, object], named: str, in_bucket: Settings) -> None:
    with pytest.raises(SettingsError, match=named):
        open_blobs(in_bucket.model_copy(update=wrong))


def test_a_machine_removes_what_its_own_ended_processes_were_writing(
    in_bucket: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "LOCKING_S", -1.0)
    folder = in_bucket.data_dir / "staging"
    folder.mkdir(parents=True)
    left = folder / ("0" * 32)
    left.write_bytes(b"half a case")
    staged = open_blobs(in_bucket).stage()
    assert list(folder.iterdir()) == [staged]


def test_a_trial_of_a_bucket_says_what_is_wrong_with_it_and_leaves_nothing_there(in_bucket: Settings) -> None:
    assert why_unusable(in_bucket) == ""
    assert list(obstore.list(open_store(in_bucket)).collect()) == []
    assert "NoSuchBucket" in why_unusable(in_bucket.model_copy(update={"blobs_url": "s3://no-such-bucket"}))


def test_an_endpoint_is_a_url() -> None:
    with pytest.raises(SettingsError, match="INFERENCE_SERVER_S3_ENDPOINT"):
        load_settings({"s3_endpoint": "minio:9000"})
