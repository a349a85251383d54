"""The bridge: tickets of another DSS server run through the queue of this one, whatever goes down meanwhile."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dss_stand_in import SERVICE, SESSION, DSSStandIn, dss_server
from nifti_files import GEOMETRY_BYTES, affine, nifti, oblique, packed
from served import bright_box

from inference_server.clients import Client
from inference_server.clients.dss import Connection, Provider
from inference_server.clients.dss.bridge import Desk, Journal, Patience
from inference_server.clients.dss.bridge.journal import Entry, new_entry
from inference_server.clients.dss.bridge.patience import StoppedError
from inference_server.clients.dss.bridge.run import TicketRun
from inference_server.clients.dss.sessions import FileSessions
from inference_server.imaging.nifti import read_header, read_volume
from inference_server.imaging.workspace import Layer, Role, Workspace, encode_workspace, read_workspace
from inference_server.stack.launch import LaunchedServer

pytestmark = pytest.mark.timeout(180)
LIMIT_S = 60.0
IMAGE = "layer_000_0123.nii.gz"


@pytest.fixture
def remote() -> Iterator[DSSStandIn]:
    with dss_server() as running:
        yield running


@dataclass
class Bridges:
    """Starts bridges as operators do, in processes of their own."""

    remote: DSSStandIn
    server: LaunchedServer
    folder: Path

    @contextmanager
    def serving(self, model: str) -> Iterator[subprocess.Popen[str]]:
        environment = {**os.environ, "HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder / ".config")}
        environment["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"
        FileSessions(self.folder / ".config" / "inference-server" / "dss_sessions").save(self.remote.url, SESSION)
        options = {
            "--server": self.remote.url,
            "--service": SERVICE,
            "--model": model,
            "--provider": "lab",
            "--inference-server": self.server.url,
            "--poll": "0.2",
        }
        command = [
            sys.executable,
            "-m",
            "inference_server",
            "dss",
            "serve",
            *(part for pair in options.items() for part in pair),
        ]
        with (self.folder / "log").open("a") as log:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout
            assert process.stdout.readline() == f"serving {self.remote.url}\n", (self.folder / "log").read_text()
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(LIMIT_S)
            if process.stdout:
                process.stdout.close()

    @property
    def in_hand(self) -> list[str]:
        found = (self.folder / ".config" / "inference-server" / "dss-bridges").glob("*/*/entry.json")
        return sorted(path.parent.name for path in found)


@pytest.fixture
def bridges(remote: DSSStandIn, server: LaunchedServer, tmp_path: Path) -> Bridges:
    return Bridges(remote, server, tmp_path)


def files_of_a_ticket(seed: int = 0, *, tags: tuple[str, ...] = ()) -> dict[str, bytes]:
    """A workspace as ITK-SNAP sends it: its image has a fourth axis, of length one."""
    array = np.ascontiguousarray(bright_box().transpose(2, 1, 0))
    content = packed(
        nifti(array[..., None], affine(oblique(seed)[:3, :3] / np.linalg.norm(oblique(seed)[:3, :3], axis=0)))
    )
    workspace = Workspace((Layer(f"/far/away/{IMAGE}", Role.MAIN, tags),), save_location="/far/away")
    return {"ticket_00000001.itksnap": encode_workspace(workspace), IMAGE: content}


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def tasks_of(client: Client) -> int:
    return len(list(client.tasks()))


def test_a_ticket_comes_back_with_labels_on_its_grid_their_names_and_a_log(
    remote: DSSStandIn, bridges: Bridges, client: Client, tmp_path: Path
) -> None:
    before = tasks_of(client)
    files = files_of_a_ticket()
    ticket = remote.add(files)
    with bridges.serving("bright"):
        until(lambda: remote.tickets[ticket].status == "success", "the ticket succeeds")
        until(lambda: not bridges.in_hand, "nothing is left in hand")
    done = remote.tickets[ticket]
    [first, second, workspace] = done.files["results"]
    assert workspace == "ticket_00000001_results.itksnap"
    made = read_workspace(done.files["results"][workspace])
    assert [(layer.role, layer.file_name) for layer in made.layers] == [(Role.MAIN, first), (Role.SEGMENTATION, second)]
    assert [(label.value, label.name) for label in made.labels] == [(1, "BRIGHT")]
    (tmp_path / "image.nii.gz").write_bytes(files[IMAGE])
    (tmp_path / "labels.nii.gz").write_bytes(done.files["results"][second])
    labels = read_volume(tmp_path / "labels.nii.gz", max_bytes=1 << 20)
    np.testing.assert_array_equal(labels.array, bright_box() > 100)
    sent = read_header(tmp_path / "image.nii.gz").raw
    assert [labels.nifti_header[place] for place in GEOMETRY_BYTES] == [sent[place] for place in GEOMETRY_BYTES]
    assert done.progress == sorted(done.progress)
    assert (done.progress[-1], done.ended) == (1.0, ["success"])
    assert [line[1] for line in done.log]
    assert tasks_of(client) == before


def test_labels_come_on_the_grid_of_the_main_image_where_the_model_takes_another(
    remote: DSSStandIn, bridges: Bridges, client: Client, tmp_path: Path
) -> None:
    tag = client.model("bright")["channels"][0]["name"]
    layers = (Layer(f"/far/away/{IMAGE}", Role.MAIN), Layer("/far/away/second.nii.gz", Role.OVERLAY, (tag,)))
    taken = files_of_a_ticket()[IMAGE]
    shape, matrix = [2 * length for length in bright_box().shape[::-1]], like(taken)
    matrix = matrix @ np.array([[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1]])
    main = packed(nifti(np.zeros(shape, np.int16), matrix))
    workspace = encode_workspace(Workspace(layers, save_location="/far/away"))
    ticket = remote.add({"ticket_00000001.itksnap": workspace, IMAGE: main, "second.nii.gz": taken})
    with bridges.serving("bright"):
        until(lambda: bool(remote.tickets[ticket].ended), "the ticket ends")
    assert remote.tickets[ticket].ended == ["success"], remote.tickets[ticket].log
    warnings = [message for _, category, message in remote.tickets[ticket].log if category == "warning"]
    assert len([message for message in warnings if "brought onto the grid" in message]) == 1
    [name] = [name for name in remote.tickets[ticket].files["results"] if name.startswith("layer_002")]
    (tmp_path / "labels.nii.gz").write_bytes(remote.tickets[ticket].files["results"][name])
    labels, sent = read_volume(tmp_path / "labels.nii.gz", max_bytes=1 << 20), gzip.decompress(main)
    assert labels.nifti_header is not None
    assert [labels.nifti_header[place] for place in GEOMETRY_BYTES] == [sent[place] for place in GEOMETRY_BYTES]
    np.testing.assert_array_equal(labels.array, np.kron(bright_box() > 100, np.ones((2, 2, 2), np.uint8)))


def like(image: bytes) -> np.ndarray:
    """Return where the voxels of a NIfTI file lie."""
    return np.asarray(nibabel.Nifti1Header(gzip.decompress(image)[:348]).get_best_affine())


def test_what_the_model_cannot_take_fails_with_a_sentence(remote: DSSStandIn, bridges: Bridges) -> None:
    broken: dict[str, dict[str, bytes]] = {
        "NIfTI": {IMAGE: b"no image"},
        "One workspace": {"second.itksnap": b"<registry/>"},
        "no main image": {"ticket_00000001.itksnap": b"<registry/>"},
    }
    tickets = [remote.add({**files_of_a_ticket(), **files}) for files in broken.values()]
    with bridges.serving("bright"):
        until(lambda: all(remote.tickets[ticket].ended for ticket in tickets), "the tickets fail")
        until(lambda: not bridges.in_hand, "nothing is left in hand")
    for ticket, said in zip(tickets, broken, strict=True):
        assert remote.tickets[ticket].ended == ["failed"]
        [(_, category, message)] = remote.tickets[ticket].log
        assert category == "error"
        assert said in message


def test_kills_and_lost_answers_lose_no_ticket_and_run_none_twice(
    remote: DSSStandIn, bridges: Bridges, client: Client
) -> None:
    """Killed with tickets in hand at different steps; the answers to steps are lost too."""
    tickets = [remote.add(files_of_a_ticket(seed)) for seed in range(4)]
    remote.lose += [
        r"POST /api/pro/tickets/1/files/results",
        r"POST /api/pro/tickets/2/status",
        r"GET .*/3/files/input",
    ]
    submitted, before = set[str](), slow_tasks(client)
    for _ in range(2):
        with bridges.serving("slow") as process:
            until(lambda: bool(bridges.in_hand), "a ticket is in hand")
            until(lambda: bool(submitted_now(client, submitted) - before), "a task runs")
            process.kill()
    with bridges.serving("slow"):
        ended = [remote.tickets[ticket].ended for ticket in tickets]
        until(lambda: bool(submitted_now(client, submitted)) and all(ended), "all tickets end")
        until(lambda: not bridges.in_hand, "nothing is left in hand")
    assert {remote.tickets[ticket].status for ticket in tickets} == {"success"}
    assert len(submitted - before) == len(tickets)
    assert remote.seen.count("POST /api/pro/services/claims") >= len(tickets)


def test_a_task_whose_uid_could_not_be_written_down_is_not_made_again(
    remote: DSSStandIn, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LostPower(Journal):
        def write(self, entry: Entry) -> None:
            raise StoppedError

    sessions = FileSessions(tmp_path / "sessions")
    sessions.save(remote.url, SESSION)
    submit, submitted = client.submit, []
    monkeypatch.setattr(
        client, "submit", lambda *case, **more: submitted.append(submit(*case, **more)) or submitted[-1]
    )
    with Connection(remote.url, sessions=sessions) as connection, Journal.opened(tmp_path / "bridge") as journal:
        entry = new_entry(remote.add(files_of_a_ticket()), SERVICE)
        remote.tickets[entry.ticket].status = "claimed"
        journal.write(entry)
        desk = Desk(Provider(connection), client, LostPower(tmp_path / "bridge"), Patience(connection), "bright", {})
        with pytest.raises(StoppedError):
            TicketRun(desk, entry).serve()
        [left] = journal.entries()
        TicketRun(replace(desk, journal=journal), left).serve()
    first, second = submitted
    assert first.uid == second.uid
    assert remote.tickets[1].ended == ["success"]


def submitted_now(client: Client, submitted: set[str]) -> set[str]:
    """Add the tasks that there are to those seen before."""
    submitted |= slow_tasks(client)
    return submitted


def slow_tasks(client: Client) -> set[str]:
    """Return the tasks of the slow model; other tests of the same server may have left some."""
    return {task.uid for task in client.tasks(model="slow")}


def test_an_outage_of_the_remote_server_is_waited_for(remote: DSSStandIn, bridges: Bridges, client: Client) -> None:
    ticket = remote.add(files_of_a_ticket())
    with bridges.serving("slow"):
        until(lambda: bool(remote.tickets[ticket].log), "the task runs")
        remote.unplugged = True
        until(lambda: all(task.ended for task in client.tasks(model="slow")), "the task ends")
        remote.unplugged = False
        until(lambda: remote.tickets[ticket].status == "success", "the ticket succeeds")
    assert remote.tickets[ticket].ended == ["success"]


def test_a_deleted_ticket_stops_its_task(remote: DSSStandIn, bridges: Bridges, client: Client) -> None:
    before = slow_tasks(client)
    ticket = remote.add(files_of_a_ticket())
    with bridges.serving("slow"):
        until(lambda: bool(remote.tickets[ticket].log), "the task runs")
        remote.tickets[ticket].status = "deleted"
        until(lambda: not bridges.in_hand, "nothing is left in hand")
    assert slow_tasks(client) <= before
    assert remote.tickets[ticket].ended == []


def test_two_bridges_do_not_share_a_folder_and_a_service_must_be_ones_own(remote: DSSStandIn, bridges: Bridges) -> None:
    with (
        bridges.serving("bright"),
        pytest.raises(AssertionError, match="Another bridge works with the folder"),
        bridges.serving("bright"),
    ):
        pass
