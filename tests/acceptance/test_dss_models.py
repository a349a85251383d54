"""Models as services of the DSS dialect: workspaces go in as ITK-SNAP sends them, and come back with segmentations."""

from __future__ import annotations

import csv
import gzip
import io
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import nibabel
import numpy as np
import psutil
import pytest
from nifti_files import GEOMETRY_BYTES, nifti, oblique, packed
from served import EDGE, bright_box

from inference_server.clients import Client, ServerError
from inference_server.imaging.workspace import Layer, Role, Workspace, encode_workspace, read_workspace
from inference_server.stack.launch import LaunchedServer

LIMIT_S = 60.0
WORKSPACE = "ticket_00000001.itksnap"
IMAGE = "layer_000_d520cfaa6a726e6b1be9adbe0d119bb4.nii.gz"
EIGHT = np.ones((2, 2, 2), np.uint8)
FINAL = {"success", "failed", "timeout", "deleted"}

Answer = TypeVar("Answer")


class Snap:
    """Talks to a server as ITK-SNAP does."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=30.0)
        page = self.http.get("/token").raise_for_status().text
        [token] = set(re.findall(r"\b[0-9A-Za-z_-]{40}\b", page))
        assert self.post("api/login", token=token).startswith("logged in as ")

    def get(self, path: str) -> str:
        return self._body(self.http.get(path))

    def post(self, path: str, **form: str) -> str:
        return self._body(self.http.post(path, data=form))

    def rows(self, path: str) -> list[list[str]]:
        text = self.get(path)
        assert text == "" or text.endswith("\r\n")
        return list(csv.reader(io.StringIO(text, newline="")))

    def githash(self, name: str) -> str:
        return next(row[1] for row in self.rows("api/services") if row[0] == name)

    def created(self, name: str, files: Mapping[str, bytes]) -> int:
        ticket = int(self.post("api/tickets", githash=self.githash(name)))
        for file, content in files.items():
            fields = {"filename": file, "submit": "send"}
            self._body(
                self.http.post(f"api/tickets/{ticket}/files/input", data=fields, files={"myfile": (file, content)})
            )
        return ticket

    def ready(self, ticket: int) -> None:
        self.post(f"api/tickets/{ticket}/status", status="ready")

    def detail(self, ticket: int, since: int = 0) -> dict[str, Any]:
        answer = self.http.get(f"api/tickets/{ticket}/detail?since={since}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["result"])

    def refusal(self, ticket: int) -> str:
        """Return the sentence with which a ticket is refused that was said to be ready."""
        answer = self.http.post(f"api/tickets/{ticket}/status", data={"status": "ready"})
        assert answer.status_code == 400
        return answer.text

    def download(self, ticket: int, folder: Path) -> Path:
        """Fetch the results and return the workspace among them."""
        folder.mkdir()
        rows = self.rows(f"api/tickets/{ticket}/files/results")
        for index, name in rows:
            answer = self.http.get(f"api/tickets/{ticket}/files/results/{index}")
            assert answer.status_code == 200
            (folder / name).write_bytes(answer.content)
        [workspace] = folder.glob("*.itksnap")
        return workspace

    @staticmethod
    def _body(answer: httpx.Response) -> str:
        assert answer.status_code == 200, answer.text
        return answer.text


@pytest.fixture
def snap(server: LaunchedServer) -> Iterator[Snap]:
    signed_in = Snap(server.url)
    yield signed_in
    signed_in.http.close()


def exported(array: np.ndarray, matrix: np.ndarray, **fields: object) -> bytes:
    """Return an image, given in (z, y, x), as ITK-SNAP exports it: with a fourth axis of one time point."""
    return packed(nifti(np.ascontiguousarray(array.transpose())[..., None], matrix, **fields))


def halved(matrix: np.ndarray) -> np.ndarray:
    """Return where voxels half as large lie, edge upon edge."""
    return matrix @ np.array([[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1]])


def files_of(image: bytes, *tags: str, others: tuple[Layer, ...] = ()) -> dict[str, bytes]:
    layers = (Layer(f"/data/export/{IMAGE}", Role.MAIN, tags), *others)
    workspace = Workspace(layers, save_location="/data/export")
    return {IMAGE: image, WORKSPACE: encode_workspace(workspace)}


def until(question: Callable[[], Answer]) -> Answer:
    deadline = time.monotonic() + LIMIT_S
    while not (answer := question()):
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.05)
    return answer


def ended(snap: Snap, ticket: int) -> dict[str, Any]:
    return until(lambda: (found := snap.detail(ticket))["status"] in FINAL and found)


def test_models_are_services_with_their_channels_as_tags(snap: Snap) -> None:
    rows = {row[0]: row for row in snap.rows("api/services")}
    _, githash, version, short = rows["bright"]
    assert re.fullmatch("[0-9a-f]{40}", githash)
    assert version
    assert 0 < len(short) <= 78
    detail = snap.http.get(f"api/services/{githash}/detail").json()
    [tag] = detail["tags"]
    assert (tag["type"], tag["required"]) == ("MainImage", True)
    assert snap.githash("bright") == githash


GRIDS = {
    "oblique": {"matrix": oblique(0)},
    "left-handed, qform alone": {"matrix": oblique(1), "sform_code": 0},
    "big-endian": {"matrix": oblique(4), "big_endian": True},
}


@pytest.mark.parametrize("grid", GRIDS)
def test_labels_come_back_on_exactly_the_images_grid(snap: Snap, tmp_path: Path, grid: str) -> None:
    image = exported(bright_box(), **GRIDS[grid])
    ticket = snap.created("bright", files_of(image))
    snap.ready(ticket)
    assert ended(snap, ticket)["status"] == "success", snap.detail(ticket)
    workspace = read_workspace(snap.download(ticket, tmp_path / "out"))
    main, made = workspace.layers
    assert (main.role, made.role) == (Role.MAIN, Role.SEGMENTATION)
    assert workspace.path_of(main).read_bytes() == image
    assert [(label.value, label.name) for label in workspace.labels] == [(1, "BRIGHT")]
    labels, original = nibabel.load(workspace.path_of(made)), gzip.decompress(image)
    header = labels.header.binaryblock
    assert [header[part] for part in GEOMETRY_BYTES[1:]] == [original[part] for part in GEOMETRY_BYTES[1:]]
    assert header[76:92] == original[76:92]  # orientation and spacing; what follows is of the fourth axis
    np.testing.assert_array_equal(np.asarray(labels.dataobj), bright_box().transpose() > EDGE)


def test_labels_come_back_on_the_main_images_grid_where_the_model_takes_another(snap: Snap, tmp_path: Path) -> None:
    """The main image's voxels are half as large, so that each of the model's becomes eight."""
    [tag] = snap.http.get(f"api/services/{snap.githash('bright')}/detail").json()["tags"]
    taken = Layer("/data/export/second.nii.gz", Role.OVERLAY, (tag["name"],))
    main = exported(np.zeros([2 * length for length in bright_box().shape], np.int16), halved(oblique(1)))
    files = {**files_of(main, others=(taken,)), "second.nii.gz": exported(bright_box(), oblique(1))}
    ticket = snap.created("bright", files)
    snap.ready(ticket)
    found = ended(snap, ticket)
    assert found["status"] == "success", found
    assert any("brought onto the grid" in line["message"] for line in found["log"])
    workspace = read_workspace(snap.download(ticket, tmp_path / "out"))
    assert [layer.role for layer in workspace.layers] == [Role.MAIN, Role.OVERLAY, Role.SEGMENTATION]
    labels, original = nibabel.load(workspace.path_of(workspace.layers[2])), gzip.decompress(main)
    header = labels.header.binaryblock
    assert [header[part] for part in GEOMETRY_BYTES[1:]] == [original[part] for part in GEOMETRY_BYTES[1:]]
    np.testing.assert_array_equal(np.asarray(labels.dataobj), np.kron(bright_box().transpose() > EDGE, EIGHT))


def test_progress_and_events_show_as_the_task_runs(snap: Snap) -> None:
    array = np.zeros((8, 20, 26), np.uint16)
    ticket = snap.created("slow", files_of(exported(array, oblique(0))))
    snap.ready(ticket)
    seen, last, ids = [], 0, []
    while (found := snap.detail(ticket, last))["status"] not in FINAL:
        seen.append(found["progress"])
        ids += [line["id"] for line in found["log"]]
        last = ids[-1] if ids else 0
        time.sleep(0.1)
    ids += [line["id"] for line in found["log"]]
    between = [value for value in dict.fromkeys(seen) if 0 < value < 1]
    assert len(between) >= 3
    assert between == sorted(between)
    assert (found["status"], found["progress"]) == ("success", 1.0)
    assert len(ids) >= 3
    assert ids == sorted(set(ids))
    assert ids == [int(row[0]) for row in snap.rows(f"api/tickets/{ticket}/log?since=0")]
    assert snap.get(f"api/tickets/{ticket}/progress").strip() == "1.0"


def test_a_deleted_ticket_stops_its_task(snap: Snap, client: Client) -> None:
    array = np.zeros((8, 40, 60), np.uint16)
    before = {task.uid for task in client.tasks(model="slow")}
    ticket = snap.created("slow", files_of(exported(array, oblique(0))))
    snap.ready(ticket)
    [uid] = until(lambda: {task.uid for task in client.tasks(model="slow")} - before)
    until(lambda: client.status(uid).status == "running")
    snap.get(f"api/tickets/{ticket}/delete")
    with pytest.raises(ServerError, match="does not know this task"):
        client.status(uid)
    assert str(ticket) not in [row[0] for row in snap.rows("api/tickets")]


def without(name: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {key: content for key, content in files.items() if key != name}


def test_what_cannot_be_run_is_refused_and_can_be_put_right(snap: Snap) -> None:
    image = exported(bright_box(), oblique(0))
    second = Layer("/data/export/second.nii.gz", Role.MAIN)
    good = files_of(image)
    bad = {
        "none came": without(WORKSPACE, good),
        "not uploaded": without(IMAGE, good),
        "2 main images": {**files_of(image, others=(second,)), "second.nii.gz": image},
        "well-formed XML": {**good, WORKSPACE: b"no workspace"},
        "NIfTI": {**good, IMAGE: b"GIF89a" + bytes(1000)},
        "sheared": {**good, IMAGE: exported(bright_box(), np.diag([1.0, 1, 1, 1]) + 0.3 * np.eye(4, k=1))},
    }
    tickets = {sentence: snap.created("bright", files) for sentence, files in bad.items()}
    for sentence, ticket in tickets.items():
        assert sentence in snap.refusal(ticket)
        assert snap.detail(ticket)["status"] == "init"
    ticket = tickets["NIfTI"]
    fields = {"filename": IMAGE, "submit": "send"}
    sent = snap.http.post(f"api/tickets/{ticket}/files/input", data=fields, files={"myfile": (IMAGE, image)})
    assert sent.status_code == 200
    snap.ready(ticket)
    assert ended(snap, ticket)["status"] == "success"


def part(supervisor: int, name: str) -> psutil.Process:
    """Return a part of the server; of workers the one that computes."""
    running = psutil.Process(supervisor).children()
    return next(one for one in running if name in one.cmdline() and (name != "worker" or one.children()))


def answers(snap: Snap) -> bool:
    try:
        return snap.http.get("/api/services").status_code == 200
    except httpx.TransportError:
        return False


def test_api_and_worker_die_and_the_ticket_has_one_task_and_its_results(
    snap: Snap, server: LaunchedServer, client: Client
) -> None:
    before = {task.uid for task in client.tasks(model="slow")}
    ticket = snap.created("slow", files_of(exported(bright_box((8, 20, 26)), oblique(0))))
    snap.ready(ticket)
    until(lambda: 0 < snap.detail(ticket)["progress"] < 1)
    for child in part(server.pid, "worker").children():
        child.kill()
    api = part(server.pid, "api")
    api.kill()
    api.wait(LIMIT_S)
    until(lambda: answers(snap))
    assert ended(snap, ticket)["status"] == "success"
    assert len({task.uid for task in client.tasks(model="slow")} - before) == 1
    names = [row[1] for row in snap.rows(f"api/tickets/{ticket}/files/results")]
    assert len(names) == len(set(names)) == 3
