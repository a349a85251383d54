"""The command line against the running server, as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from served import bright_box

from inference_server.clients import Client, ServerError
from inference_server.imaging.nifti import read_volume
from inference_server.stack.launch import LaunchedServer


@pytest.fixture
def run(server: LaunchedServer):  # type: ignore[no-untyped-def]
    def call(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "inference_server", *arguments, "--server", server.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == status, done.stderr
        return done

    return call


def test_submit_waits_and_unpacks_labels_on_the_images_grid(run, box: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = run("submit", "bright", str(box), "--out", str(tmp_path / "out"))
    labels, names = sorted(done.stdout.split(), key=lambda name: name.endswith(".json"))
    assert json.loads(Path(names).read_text()) == {"1": "BRIGHT"}
    volume, reference = read_volume(Path(labels), max_bytes=1 << 20), read_volume(box, max_bytes=1 << 20)
    np.testing.assert_array_equal(volume.array, bright_box() > 100)
    assert volume.geometry == reference.geometry
    assert "done" in done.stderr


def test_a_task_is_followed_cancelled_retried_and_deleted(run, box: Path) -> None:  # type: ignore[no-untyped-def]
    uid = run("submit", "bright", str(box), "--wait").stdout.strip()
    assert run("status", uid).stdout.strip() == "done"
    assert json.loads(run("status", uid, "--json").stdout)["uid"] == uid
    assert uid in run("tasks").stdout
    assert "The task is finished" in run("cancel", uid, status=1).stderr
    run("delete", uid)
    assert "does not know this task" in run("status", uid, status=1).stderr


def test_models_are_listed_and_shown(run) -> None:  # type: ignore[no-untyped-def]
    listed = run("models", "list").stdout
    assert "bright" in listed
    assert "ct-body" in listed
    assert "BRIGHT" in run("models", "show", "bright").stdout


def test_errors_are_one_sentence_and_exit_status_1(run, box: Path) -> None:  # type: ignore[no-untyped-def]
    done = run("submit", "nonsense", str(box), status=1)
    assert done.stdout == ""
    assert "does not know the model 'nonsense'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_client_waits_fetches_and_cancels_a_running_task(client: Client, box: Path, tmp_path: Path) -> None:
    seen = []
    task = client.wait(client.submit("slow", [box]).uid, on_change=lambda changed: seen.append(changed.status))
    assert task.status == "finished"
    assert seen[-1] == "finished"
    assert [path.suffix for path in client.fetch(task.uid, tmp_path)] == [".json", ".gz"]
    with pytest.raises(ServerError, match="The task is finished; only a queued or running one can be cancelled"):
        client.cancel(task.uid)


def test_the_same_idempotency_key_gives_the_same_task(client: Client, box: Path) -> None:
    first = client.submit("bright", [box], idempotency_key="once")
    again = client.submit("bright", [box], idempotency_key="once")
    assert first.uid == again.uid


def test_an_unreachable_server_is_a_sentence(box: Path) -> None:
    with Client("http://user:secret@127.0.0.1:9") as nobody, pytest.raises(ServerError) as error:
        nobody.submit("bright", [box])
    assert error.value.message == "The server at http://127.0.0.1:9 does not answer."


def test_to_check_a_model_that_there_is_not_is_an_error() -> None:
    command = [sys.executable, "-m", "inference_server", "models", "check", "--model", "nope"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "does not know the model 'nope'. Known models: " in done.stderr
