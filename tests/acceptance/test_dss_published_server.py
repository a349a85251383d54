"""The bridge and our client against the published DSS server, where `itksnap-dss-server` is on the path."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from nifti_files import nifti, oblique, packed
from served import bright_box

from inference_server.clients import Client
from inference_server.clients.dss import DSSClient
from inference_server.clients.dss.sessions import FileSessions
from inference_server.imaging.nifti import read_volume
from inference_server.imaging.workspace import Layer, Role, Workspace, read_workspace, write_workspace
from inference_server.stack.launch import LaunchedServer

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("itksnap-dss-server") is None, reason="itksnap-dss-server is not on the path"),
    pytest.mark.skipif(shutil.which("git") is None, reason="git, which that server fetches services with, is not here"),
]
LIMIT_S = 60.0
HALF = np.array([[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1]])
"""Voxels half as large, edge upon edge."""
SERVICE = {"name": "Bright", "version": "1.0.0", "shortdesc": "Marks what is bright", "longdesc": "", "url": ""}


@dataclass(frozen=True)
class Published:
    """The published server, where everybody is an operator, and the hash of a service of the provider `lab`."""

    url: str
    githash: str

    def signed_in(self, path: Path) -> DSSClient:
        client = DSSClient(self.url, sessions=FileSessions(path))
        with httpx.Client(base_url=self.url) as http:
            http.get("/")
            client.login(http.get("/api/token").text.strip())
        return client


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("published")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["itksnap-dss-server", "--server", "--port", str(port), "--noauth", "--cookie-domain", ""]
    with running(words, folder / "log", cwd=folder):
        url = f"http://127.0.0.1:{port}"
        until_it_answers(url)
        yield Published(url, registered(url, repository(folder / "service")))


@contextmanager
def running(words: list[str], log: Path, **options: object) -> Iterator[subprocess.Popen[str]]:
    with log.open("a") as file:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=file, text=True, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=LIMIT_S)


def until_it_answers(url: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            httpx.get(f"{url}/about")
            return
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the published server does not answer"
            time.sleep(0.1)


def repository(folder: Path) -> Path:
    """Make a repository with a `service.json`, from which that server learns of services."""
    folder.mkdir()
    tags = [{"name": "image", "type": "MainImage", "hint": "", "required": True}]
    (folder / "service.json").write_text(json.dumps({**SERVICE, "tags": tags}))
    someone = ["-c", "user.name=lab", "-c", "user.email=lab@example.org"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], [*someone, "commit", "-q", "-m", "A service"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def registered(url: str, repo: Path) -> str:
    with httpx.Client(base_url=url) as http:
        http.get("/")
        email = http.get("/api/login").text.removeprefix("logged in as ").strip()

        def post(place: str, **form: str) -> str:
            return http.post(f"/api/admin/providers{place}", data=form).raise_for_status().text

        post("", name="lab")
        post("/lab/users", email=email)
        return post("/lab/services", repo=str(repo), ref="main").strip()


@contextmanager
def bridge(published: Published, server: LaunchedServer, home: Path) -> Iterator[None]:
    published.signed_in(home / ".config" / "inference-server" / "dss_sessions").close()
    environment = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}
    environment["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"
    given = {"--server": published.url, "--service": published.githash, "--model": "bright", "--provider": "lab"}
    options = {**given, "--inference-server": server.url, "--poll": "0.2"}
    words = [
        sys.executable,
        "-m",
        "inference_server",
        "dss",
        "serve",
        *(part for pair in options.items() for part in pair),
    ]
    with running(words, home / "log", env=environment) as process:
        assert process.stdout
        assert process.stdout.readline() == f"serving {published.url}\n", (home / "log").read_text()
        yield


def workspace(folder: Path, tag: str) -> str:
    """Write a workspace whose main image is another than the one that the model takes, with voxels half as large."""
    taken, main = folder / "taken.nii.gz", folder / "main.nii.gz"
    taken.write_bytes(packed(nifti(np.ascontiguousarray(bright_box().transpose()), oblique(1))))
    shape = [2 * length for length in bright_box().shape[::-1]]
    main.write_bytes(packed(nifti(np.zeros(shape, np.int16), oblique(1) @ HALF)))
    layers = (Layer(str(main), Role.MAIN), Layer(str(taken), Role.OVERLAY, (tag,)))
    write_workspace(Workspace(layers, save_location=str(folder)), folder / "case.itksnap")
    return str(folder / "case.itksnap")


def test_a_ticket_of_the_published_server_is_served_by_a_model_of_ours(
    published: Published, server: LaunchedServer, client: Client, tmp_path: Path
) -> None:
    tag = client.model("bright")["channels"][0]["name"]
    with published.signed_in(tmp_path / "user") as user, bridge(published, server, tmp_path):
        assert user.dss_list_services()["githash"].tolist() == [published.githash]
        ticket = user.dss_create_ticket("Bright", workspace(tmp_path, tag))
        found = user.dss_wait_for_ticket(ticket, timeout=LIMIT_S, interval=0.2)
        assert (found.status, found.progress) == ("success", 1.0), found.log
        assert [line.category for line in found.log].count("warning") >= 1
        fetched = user.dss_download_ticket(ticket, str(tmp_path / "out"))
        [result] = [path for path in fetched if path.suffix == ".itksnap"]
        read = read_workspace(result)
        labels = read_volume(read.path_of(read.layers[-1]), max_bytes=1 << 20).array
        np.testing.assert_array_equal(labels, np.kron(bright_box() > 100, np.ones((2, 2, 2), np.uint8)))
        assert [(label.value, label.name) for label in read.labels] == [(1, "BRIGHT")]

        without = Workspace((Layer(str(tmp_path / "main.nii.gz"), Role.OVERLAY),), save_location=str(tmp_path))
        write_workspace(without, tmp_path / "none.itksnap")
        failed = user.dss_wait_for_ticket(
            user.dss_create_ticket("Bright", str(tmp_path / "none.itksnap")), interval=0.2
        )
        assert (failed.status, failed.log[-1].category) == ("failed", "error")
        assert failed.log[-1].message == "The workspace has no main image; one was expected."
        assert user.dss_delete_ticket(ticket) == "deleted"
