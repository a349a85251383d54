"""A department's server: tokens, HTTPS and the audit log, as docs/access.md says, against the running whole."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from served import bright_box, write_image

from inference_server.clients import Client, ServerError
from inference_server.stack.launch import LaunchedServer, launched_server
from mim_extension.testing import mimpython
from mim_extension.testing.mim_objects import MimImage, MimSession, drawn_contours, logged

pytestmark = pytest.mark.timeout(300)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "access.md"


@dataclass(frozen=True)
class Department:
    """A running server, its folder, its certificate, and the token that the page's commands made."""

    server: LaunchedServer
    data: Path
    certificate: Path
    token: str

    @property
    def secure_url(self) -> str:
        assert self.server.secure_url
        return self.server.secure_url.replace("0.0.0.0", "127.0.0.1")

    def client(self, token: str | None = None) -> Client:
        return Client(self.secure_url, token=token or self.token, certificate=self.certificate)


def shell(script: str, data: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "INFERENCE_SERVER_DATA_DIR": str(data),
    }
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands(*words: str) -> str:
    """Return the commands of the page that begin with one of these."""
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return "\n".join(line for line in lines if line.startswith(tuple(f"inference-server {word}" for word in words)))


@pytest.fixture(scope="module")
def department(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Department]:
    folder = tmp_path_factory.mktemp("department")
    data = folder / "data"
    shell(commands("certs"), data)
    printed = shell(commands("tokens"), data)
    [_, token] = re.findall(r"^ist_\S+$", printed, re.MULTILINE)
    [up] = commands("up").splitlines()
    arguments = [*up.split()[2:], "--tls-port", "0", "--models", str(models)]
    settings = {"INFERENCE_SERVER_ZOO": "false", "INFERENCE_SERVER_DISK_LOW_BYTES": "0"}
    with (
        (folder / "log").open("w") as log,
        launched_server(data, arguments=arguments, environment=settings, log=log) as server,
    ):
        yield Department(server, data, data / "tls" / "certificate.pem", token)


@pytest.fixture
def ext(department: Department, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.setenv("MIM_INFERENCE_CA_BUNDLE", str(department.certificate))
    mimpython.install()
    from mim_extension import ext as entry_points

    yield entry_points
    mimpython.uninstall()


def audited(department: Department, uid: str) -> list[tuple[str, str, str]]:
    lines = shell(f"inference-server audit --json --uid {uid}", department.data).splitlines()
    return [(line["token"], line["dialect"], line["action"]) for line in map(json.loads, lines)]


def test_the_address_of_the_network_is_https_alone(department: Department) -> None:
    assert department.server.url.startswith("http://127.0.0.1:")
    assert str(department.server.secure_url).startswith("https://0.0.0.0:")
    assert requests.get(f"{department.server.url}/api/v1/models").status_code == 401
    assert requests.get(f"{department.server.url}/healthz/ready").status_code == 200


def test_a_case_goes_round_on_the_command_line_and_its_story_is_told(
    department: Department, box: Path, tmp_path: Path
) -> None:
    server = f"--server {department.secure_url} --certificate {department.certificate}"
    written = shell(
        f"export INFERENCE_SERVER_TOKEN={department.token}\n"
        f"inference-server submit bright {box} --out {tmp_path / 'out'} {server}",
        department.data,
    )
    assert [Path(line).is_file() for line in written.splitlines()] == [True, True]
    with department.client() as client:
        [task] = list(client.tasks(limit=1))
    shell(f"inference-server delete {task.uid} --token {department.token} {server}", department.data)
    name = "mim-station-1"
    expected = [(name, "native", action) for action in ("submitted", "fetched", "deleted")]
    assert audited(department, task.uid) == expected


def test_the_log_tells_a_tasks_story_by_its_uid(department: Department, tmp_path: Path) -> None:
    large = write_image(tmp_path / "large.nii.gz", bright_box((6, 10, 28)))
    with department.client() as client:
        uid = client.submit("slow", [large]).uid
        eventually(lambda: client.status(uid).phase == "predicting")
        psutil.Process(holder(department, uid)).kill()
        assert client.wait(uid).status == "finished"
        client.fetch(uid, tmp_path / "result.zip")
        client.delete(uid)
    story = shell(f"grep {uid} {department.data.parent / 'log'}", department.data)
    assert [re.split(r"\s{2,}", line.partition("] ")[2])[0] for line in story.splitlines()] == [
        "task accepted",
        "task started",
        "tasks lost with their child",
        "task started",
        "task finished",
        "result fetched",
        "task deleted",
    ]


def holder(department: Department, uid: str) -> int:
    """Return the process id of the worker child that runs a task."""
    with closing(sqlite3.connect(department.data / "records.sqlite")) as records:
        return int(records.execute("SELECT holder_pid FROM tasks WHERE uid = ?", (uid,)).fetchone()[0])


def eventually(true: Callable[[], bool], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("where", ["address", "workstation"])
def test_a_case_goes_round_through_mim(
    department: Department, ext, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    url = department.secure_url
    if where == "address":
        url = url.replace("https://", f"https://anybody:{department.token}@")
    else:
        monkeypatch.setenv("MIM_INFERENCE_TOKEN", department.token)
    image, session = MimImage(bright_box(), scaling_factor=(1, 1, 1)), MimSession()
    uid = ext.InferenceServer1images(session, image, "bright", 0, 0, "", url)
    assert uid, logged(session)
    ext.InferenceServerGetFromUid(session, uid, image, url, 1, 120)
    assert logged(session, "error") == []
    np.testing.assert_array_equal(drawn_contours(image)["BRIGHT"], bright_box() > 100)
    assert audited(department, uid) == [
        ("mim-station-1", "mim", "submitted"),
        ("mim-station-1", "mim", "fetched"),
    ]
    assert department.token not in "\n".join(logged(session))


def test_a_wrong_token_is_explained_in_mims_log(department: Department, ext) -> None:  # type: ignore[no-untyped-def]
    session = MimSession()
    url = department.secure_url.replace("https://", "https://mim:ist_0123456789_wrong@")
    assert ext.InferenceServer1images(session, MimImage(bright_box()), "bright", 0, 0, "", url) == ""
    ext.InferenceServerGetFromUid(session, "0" * 32, MimImage(bright_box()), url, 1, 60)
    for line in logged(session, "error"):
        assert "The access token is not valid" in line
    assert len(logged(session, "error")) == 2


def test_a_token_that_is_revoked_ends_at_once_and_nobody_else_sees_its_tasks(department: Department, box: Path) -> None:
    other = shell("inference-server tokens create other", department.data).strip()
    with department.client() as mine, department.client(other) as others:
        uid = mine.submit("bright", [box]).uid
        mine.wait(uid)
        assert [task.uid for task in others.tasks()] == []
        with pytest.raises(ServerError, match="does not know this task"):
            others.status(uid)
        shell("inference-server tokens revoke other", department.data)
        with pytest.raises(ServerError, match="The access token is revoked"):
            others.tasks().__next__()
        assert mine.status(uid).status == "finished"


def test_an_api_that_is_restarted_listens_where_it_did(department: Department) -> None:
    supervisor = psutil.Process(department.server.pid)
    [api] = [part for part in supervisor.children() if "api" in part.cmdline()]
    api.kill()
    with department.client() as client:
        eventually(lambda: is_served(client))


def is_served(client: Client) -> bool:
    try:
        return bool(client.models())
    except ServerError as error:
        if error.http_status:
            raise
        return False


def test_no_token_is_in_the_log(department: Department) -> None:
    assert "ist_" not in (department.data.parent / "log").read_text()
