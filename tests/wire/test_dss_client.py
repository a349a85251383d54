"""The DSS client: what it sends, and what it makes of what comes."""

from __future__ import annotations

import inspect
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import itksnap_dss
import keyring.backends.null
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dss_stand_in import SERVICE, SESSION, DSSStandIn, dss_server
from flask import Response
from nifti_files import nifti, packed

from inference_server.clients import ServerError
from inference_server.clients.dss import Connection, DSSClient
from inference_server.clients.dss.sessions import FileSessions
from inference_server.clients.native import trusted
from inference_server.imaging.workspace import Layer, Role, Workspace, read_workspace, write_workspace
from inference_server.stack.certificates import Pair, make_pair

PICTURE = np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6)


@pytest.fixture
def server() -> Iterator[DSSStandIn]:
    with dss_server() as running:
        yield running


@pytest.fixture
def sessions(tmp_path: Path) -> FileSessions:
    return FileSessions(tmp_path / "home" / "sessions")


@pytest.fixture
def client(server: DSSStandIn, sessions: FileSessions) -> Iterator[DSSClient]:
    with DSSClient(server.url, sessions=sessions) as made:
        made.login(server.token)
        yield made


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with a NIfTI image that says whose it is, and one in another format."""
    plain = nifti(PICTURE, descrip=b"Jane Doe", intent_name=b"Jane")
    (tmp_path / "jane.nii.gz").write_bytes(packed(plain))
    other = sitk.GetImageFromArray(PICTURE)
    other.SetMetaData("PatientName", "Jane Doe")
    sitk.WriteImage(other, str(tmp_path / "jane.mha"))
    layers = (
        Layer(str(tmp_path / "jane.nii.gz"), Role.MAIN, ("image",)),
        Layer(str(tmp_path / "jane.mha"), Role.OVERLAY, nickname="second"),
    )
    write_workspace(Workspace(layers, save_location=str(tmp_path)), tmp_path / "jane.itksnap")
    return tmp_path / "jane.itksnap"


def test_methods_and_defaults_are_those_of_the_published_package() -> None:
    published = inspect.getmembers(itksnap_dss.DSSClient, inspect.isfunction)
    for name, method in published:
        theirs = list(inspect.signature(method).parameters.values())
        ours = list(inspect.signature(getattr(DSSClient, name)).parameters.values())[: len(theirs)]
        assert [(each.name, each.default) for each in ours] == [(each.name, each.default) for each in theirs], name


def test_tables_are_those_of_the_published_package(
    server: DSSStandIn, client: DSSClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring.core, "_keyring_backend", keyring.backends.null.Keyring())
    published = itksnap_dss.DSSClient(server.url)
    published.cli.cookies.set("webpy_session_id", SESSION)
    for number in (1, 2):
        server.add({f"{number}.itksnap": b"", "layer.nii.gz": b"1"})
        ours, theirs = (
            [
                each.dssp_list_services().drop(columns="version"),
                each.dssp_available_services([SERVICE]),
                each.dssp_list_ticket_files(1),
            ]
            for each in (client, published)
        )
        for one, other in zip(ours, theirs, strict=True):
            assert one.equals(other)
            assert list(one.dtypes) == list(other.dtypes)
    ours, theirs = (each.dssp_claim_ticket([SERVICE], "lab", "1") for each in (client, published))
    assert (ours["ticket"].iloc[0], theirs["ticket"].iloc[0]) == (1, 2)
    assert list(ours.dtypes) == list(theirs.dtypes)
    assert client.dssp_claim_ticket([SERVICE], "lab", "1") is None
    assert client.dssp_available_services([SERVICE]) is None
    assert published.dssp_claim_ticket([SERVICE], "lab", "1") is None


def test_a_version_stays_a_text(client: DSSClient) -> None:
    """The published client makes the number 1.0 of it."""
    assert client.dssp_list_services()["version"].iloc[0] == "1.0"
    assert client.dss_list_services().iloc[0].tolist() == ["Bright, light", SERVICE, "1.0", "Marks what is bright"]


@pytest.mark.parametrize("body", ["None", "", "-1", "-1\r\n", "1,a,claimed\r\n2,b,claimed\r\n", "7"])
def test_whatever_is_not_one_row_with_an_id_is_no_ticket(server: DSSStandIn, client: DSSClient, body: str) -> None:
    server.instead["/api/pro/services/claims"] = Response(body)
    assert client.dssp_claim_ticket([SERVICE], "lab", "1") is None


def test_a_claim_whose_answer_is_lost_is_not_sent_again(server: DSSStandIn, client: DSSClient) -> None:
    server.add({})
    server.add({})
    server.lose.append("POST /api/pro/services/claims")
    with pytest.raises(httpx.TransportError):
        client.dssp_claim_ticket([SERVICE], "lab", "1")
    assert [ticket.status for ticket in server.tickets.values()] == ["claimed", "ready"]


def test_an_upload_whose_answer_is_lost_is_sent_again_whole(
    server: DSSStandIn, client: DSSClient, workspace: Path
) -> None:
    ticket = server.add({})
    server.lose.append(r"POST .*/files/results")
    client.dssp_upload_ticket(ticket, str(workspace), "_out")
    assert sorted(server.tickets[ticket].files["results"])[-1] == "ticket_00000001_out.itksnap"
    assert all(server.tickets[ticket].files["results"].values())


def test_what_is_sent_of_a_workspace_tells_nothing_of_the_patient(
    server: DSSStandIn, client: DSSClient, workspace: Path, tmp_path: Path
) -> None:
    ticket = client.dss_create_ticket(SERVICE, str(workspace))
    assert server.tickets[ticket].status == "ready"
    [*images, ended] = server.tickets[ticket].files["input"]
    assert ended == "ticket_00000001.itksnap"
    everything = b"".join(map(_unpacked, server.tickets[ticket].files["input"].values()))
    assert b"Jane" not in everything
    assert b"jane" not in everything
    assert str(tmp_path).encode() not in everything
    sent = read_workspace(server.tickets[ticket].files["input"][ended])
    assert [layer.file_name for layer in sent.layers] == images
    assert [(layer.role, layer.tags, layer.nickname) for layer in sent.layers] == [
        ("MainRole", ("image",), ""),
        ("OverlayRole", (), "second"),
    ]


def test_a_nifti_image_keeps_its_voxels_and_geometry_byte_for_byte(
    server: DSSStandIn, client: DSSClient, workspace: Path
) -> None:
    ticket = client.dss_create_ticket(SERVICE, str(workspace))
    first, second, _ = server.tickets[ticket].files["input"].values()
    original = _unpacked((workspace.parent / "jane.nii.gz").read_bytes())
    words = [(4, 39), (108, 112), (148, 252), (328, 344)]
    assert _without(_unpacked(first), words) == _without(original, words)
    (workspace.parent / "second.nii.gz").write_bytes(second)
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(workspace.parent / "second.nii.gz")))
    np.testing.assert_array_equal(read, PICTURE)


def _unpacked(content: bytes) -> bytes:
    import gzip

    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def _without(content: bytes, places: list[tuple[int, int]]) -> bytes:
    changed = bytearray(content)
    for start, end in places:
        changed[start:end] = bytes(end - start)
    return bytes(changed)


def test_a_ticket_whose_workspace_cannot_be_sent_is_deleted(
    server: DSSStandIn, client: DSSClient, workspace: Path
) -> None:
    (workspace.parent / "jane.mha").unlink()
    with pytest.raises(Exception, match="The image of layer 1 "):
        client.dss_create_ticket(SERVICE, str(workspace))
    assert server.tickets[1].status == "deleted"


def test_a_user_watches_a_ticket_and_fetches_its_results(server: DSSStandIn, client: DSSClient, tmp_path: Path) -> None:
    ticket = server.add({})
    server.say(ticket, "info", "received")
    changes: list[tuple[str, list[str]]] = []

    def seen(detail: object) -> None:
        changes.append((detail.status, [line.message for line in detail.log]))  # type: ignore[attr-defined]
        server.say(ticket, "warning", f"line {len(changes)}")
        if len(changes) == 2:
            server.lose.append(r"GET .*/detail")
            server.tickets[ticket].status = "success"

    found = client.dss_wait_for_ticket(ticket, interval=0.01, on_change=seen)
    assert changes[:2] == [("ready", ["received"]), ("ready", ["line 1"])]
    assert (found.status, [line.message for line in found.log]) == ("success", ["received", "line 1", "line 2"])
    assert client.dss_ticket_log(ticket, since=2)["message"].tolist() == ["line 2", "line 3"]
    server.tickets[ticket].files["results"] = {"a.txt": b"one", "b.txt": b"two"}
    fetched = client.dss_download_ticket(ticket, str(tmp_path / "out"))
    assert [(path.name, path.read_bytes()) for path in fetched] == [("a.txt", b"one"), ("b.txt", b"two")]
    assert client.dss_retry_ticket(ticket) == "ready"
    assert client.dss_queue_position(ticket) == 1
    assert client.dss_delete_ticket(ticket) == "deleted"


@pytest.mark.parametrize(("answer", "ends_it"), [((200, ""), True), ((303, "/"), True), ((404, ""), False)])
def test_who_signs_out_is_forgotten_here_and_told_whether_the_server_did_it_too(
    server: DSSStandIn, client: DSSClient, sessions: FileSessions, answer: tuple[int, str], *, ends_it: bool
) -> None:
    assert sessions.load(server.url) == SESSION
    status, location = answer
    server.instead["/logout"] = Response("logged out", status, {"Location": location} if location else {})
    with Connection(server.url, sessions=sessions) as connection:
        assert connection.sign_out() is ends_it
        assert not connection.signed_in
    assert server.seen[-1] == "GET /logout"
    assert f"webpy_session_id={SESSION}" in server.heads[-1]["Cookie"]
    assert sessions.load(server.url) is None


def test_a_provider_tells_how_far_it_is(server: DSSStandIn, client: DSSClient, tmp_path: Path) -> None:
    ticket = server.add({"a.itksnap": b"<registry/>"})
    client.dssp_download_ticket(ticket, str(tmp_path / "in"))
    assert (tmp_path / "in" / "a.itksnap").read_bytes() == b"<registry/>"
    client.dssp_set_progress(ticket, 0.5)
    client.dssp_log(ticket, "info", "half & more")
    (tmp_path / "page.txt").write_text("text")
    assert client.dssp_attach(ticket, "a page", str(tmp_path / "page.txt"), "text/plain").status_code == 200
    client.dssp_set_status(ticket, "failed")
    done = server.tickets[ticket]
    assert (done.progress, done.log[0][1:]) == ([0.5], ("info", "half & more"))
    assert (done.attachments, done.ended) == ([("a page", "text/plain", b"text")], ["failed"])
    assert client.dssp_ticket_status(ticket) == "failed"


@pytest.mark.parametrize("name", ["../a", "a/b", "..", "a\\b", "/etc/a"])
def test_names_that_lead_out_of_the_folder_are_refused(
    server: DSSStandIn, client: DSSClient, tmp_path: Path, name: str
) -> None:
    ticket = server.add({"first": b"1", name: b"2"})
    with pytest.raises(ServerError, match="leads out of its folder"):
        client.dssp_download_ticket(ticket, str(tmp_path / "in"))
    assert not (tmp_path / "in").exists()


def test_refusals_are_the_servers_sentences_and_errors_of_httpx_too(client: DSSClient) -> None:
    with pytest.raises(httpx.HTTPStatusError) as caught:
        client.dssp_set_progress(99, 0.5)
    assert isinstance(caught.value, ServerError)
    assert (caught.value.message, caught.value.http_status) == ("Ticket 99 not found", 400)
    assert caught.value.response.status_code == 400


@pytest.mark.parametrize("status", [201, 204, 302, 404, 500])
def test_only_200_is_success(server: DSSStandIn, client: DSSClient, status: int) -> None:
    server.instead["/api/tickets"] = Response("7", status, {"Location": "/api/services"})
    with pytest.raises(httpx.HTTPStatusError):
        client.dss_create_ticket(SERVICE)


def test_the_session_is_kept_for_its_owner_alone_and_never_replaced(
    server: DSSStandIn, client: DSSClient, sessions: FileSessions
) -> None:
    assert stat.S_IMODE(sessions.path.stat().st_mode) == 0o600
    assert sessions.load(server.url) == SESSION
    answer = Response("")
    answer.set_cookie("webpy_session_id", "another")
    server.instead["/api/tickets"] = answer
    client.dss_list_tickets()
    with DSSClient(f"{server.url}/", sessions=sessions) as later:
        later.login_if_needed()
        later.dss_list_tickets()
    client.dss_list_services()
    assert {head.get("Cookie") for head in server.heads[1:]} == {f"webpy_session_id={SESSION}"}


def test_a_certificate_that_no_authority_signed_is_refused_before_anything_is_sent(
    tmp_path: Path, sessions: FileSessions
) -> None:
    pair = Pair(tmp_path / "certificate.pem", tmp_path / "key.pem")
    make_pair(pair)
    with dss_server(pair) as server:
        with (
            DSSClient(server.url, sessions=sessions) as client,
            pytest.raises(httpx.TransportError, match="is not trusted here"),
        ):
            client.login(server.token)
        assert server.heads == []
        with DSSClient(server.url, trusted(pair.certificate), sessions=sessions) as client:
            assert client.login(server.token).text.startswith("logged in as ")


def test_a_download_that_breaks_off_leaves_nothing(server: DSSStandIn, client: DSSClient, tmp_path: Path) -> None:
    ticket = server.add({"layer.nii.gz": b"image"})
    server.lose.append(r"GET .*/input/0")
    with pytest.raises(httpx.TransportError):
        client.dssp_download_ticket(ticket, str(tmp_path / "in"))
    assert list((tmp_path / "in").iterdir()) == []


def test_a_token_that_is_not_valid_and_an_ended_session_are_said(server: DSSStandIn, sessions: FileSessions) -> None:
    with DSSClient(server.url, sessions=sessions) as client:
        with pytest.raises(httpx.HTTPStatusError, match="The token is not valid"):
            client.login("wrong")
        with pytest.raises(ServerError, match="Sign in with `inference-server dss login"):
            client.dss_list_services()
    assert sessions.load(server.url) is None
