"""Providers of a DSS server, written with the published `itksnap-dss` package, and our client at the other end."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import itksnap_dss
import keyring.backends.null
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from click.testing import Result
from nifti_files import affine, nifti, packed
from typer.testing import CliRunner

from inference_server.cli import app
from inference_server.clients import ServerError
from inference_server.clients.dss import DSSClient
from inference_server.clients.dss.sessions import FileSessions
from inference_server.imaging.workspace import Layer, Role, Workspace, read_workspace, write_workspace

pytestmark = pytest.mark.timeout(180)
SERVICE = {
    "name": "Bright-Marker",
    "version": "0.1.0",
    "shortdesc": "Marks what is bright, on one image",
    "longdesc": "A service for tests.",
    "tags": [{"name": "T1", "type": "MainImage", "hint": "", "required": True}],
}
INSTANCES, TICKETS = 10, 200
NOBODY = "redis://127.0.0.1:1/0"
PICTURE = np.zeros((5, 6, 7), np.uint8)
PICTURE[1:3, 2:5, 3:6] = 200


@dataclass(frozen=True)
class Place:
    """A server with a provider `lab`, its service, and access tokens of a user, a stranger and two providers."""

    url: str
    service: str
    tokens: dict[str, str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    data = tmp_path_factory.mktemp("dss") / "data"
    names = ("ward", "stranger", "lab-daemon", "rival-daemon")
    tokens = {name: token_of(data, name) for name in names}
    operator = {"Authorization": f"Bearer {token_of(data, 'operator', '--scopes', 'operate')}"}
    with api(data) as url, httpx.Client(base_url=url, headers=operator) as http:

        def post(place: str, **form: str) -> str:
            return http.post(f"/api/admin/providers{place}", data=form).raise_for_status().text

        for provider in ("lab", "rival"):
            post("", name=provider)
            post(f"/{provider}/users", email=f"{provider}-daemon")
        yield Place(url, post("/lab/services", service=json.dumps(SERVICE)), tokens)


def token_of(data: Path, *words: str) -> str:
    """Make an access token as operators do."""
    done = CliRunner().invoke(app, ["tokens", "create", *words, "--data", str(data)])
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


@contextmanager
def api(data: Path) -> Iterator[str]:
    """Run the API alone: tickets of external services need no worker."""
    settings = {"DISK_LOW_BYTES": "0", "ZOO": "false", "DSS_TICKET_LIMIT": str(2 * TICKETS), "BROKER_URL": NOBODY}
    environment = {**os.environ, **{f"INFERENCE_SERVER_{name}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "inference_server", "api", "--port", "0", "--data", str(data)]
    with data.with_name("log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout
    try:
        line = process.stdout.readline()
        assert line.startswith("ready "), data.with_name("log").read_text()
        yield line.split()[1]
    finally:
        process.terminate()
        process.wait(90)
        process.stdout.close()


@pytest.fixture(autouse=True)
def _no_keyring_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring.core, "_keyring_backend", keyring.backends.null.Keyring())


def one_time_token(place: Place, name: str) -> str:
    answer = httpx.get(f"{place.url}/api/token", headers={"Authorization": f"Bearer {place.tokens[name]}"})
    assert answer.status_code == 200, answer.text
    return answer.text.strip()


@contextmanager
def published(place: Place, name: str = "lab-daemon") -> Iterator[itksnap_dss.DSSClient]:
    """The published client, signed in as its users do it: with a token of the page /token."""
    client = itksnap_dss.DSSClient(place.url)
    with client.cli:
        client.login(one_time_token(place, name))
    with client.cli:
        yield client


@pytest.fixture
def daemon(place: Place) -> Iterator[itksnap_dss.DSSClient]:
    with published(place) as client:
        yield client


@pytest.fixture
def user(place: Place, tmp_path: Path) -> Iterator[DSSClient]:
    with DSSClient(place.url, sessions=FileSessions(tmp_path / "sessions")) as client:
        client.login(one_time_token(place, "ward"))
        yield client


@pytest.fixture
def workspace(tmp_path: Path) -> str:
    """A workspace with an image that is tagged."""
    image = tmp_path / "t1.nii.gz"
    image.write_bytes(packed(nifti(np.ascontiguousarray(PICTURE.transpose()), affine(np.eye(3)))))
    layer = Layer(str(image), Role.MAIN, ("T1",))
    write_workspace(Workspace((layer,), save_location=str(tmp_path)), tmp_path / "case.itksnap")
    return str(tmp_path / "case.itksnap")


def test_a_daemon_with_the_published_package_serves_a_ticket_of_our_client(
    place: Place, user: DSSClient, daemon: itksnap_dss.DSSClient, workspace: str, tmp_path: Path
) -> None:
    listed = user.dss_list_services()
    assert listed[listed["githash"] == place.service].iloc[0].tolist() == [
        "Bright-Marker", place.service, "0.1.0", "Marks what is bright, on one image"
    ]  # fmt: skip
    assert user.dss_service_detail("Bright-Marker")["tags"][0]["name"] == "T1"
    assert daemon.dssp_list_services().values.tolist() == [["Bright-Marker", "0.1.0", place.service, "lab"]]
    assert daemon.dssp_claim_ticket([place.service], "lab", "1") is None
    assert daemon.dssp_available_services([place.service]) is None

    ticket = user.dss_create_ticket(place.service, workspace)
    assert user.dss_queue_position(ticket) == 1
    assert daemon.dssp_available_services([place.service]).values.tolist() == [[place.service, "Bright-Marker", 1]]
    claimed = daemon.dssp_wait_for_ticket([place.service], "lab", "1", timeout=5, interval=1)
    assert claimed.values.tolist() == [[ticket, place.service, "claimed"]]
    assert user.dss_ticket_detail(ticket).status == "claimed"

    daemon.dssp_download_ticket(ticket, str(tmp_path / "in"))
    [image] = (tmp_path / "in").glob("layer_*.nii.gz")
    [given] = (tmp_path / "in").glob("*.itksnap")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(image))), PICTURE)

    progress = []
    for done in (0.25, 0.5):
        daemon.dssp_set_progress(ticket, done, 0.0, 0.8)
        progress.append(user.dss_ticket_progress(ticket))
    assert progress == pytest.approx([0.2, 0.4])
    (tmp_path / "page.txt").write_text("what was done")
    daemon.dssp_attach(ticket, "A page", str(tmp_path / "page.txt"), "text/plain")
    daemon.dssp_log(ticket, "info", "Half & half: 50% +")
    daemon.dssp_log(ticket, "warning", "Zeile zwei, größer")

    wrapped = itksnap_dss.WorkspaceWrapper(str(given))
    sitk.WriteImage(sitk.ReadImage(str(image)) > 100, str(tmp_path / "labels.nii.gz"))
    wrapped.add_layer("SegmentationRole", str(tmp_path / "labels.nii.gz"))
    wrapped.save_workspace(str(tmp_path / "in" / "result.itksnap"))
    daemon.dssp_upload_ticket(ticket, str(tmp_path / "in" / "result.itksnap"), "_results")
    daemon.dssp_set_status(ticket, "success")

    found = user.dss_wait_for_ticket(ticket, timeout=5, interval=0.1)
    assert (found.status, found.progress) == ("success", 1.0)
    lines = {line.message: line for line in found.log}
    assert lines["Zeile zwei, größer"].category == "warning"
    [attachment] = lines["Half & half: 50% +"].attachments
    assert (attachment.description, attachment.mime_type.partition(";")[0]) == ("A page", "text/plain")
    assert httpx.get(attachment.url).text == "what was done"
    log = user.dss_ticket_log(ticket)
    assert log["id"].is_monotonic_increasing
    assert log["attachments"].sum() == 1

    fetched = user.dss_download_ticket(ticket, str(tmp_path / "out"))
    [result] = [path for path in fetched if path.suffix == ".itksnap"]
    read = read_workspace(result)
    assert [layer.role for layer in read.layers] == [Role.MAIN, Role.SEGMENTATION]
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(read.path_of(read.layers[1]))))
    np.testing.assert_array_equal(labels, PICTURE > 100)
    assert user.dss_delete_ticket(ticket) == "deleted"
    assert httpx.get(attachment.url).status_code != 200
    assert ticket not in user.dss_list_tickets()["id"].tolist()


def test_the_example_answers_a_ticket(place: Place, user: DSSClient, workspace: str, tmp_path: Path) -> None:
    ticket = user.dss_create_ticket(place.service, workspace)
    example = runpy.run_path(str(Path(__file__).resolve().parents[2] / "examples" / "dss" / "provider.py"))
    with DSSClient(place.url, sessions=FileSessions(tmp_path / "daemon")) as daemon:
        daemon.login(one_time_token(place, "lab-daemon"))
        assert daemon.dssp_wait_for_ticket([place.service], "lab", "1", timeout=5)["ticket"].iloc[0] == ticket
        example["serve"](daemon, ticket)
    assert user.dss_ticket_detail(ticket).status == "success"
    [result] = [path for path in user.dss_download_ticket(ticket, str(tmp_path / "out")) if path.suffix == ".itksnap"]
    read = read_workspace(result)
    assert [(label.value, label.name) for label in read.labels] == [(1, "Bright")]
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(read.path_of(read.layers[1]))))
    np.testing.assert_array_equal(labels, PICTURE > 0)
    user.dss_delete_ticket(ticket)


def test_a_failure_is_told_and_can_be_tried_again(
    place: Place, user: DSSClient, daemon: itksnap_dss.DSSClient, workspace: str
) -> None:
    ticket = user.dss_create_ticket("Bright-Marker", workspace)
    assert daemon.dssp_claim_ticket([place.service], "lab", "1")["ticket"].iloc[0] == ticket
    daemon.dssp_log(ticket, "error", "The image is too dark.")
    daemon.dssp_set_status(ticket, "failed")
    found = user.dss_wait_for_ticket(ticket, timeout=5, interval=0.1)
    assert (found.status, found.log[-1].category, found.log[-1].message) == (
        "failed",
        "error",
        "The image is too dark.",
    )
    assert user.dss_retry_ticket(ticket) == "ready"
    assert daemon.dssp_claim_ticket([place.service], "lab", "2")["ticket"].iloc[0] == ticket
    user.dss_delete_ticket(ticket)
    with pytest.raises(httpx.HTTPStatusError):
        daemon.dssp_set_progress(ticket, 0.5)


def refusal(ask: Callable[[], Any]) -> tuple[int, str]:
    with pytest.raises(httpx.HTTPStatusError) as caught:
        ask()
    return caught.value.response.status_code, caught.value.response.text


def test_what_is_not_ones_own_is_refused_in_words(
    place: Place, user: DSSClient, daemon: itksnap_dss.DSSClient, workspace: str, tmp_path: Path
) -> None:
    ticket = user.dss_create_ticket(place.service, workspace)
    assert refusal(lambda: daemon.dssp_set_progress(ticket, 0.5))[0] == 400  # not claimed yet
    assert daemon.dssp_claim_ticket([place.service], "lab", "1") is not None
    with published(place, "rival-daemon") as rival:
        assert refusal(lambda: rival.dssp_claim_ticket([place.service], "rival", "1"))[0] == 400
        assert refusal(lambda: rival.dssp_download_ticket(ticket, str(tmp_path / "stolen")))[0] == 400
        assert refusal(lambda: rival.login("x" * 40))[0] == 401
    with DSSClient(place.url, sessions=FileSessions(tmp_path / "other")) as stranger:
        assert refusal(stranger.dss_list_tickets)[0] == 401
        stranger.login(one_time_token(place, "stranger"))
        status, sentence = refusal(lambda: stranger.dss_ticket_detail(ticket))
        assert (status, sentence) == refusal(lambda: stranger.dss_ticket_detail(9999))
        assert status == refusal(lambda: stranger.dss_delete_ticket(ticket))[0] == 400
    assert refusal(lambda: user.dss_upload_ticket(ticket, workspace))[0] == 400  # it is being worked on
    assert refusal(lambda: user.dss_create_ticket("Unknown-Service"))[0] == 400
    user.dss_delete_ticket(ticket)


def test_ten_instances_claim_two_hundred_tickets_each_once(place: Place, user: DSSClient) -> None:
    created = [user.dss_create_ticket(place.service) for _ in range(TICKETS)]
    for ticket in created:
        user.post_(f"api/tickets/{ticket}/files/input", files={"myfile": ("empty.itksnap", b"<registry/>")})
        user.dss_submit_ticket(ticket)
    started = threading.Barrier(INSTANCES)

    def instance(number: int) -> list[int]:
        mine: list[int] = []
        with published(place) as daemon:
            started.wait()
            while (claimed := daemon.dssp_claim_ticket([place.service], "lab", str(number))) is not None:
                mine.append(int(claimed["ticket"].iloc[0]))
        return mine

    with ThreadPoolExecutor(INSTANCES) as pool:
        claims = list(pool.map(instance, range(INSTANCES)))
    assert sorted(ticket for mine in claims for ticket in mine) == sorted(created)
    statuses = user.dss_list_tickets().set_index("id")["status"]
    assert {statuses[ticket] for ticket in created} == {"claimed"}


def test_the_commands_do_the_same(place: Place, workspace: str, tmp_path: Path) -> None:
    ward, daemon = (Terminal(place, tmp_path / name) for name in ("ward", "lab-daemon"))
    for who in (ward, daemon):
        assert who.run("login", "--token", one_time_token(place, who.home.name)).startswith("logged in as ")
    assert place.service in ward.run("services")
    assert json.loads(ward.run("service", place.service))["name"] == "Bright-Marker"
    ticket = ward.run("send", "Bright-Marker", workspace)
    assert daemon.run("provider", "claim", place.service, "--provider", "lab") == ticket
    listed = json.loads(daemon.run("provider", "files", ticket, "--json"))
    files = daemon.run("provider", "download", ticket, "--out", str(tmp_path / "in")).splitlines()
    assert [Path(file).name for file in files] == [each["filename"] for each in listed]
    daemon.run("provider", "progress", ticket, "0.5")
    assert ward.run("status", ticket) == "claimed 50%"
    daemon.run("provider", "attach", ticket, "A file", files[0])
    daemon.run("provider", "log", ticket, "info", "half")
    [given] = [path for path in files if path.endswith(".itksnap")]
    daemon.run("provider", "upload", ticket, given)
    daemon.run("provider", "success", ticket)
    ward.run("wait", ticket, "--timeout", "5")
    assert "half" in ward.run("log", ticket)
    assert len(ward.run("download", ticket, "--out", str(tmp_path / "out")).splitlines()) == 2
    assert json.loads(ward.run("tickets", "--json"))[-1] == {
        "id": int(ticket),
        "service": "Bright-Marker",
        "status": "success",
    }
    ward.run("delete", ticket)
    assert ward.run("status", ticket) == "deleted"
    daemon.run("logout")
    assert isinstance(daemon.ran("provider", "services").exception, ServerError)
    assert isinstance(ward.ran("download", ticket).exception, ServerError)


class Terminal:
    """A user at a terminal, in a home of his own."""

    def __init__(self, place: Place, home: Path) -> None:
        self.home = home
        self._environment = {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "ITKSNAP_WT_DSS_SERVER": place.url}

    def ran(self, *words: str) -> Result:
        return CliRunner().invoke(app, ["dss", *words], env=self._environment)

    def run(self, *words: str) -> str:
        done = self.ran(*words)
        assert done.exit_code == 0, done.exception
        return done.stdout.strip()
