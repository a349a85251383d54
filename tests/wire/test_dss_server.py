"""What ITK-SNAP, `itksnap-wt` and providers send to the DSS door, byte by byte, and what they read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from door_support import Doors, form, part
from records import Clock
from sqlalchemy import update
from werkzeug.test import TestResponse

from inference_server.api.dss import EXTENSION
from inference_server.api.dss.codec import decode_message, encode_rows
from inference_server.settings import Settings
from inference_server.tasks.caller import Scope
from inference_server.tasks.tickets.tables import sessions
from inference_server.tasks.tickets.upkeep import TicketUpkeep
from inference_server.tasks.tokens import Tokens

HASH = "5f3ad0b6c1a4c6a4d54d8b4f2d1b0a9e8c7d6e5f"
DOCUMENT = {
    "name": "ashs",
    "version": "1.0.2",
    "shortdesc": "Hippocampus, subfields",
    "longdesc": "All of it.\nIn lines.",
    "url": "https://example.org",
    "tags": [{"name": "T1", "type": "MainImage", "hint": "T1 MRI", "required": True}],
}
HEADERS = {"Accept": "*/*"}
"""All that `itksnap-wt` sends beside host and cookie."""
CURL_BOUNDARY = "------------------------d74496d66958873e"


def parse(text: str) -> list[list[str]]:
    """Read rows as the C++ client does: a field ends at a comma or a carriage return alone."""
    rows: list[list[str]] = [[]]
    for line in text.split("\n"):
        field, quoted, place = "", False, 0
        while place < len(line):
            sign = line[place]
            if line[place : place + 2] == '""':
                field, place = field + '"', place + 1
            elif sign == '"':
                quoted = not quoted
            elif sign in ",\r" and not (quoted and sign == ","):
                rows[-1].append(field)
                field = ""
                if sign == "\r":
                    rows.append([])
            else:
                field += sign
            place += 1
    return [row for row in rows if row]


class World:
    """A server with one provider, `penn`, and three people."""

    def __init__(self, doors: Doors) -> None:
        self.doors, self.clock = doors, Clock()
        self.desk = doors.app.extensions[EXTENSION]
        self.desk.tickets.clock = self.clock
        self.tokens = {
            name: Tokens(doors.database).create(name, scopes)[1]
            for name, scopes in {
                "alice": [Scope.SUBMIT, Scope.READ_OWN],
                "bob": [Scope.SUBMIT, Scope.READ_OWN],
                "brain": [Scope.READ_OWN],
                "boss": [Scope.OPERATE],
            }.items()
        }
        self.clients = {name: self.signed_in(name) for name in self.tokens}

    def signed_in(self, name: str) -> Any:
        client = self.doors.client
        token = client.get("/api/token", headers={"Authorization": f"Bearer {self.tokens[name]}"}).text
        assert client.post("/api/login", data=f"token={token}", content_type=URLENCODED).status_code == 200
        return client

    def get(self, name: str, path: str) -> TestResponse:
        return self.clients[name].get(path, headers=HEADERS, buffered=True)

    def post(self, name: str, path: str, body: str) -> TestResponse:
        return self.clients[name].post(path, data=body, content_type=URLENCODED, headers=HEADERS)

    def upload(self, name: str, path: str, file_name: str, content: bytes, *more: tuple[str, str]) -> TestResponse:
        head = f'--{CURL_BOUNDARY}\r\nContent-Disposition: form-data; name="myfile"; filename="{file_name}"\r\n'
        body = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + content + b"\r\n"
        for field, value in (("filename", file_name), ("submit", "send"), *more):
            body += f'--{CURL_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode()
        body += f"--{CURL_BOUNDARY}--\r\n".encode()
        return self.clients[name].post(path, data=body, content_type=f"multipart/form-data; boundary={CURL_BOUNDARY}")

    def provided(self) -> None:
        assert self.post("boss", "/api/admin/providers", "name=penn").data == b"success"
        assert self.post("boss", "/api/admin/providers/penn/users", "email=brain").data == (
            b"Added user brain to provider penn"
        )
        sent = {"service": json.dumps(DOCUMENT), "githash": HASH}
        assert self.clients["boss"].post("/api/admin/providers/penn/services", data=sent).text == HASH

    def ready(self) -> int:
        number = int(self.post("alice", "/api/tickets", f"githash={HASH}").data)
        self.upload("alice", f"/api/tickets/{number}/files/input", f"ticket_{number:08d}.itksnap", b"<registry/>")
        assert self.post("alice", f"/api/tickets/{number}/status", "status=ready").data == b"ready"
        return number

    def claim(self) -> TestResponse:
        return self.post("brain", "/api/pro/services/claims", f"services={HASH}&provider=penn&code=gpu1")

    def claimed(self) -> int:
        number = self.ready()
        assert self.claim().data == f"{number},{HASH},claimed\r\n".encode()
        return number


URLENCODED = "application/x-www-form-urlencoded"


@pytest.fixture
def world(doors: Doors) -> World:
    world = World(doors)
    world.provided()
    return world


# Rows


@pytest.mark.parametrize("text", ["plain", "a,b", 'say "hi"', '"quoted"', "", 'a"b,c"', "Müller & Söhne, 100% <b>"])
def test_the_cpp_client_reads_every_text_as_it_was(text: str) -> None:
    assert parse(encode_rows([(1, text, "end"), (2, text, "x")])) == [["1", text, "end"], ["2", text, "x"]]


def test_line_breaks_in_texts_become_blanks_since_they_would_end_a_row() -> None:
    assert encode_rows([(1, "one\r\ntwo\nthree\rfour")]) == "1,one two three four\r\n"
    assert encode_rows([]) == ""


def test_a_line_for_the_log_is_read_encoded_or_as_it_is() -> None:
    assert decode_message(b"message=hello & good=bye 100% a+b") == "hello & good=bye 100% a+b"
    assert decode_message(b"message=hello+%26+good%3Dbye+100%25+M%C3%BCller") == "hello & good=bye 100% Müller"
    assert decode_message(b"message=done") == "done"
    assert decode_message("message=Größe".encode()) == "Größe"
    assert decode_message(b"text=x") == ""


# Signing in


def test_a_token_is_good_once_and_the_answer_begins_as_the_client_wants(world: World) -> None:
    client = world.doors.client
    token = world.get("alice", "/api/token").text
    assert len(token) == 40
    answer = client.post("/api/login", data=f"token={token}", content_type=URLENCODED)
    assert (answer.status_code, answer.data) == (200, b"logged in as alice \n")
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("webpy_session_id=iss_")
    assert {"HttpOnly", "Path=/", "SameSite=Strict", "Max-Age=7776000"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    again = client.post("/api/login", data=f"token={token}", content_type=URLENCODED)
    assert (again.status_code, again.text[:18]) == (401, "The token is wrong")
    listed = client.get("/api/tickets")
    assert (listed.status_code, listed.data, "Set-Cookie" in listed.headers) == (200, b"", False)
    assert client.get("/api/login").data == b"logged in as alice \n"
    assert client.get("/api/login?format=json").json == {"result": {"email": "alice"}}


def test_over_https_the_cookie_is_for_https_alone(world: World) -> None:
    body = {"token": world.get("alice", "/api/token").text}
    answer = world.doors.client.post("/api/login?format=json", data=body, base_url="https://server.example")
    assert answer.headers["Set-Cookie"].find("; Secure") > 0
    assert answer.data == b'{"result": {"email": "alice"}}'


def test_an_access_token_signs_in_too(world: World) -> None:
    answer = world.doors.client.post("/api/login", data={"token": world.tokens["bob"]})
    assert answer.data == b"logged in as bob \n"


def test_a_session_ends_with_its_token_and_the_refusal_says_what_to_do(world: World) -> None:
    assert world.get("alice", "/api/services").status_code == 200
    Tokens(world.doors.database).revoke("alice")
    refused = world.get("alice", "/api/services")
    assert refused.status_code == 401
    assert refused.text.startswith("You are not signed in, or your session or access token has ended. Sign in again")
    forged = world.doors.client
    forged.set_cookie("webpy_session_id", "none_0123456789_" + "a" * 32)
    assert forged.get("/api/tickets").status_code == 401


def test_a_session_whose_time_is_over_is_refused_in_a_sentence(world: World) -> None:
    assert world.get("alice", "/api/tickets").status_code == 200
    with world.doors.database.writing() as connection:
        connection.execute(update(sessions).values(expires_at=1.0))
    late = world.get("alice", "/api/tickets")
    assert (late.status_code, late.text.partition(".")[0]) == (
        401,
        "You are not signed in, or your session or access token has ended",
    )


def test_who_signs_out_has_no_session_left_wherever_its_cookie_is(world: World) -> None:
    alice, copy = world.clients["alice"], world.doors.client
    cookie = alice.get_cookie("webpy_session_id")
    assert cookie is not None
    copy.set_cookie("webpy_session_id", cookie.value)
    assert copy.get("/api/tickets").status_code == 200
    foreign = alice.get("/logout", headers={"Sec-Fetch-Site": "cross-site"})
    assert (foreign.status_code, alice.get("/api/tickets").status_code) == (403, 200)
    assert alice.get("/logout").data == b"logged out"
    assert alice.get_cookie("webpy_session_id") is None
    assert copy.get("/api/tickets").status_code == 401
    assert world.get("bob", "/api/tickets").status_code == 200
    assert world.doors.client.get("/logout").data == b"logged out"


def test_wrong_tokens_are_counted(doors: Doors) -> None:
    statuses = [doors.client.post("/api/login", data={"token": "0" * 40}).status_code for _ in range(11)]
    assert statuses == [401] * 10 + [429]


def test_before_the_first_access_token_the_servers_own_machine_needs_none(doors: Doors) -> None:
    client = doors.client
    page = client.get("/token")
    shown = page.text.partition('<code id="token">')[2].partition("<")[0]
    assert client.post("/api/login", data={"token": shown}).data == b"logged in as local \n"
    assert client.post("/api/tickets", data={"name": "one"}).data == b"1"
    far = {"REMOTE_ADDR": "10.0.0.1"}
    another = client.get("/api/token").text
    assert client.post("/api/login", data={"token": another}, environ_overrides=far).status_code == 401
    assert client.get("/api/tickets", environ_overrides=far).status_code == 401


def test_the_page_asks_for_an_access_token_and_gives_one_for_signing_in(world: World) -> None:
    client = world.doors.client
    asked = client.get("/token")
    assert (asked.status_code, 'type="password"' in asked.text, 'id="token"' in asked.text) == (200, True, False)
    wrong = client.post("/token", data={"token": "<script>"})
    assert (wrong.status_code, "<script>" in wrong.text) == (401, False)
    given = client.post("/token", data={"token": world.tokens["bob"]})
    shown = given.text.partition('<code id="token">')[2].partition("<")[0]
    assert client.post("/api/login", data={"token": shown}).data == b"logged in as bob \n"
    assert "default-src 'none'" in given.headers["Content-Security-Policy"]
    foreign = {"Origin": "https://evil.example"}
    assert client.post("/token", data={"token": world.tokens["bob"]}, headers=foreign).status_code == 401


# Services


def test_services_are_rows_without_a_header_and_details_json(world: World) -> None:
    rows = parse(world.get("alice", "/api/services").text)
    assert rows[-1] == ["ashs", HASH, "1.0.2", "Hippocampus, subfields"]
    assert world.get("alice", "/api/services").data.endswith(f'ashs,{HASH},1.0.2,"Hippocampus, subfields"\r\n'.encode())
    assert [row[0] for row in rows] == ["one", "two", "ashs"]
    as_json = world.get("alice", "/api/services?format=json").json["result"][-1]
    assert as_json == {"name": "ashs", "githash": HASH, "version": "1.0.2", "shortdesc": "Hippocampus, subfields"}
    detail = world.get("alice", f"/api/services/{HASH}/detail").json
    assert detail == {**DOCUMENT, "citation": "", "keywords": []}
    assert world.get("alice", f"/api/services/{HASH}/stats").data == b"0,0,,,0\r\n"
    unknown = world.get("alice", f"/api/services/{'0' * 40}/detail")
    assert (unknown.status_code, unknown.text[:25]) == (400, "There is no such service.")


# Tickets, from both sides


def test_a_ticket_as_itksnap_sends_it_and_a_provider_serves_it(world: World) -> None:
    assert world.claim().data == b"None"
    assert world.post("brain", f"/api/pro/services/{HASH}/claims", "provider=penn").data == b"-1"
    made = world.post("alice", "/api/tickets", f"githash={HASH}")
    assert (made.status_code, made.data) == (200, b"1")
    for name, content in (("layer_000_d5.nii.gz", b"\0\1\2"), ("ticket_00000001.itksnap", b"<registry/>")):
        assert world.upload("alice", "/api/tickets/1/files/input", name, content).data == b"success"
    assert world.post("alice", "/api/tickets/1/status", "status=ready").data == b"ready"
    assert world.get("alice", "/api/tickets").data == b"1,ashs,ready\r\n"
    assert world.get("alice", "/api/tickets/1/queuepos").data == b"1"
    available = world.post("brain", "/api/pro/services/available", f"services={HASH}")
    assert available.data == f"{HASH},ashs,1\r\n".encode()
    assert world.get("brain", "/api/pro/services").data == f"ashs,1.0.2,{HASH},penn\r\n".encode()
    assert world.claim().data == f"1,{HASH},claimed\r\n".encode()
    listed = world.get("brain", "/api/pro/tickets/1/files/input")
    assert listed.data == b"0,layer_000_d5.nii.gz\r\n1,ticket_00000001.itksnap\r\n"
    fetched = world.get("brain", "/api/pro/tickets/1/files/input/0")
    assert (fetched.data, fetched.content_type) == (b"\0\1\2", "application/octet-stream")
    chunk = "chunk_start=0.000000&chunk_end=0.500000&progress=0.500000"
    assert world.post("brain", "/api/pro/tickets/1/progress", chunk).data == b"success"
    assert world.get("alice", "/api/tickets/1/progress").data == b"0.25"
    attached = world.upload("brain", "/api/pro/tickets/1/attachments", "qc.png", b"PNG", ("desc", 'QC, "final"'))
    assert attached.data == b"1"
    assert world.post("brain", "/api/pro/tickets/1/warning", "message=motion & blur").data == b"3"
    stored = world.upload("brain", "/api/pro/tickets/1/files/results", "ticket_00000001_results.itksnap", b"<r/>")
    assert stored.data == b"success"
    assert world.get("brain", "/api/pro/tickets/1/status").data == b"claimed"
    assert world.post("brain", "/api/pro/tickets/1/status", "status=success").data == b"success"
    assert world.get("alice", "/api/tickets/1/files/results").data == b"0,ticket_00000001_results.itksnap\r\n"
    assert world.get("alice", "/api/tickets/1/files/results/0").data == b"<r/>"
    assert world.get("alice", "/api/tickets/1/log?since=0").data == (
        b"1,2023-11-14 22:13:20,info,0,Ticket received and queued for processing\r\n"
        b"2,2023-11-14 22:13:20,info,0,Ticket claimed by provider penn instance gpu1\r\n"
        b"3,2023-11-14 22:13:20,warning,1,motion & blur\r\n"
    )
    (row,) = parse(world.get("alice", "/api/tickets/logs/3/attachments").text)
    assert row[:3] == ["1", 'QC, "final"', "image/png"]
    blob = world.doors.client.get(row[3].removeprefix("http://localhost"))
    assert (blob.data, blob.content_type) == (b"PNG", "image/png")
    assert "sandbox" in blob.headers["Content-Security-Policy"]
    blob.close()
    assert len(row[3].rpartition("/blobs/")[2]) == 32


def test_a_waiting_client_reads_detail(world: World) -> None:
    number = world.ready()
    ready = world.get("alice", f"/api/tickets/{number}/detail?since=0").json
    assert ready == {
        "result": {
            "status": "ready",
            "progress": 0.0,
            "queue_position": 1,
            "log": [
                {
                    "id": 1,
                    "atime": "2023-11-14 22:13:20",
                    "category": "info",
                    "attachments": [],
                    "message": "Ticket received and queued for processing",
                }
            ],
        }
    }
    world.claim()
    world.upload("brain", f"/api/pro/tickets/{number}/attachments", "a.txt", b"x", ("desc", "d"))
    world.post("brain", f"/api/pro/tickets/{number}/error", "message=bad")
    world.post("brain", f"/api/pro/tickets/{number}/status", "status=failed")
    later = world.get("alice", f"/api/tickets/{number}/detail?since=2").json["result"]
    assert (later["status"], later["progress"], "queue_position" in later) == ("failed", 1.0, False)
    (line,) = later["log"]
    assert (line["id"], line["category"], line["message"]) == (3, "error", "bad")
    (attachment,) = line["attachments"]
    assert {**attachment, "url": ""} == {"id": 1, "description": "d", "mime_type": "text/plain", "url": ""}
    assert world.get("alice", f"/api/tickets/{number}/retry").data == b"ready"
    assert world.get("alice", f"/api/tickets/{number}/delete").data == b"deleted"
    assert world.get("alice", f"/api/tickets/{number}/detail").json["result"]["status"] == "deleted"
    assert world.get("alice", "/api/tickets").data == b""
    assert world.doors.blob_files() == []


def test_a_silent_provider_is_timed_out_and_its_late_word_refused(world: World) -> None:
    number = world.claimed()
    world.clock.now += 1801
    upkeep = TicketUpkeep(world.desk.tickets, Settings(data_dir=world.doors.settings.data_dir))
    assert upkeep.expire_silent(world.clock.now) == [number]
    late = world.post("brain", f"/api/pro/tickets/{number}/status", "status=success")
    assert (late.status_code, late.text[:21]) == (400, "The ticket is timeout")
    assert world.get("alice", f"/api/tickets/{number}/retry").data == b"ready"
    world.claim()


BAD: dict[str, tuple[str, str, int]] = {
    "POST /api/tickets githash=" + "0" * 40: ("alice", "no such service", 400),
    "POST /api/tickets name=nothing": ("alice", "no such service", 400),
    "POST /api/tickets ": ("alice", "Name the service", 400),
    "POST /api/tickets/1/status status=claimed": ("alice", "to ready, and to nothing else", 400),
    "POST /api/tickets/1/status status=ready": ("alice", "is claimed", 400),
    "POST /api/tickets/1/status status=rotten": ("alice", "no such status", 400),
    "GET /api/tickets/1/detail?since=x": ("alice", "id of a line", 400),
    "GET /api/tickets/1/detail": ("bob", "no such ticket", 400),
    "GET /api/tickets/77/detail": ("bob", "no such ticket", 400),
    "GET /api/tickets/1/delete": ("bob", "no such ticket", 400),
    "GET /api/tickets/1/retry": ("alice", "is claimed", 400),
    "GET /api/tickets/logs/1/attachments": ("bob", "no such ticket", 400),
    "GET /api/tickets/1/files/other": ("alice", "'input' and 'results'", 400),
    "GET /api/tickets/1/files/input/9": ("alice", "no such file", 400),
    "GET /api/tickets/99999999999999999999/status": ("alice", "no such ticket", 400),
    "GET /api/pro/tickets/1/status": ("bob", "no such ticket", 400),
    "GET /api/pro/tickets/1/files/input": ("boss", "no such ticket", 400),
    "POST /api/pro/tickets/1/status status=ready": ("brain", "success or failed", 400),
    "POST /api/pro/tickets/1/info text=x": ("brain", "'message' is missing", 400),
    "POST /api/pro/tickets/1/gossip message=x": ("brain", "categories", 400),
    "POST /api/pro/tickets/1/progress chunk_start=0&chunk_end=x&progress=1": ("brain", "must be a number", 400),
    "POST /api/pro/tickets/1/progress chunk_start=0&chunk_end=2&progress=1": ("brain", "from 0 to 1", 400),
    f"POST /api/pro/services/claims services={HASH}&provider=penn": ("bob", "do not serve", 400),
    "GET /api/admin/tickets": ("alice", "scope 'operate'", 403),
    "POST /api/admin/providers/penn/users email=nobody": ("boss", "no access token", 400),
    "POST /api/admin/providers/penn/services repo=x&ref=y": ("boss", "fetches no repositories", 400),
    "GET /api/admin/providers/none/delete": ("boss", "no provider", 400),
    "POST /api/admin/tickets/purge/some days=1": ("boss", "completed", 400),
    "GET /blobs/0123": ("alice", "no such attachment", 400),
}


def test_what_cannot_be_is_refused_in_a_sentence_and_changes_nothing(world: World) -> None:
    world.claimed()
    before = world.get("alice", "/api/tickets/1/detail").json
    for request, (who, sentence, status) in BAD.items():
        method, _, rest = request.partition(" ")
        path, _, body = rest.partition(" ")
        answer = world.get(who, path) if method == "GET" else world.post(who, path, body)
        assert (answer.status_code, sentence in answer.text) == (status, True), (request, answer.text)
        assert answer.content_type == "text/plain; charset=utf-8"
    assert world.get("alice", "/api/tickets/1/detail").json == before


def test_uploads_that_cannot_be_leave_no_file(world: World) -> None:
    world.claimed()
    fresh = int(world.post("alice", "/api/tickets", "name=ashs").data)
    files = len(world.doors.blob_files())
    refusals = [
        world.upload("alice", "/api/tickets/1/files/input", "a.nii.gz", b"x"),
        world.upload("alice", f"/api/tickets/{fresh}/files/results", "a.nii.gz", b"x"),
        world.upload("bob", f"/api/tickets/{fresh}/files/input", "a.nii.gz", b"x"),
        world.upload("brain", "/api/pro/tickets/1/files/input", "a.nii.gz", b"x"),
        world.upload("brain", f"/api/pro/tickets/{fresh}/files/results", "a.nii.gz", b"x"),
        *(
            world.upload("alice", f"/api/tickets/{fresh}/files/input", name, b"x")
            for name in ("../../etc/passwd", "/tmp/a", "a/b.nii.gz", "..")
        ),
        world.clients["alice"].post(f"/api/tickets/{fresh}/files/input", **form(part("submit", "send"))),
        world.clients["alice"].post(f"/api/tickets/{fresh}/files/input", data="x", content_type=URLENCODED),
    ]
    assert [answer.status_code for answer in refusals] == [400] * len(refusals)
    assert all(answer.text.endswith(".") and "/tmp" not in answer.text for answer in refusals)
    assert len(world.doors.blob_files()) == files


def test_so_many_open_tickets_and_no_more(world: World) -> None:
    world.desk.tickets._limit = 2
    assert [world.post("alice", "/api/tickets", "name=ashs").status_code for _ in range(3)] == [200, 200, 400]
    refused = world.post("alice", "/api/tickets", "name=ashs").text
    assert refused == "You have 2 open tickets, as many as one may. Delete some, or wait for them."
    assert world.post("bob", "/api/tickets", "name=ashs").status_code == 200


def test_a_page_of_another_site_cannot_delete(world: World) -> None:
    number = world.ready()
    client = world.clients["alice"]
    refused = client.get(f"/api/tickets/{number}/delete", headers={"Sec-Fetch-Site": "cross-site"})
    assert refused.status_code == 403
    assert world.get("alice", f"/api/tickets/{number}/status").data == b"ready"


def test_operators_see_all_and_purge_what_is_old(world: World) -> None:
    first = world.claimed()
    world.clock.now += 120
    world.post("brain", f"/api/pro/tickets/{first}/status", "status=failed")
    world.clock.now += 3601
    second = world.ready()
    assert world.get("boss", "/api/admin/tickets").data == (
        f"{first},alice,ashs,failed,2\r\n{second},alice,ashs,ready,0\r\n".encode()
    )
    assert world.get("alice", f"/api/services/{HASH}/stats").data.startswith(b"0,1,,")
    assert world.post("boss", "/api/admin/tickets/purge/completed", "hours=1").data == b"Purged 1 tickets"
    assert world.post("boss", "/api/admin/tickets/purge/all", "days=0").data == b"Purged 0 tickets"
    assert parse(world.get("boss", "/api/admin/providers").text) == [["penn"]]
    assert world.get("boss", "/api/admin/providers/penn/users").data == b"1,brain,0\r\n"
    assert world.get("boss", "/api/admin/providers/penn/services").data.startswith(b"ashs,1.0.2,")
    for path in (f"services/{HASH}/delete", "users/1/delete", "delete"):
        assert world.get("boss", f"/api/admin/providers/penn/{path}").data == b"success"
    assert world.get("boss", "/api/admin/providers").data == b""
    assert b"ashs" not in world.get("alice", "/api/services").data
