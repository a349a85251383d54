from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from inference_server.cli import app
from inference_server.commands import doctor
from inference_server.errors import SettingsError


@pytest.fixture(autouse=True)
def _blobs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"blobs": doctor.CHECKS["blobs"]})


def said(tmp_path: Path, blobs_url: str, status: int) -> str:
    done = CliRunner().invoke(
        app, ["doctor", "--data", str(tmp_path / "data")], env={"INFERENCE_SERVER_BLOBS_URL": blobs_url}
    )
    assert done.exit_code == status
    assert status == 0 or isinstance(done.exception, SettingsError)
    return done.stdout


def test_a_folder_that_can_be_made_is_well_and_not_made(tmp_path: Path) -> None:
    assert said(tmp_path, f"file://{tmp_path}/a/b", 0) == "ok   blobs: can be written\n"
    assert list(tmp_path.iterdir()) == []


def test_a_place_of_blobs_that_the_server_would_refuse_is_not_well(tmp_path: Path) -> None:
    assert said(tmp_path, "ftp://x", 1).startswith("BAD  blobs: The setting INFERENCE_SERVER_BLOBS_URL must be a URL")


def test_a_place_of_blobs_that_is_no_folder_is_not_well(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = said(tmp_path, f"file://{tmp_path}/file/blobs", 1)
    assert out.startswith("BAD  blobs: cannot be written\n")
    assert f"Let this user write into {tmp_path}/file, or correct INFERENCE_SERVER_BLOBS_URL." in out


def test_only_the_checks_that_are_named_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = {name: lambda _, name=name: doctor.Finding(name, name != "disk", "seen") for name in ("a", "disk", "b")}
    monkeypatch.setattr(doctor, "CHECKS", checks)
    done = CliRunner().invoke(app, ["doctor", "--data", str(tmp_path), "--only", "b, a"])
    assert (done.exit_code, done.stdout) == (0, "ok   b: seen\nok   a: seen\n")
    failed = CliRunner().invoke(app, ["doctor", "--data", str(tmp_path)])
    assert (failed.exit_code, str(failed.exception)) == (1, "Not well: disk.")


def test_a_check_that_there_is_not_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--data", str(tmp_path), "--only", "blobs,pulse"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert str(done.exception) == "There is no check 'pulse'. The checks are blobs."


def test_a_bucket_that_does_not_answer_is_not_well_and_what_was_wrong_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFERENCE_SERVER_S3_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("INFERENCE_SERVER_S3_KEY_ID", "doctor")
    monkeypatch.setenv("INFERENCE_SERVER_S3_SECRET", "of-the-doctor")
    out = said(tmp_path, "s3://cases/of-hospital", 1)
    assert out.startswith("BAD  blobs: cannot be written\n")
    assert "http://127.0.0.1:1/cases/of-hospital/" in out
    assert "of-the-doctor" not in out
    assert not (tmp_path / "data").exists()
