"""The extension on a real socket: what it sends, what it makes of answers, and what it never does."""

from __future__ import annotations

import base64
import http.server
import io
import json
import logging
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl
from zipfile import ZipFile

import numpy as np
import pytest
import SimpleITK

from mim_extension import entry
from mim_extension.client_backend import ClientBackend
from mim_extension.errors import InferenceServerError, ResultTimeout, ServerUnreachable, SettingsError
from mim_extension.inference_client import InferenceClient, Polling
from mim_extension.server_address import parse_server_url
from mim_extension.settings import Settings
from mim_extension.testing.mim_objects import MimImage, MimSession, drawn_contours, logged

SECRET = "s3cr3t"
EVERYWHERE = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "MIM_INFERENCE_CA_BUNDLE",
    "MIM_INFERENCE_TOKEN",
)


class Handler(http.server.BaseHTTPRequestHandler):
    """Notes each request and answers with the next entry of the server's script; the last one is repeated."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        script = self.server.script
        step = script[min(len(self.server.requests), len(script) - 1)]
        self.server.requests.append(
            SimpleNamespace(method=self.command, path=self.path, headers=self.headers, body=None)
        )
        step(self)

    def read_body(self) -> bytes:
        request = self.server.requests[-1]
        if request.body is None:
            pieces = list(self.body_pieces())
            request.body = b"".join(pieces if self.server.keeps_bodies else [])
        return request.body

    def body_pieces(self) -> Iterator[bytes]:
        left = int(self.headers.get("Content-Length", 0))
        while left:
            piece = self.rfile.read(min(left, 1 << 16))
            left = left - len(piece) if piece else 0
            yield piece if self.server.keeps_bodies else b""

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """A server on loopback; ``script`` says how it answers, ``requests`` what it got."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.script: list[Callable[[Handler], None]] = [says(551, {})]
        self.requests: list[SimpleNamespace] = []
        self.keeps_bodies = True
        self.scheme = "http"

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        pass

    def url(self, user_info: str = "") -> str:
        return f"{self.scheme}://{user_info}127.0.0.1:{self.server_port}"


def says(status: int, content: object, **headers: str) -> Callable[[Handler], None]:
    def step(handler: Handler) -> None:
        handler.read_body()
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return step


def hangs_up(handler: Handler) -> None:
    """Read everything, say nothing."""
    handler.read_body()
    handler.close_connection = True


def resets(handler: Handler) -> None:
    """Drop the connection while the body is still coming."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.rfile.close()
    handler.connection.close()
    handler.close_connection = True


def breaks_off(handler: Handler) -> None:
    """Announce a result and send only its beginning."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"PK\x03\x04")
    handler.close_connection = True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path) -> Path:
    for name in EVERYWHERE:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    return scratch


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        running.start()
        yield running
        running.shutdown()


@pytest.fixture
def session() -> MimSession:
    return MimSession()


@pytest.fixture
def image() -> MimImage:
    array = np.zeros((2, 3, 4), dtype=np.int16)
    array[1, 1:, 2:] = 100
    return MimImage(array, spacing=(1.0, 2.0, 3.0), scaling_factor=(1, 2, 2))


def backend(url: str, **settings: object) -> ClientBackend:
    return ClientBackend(parse_server_url(url), Settings(**settings))


def post(url: str, folder: Path, *, content: bytes = b"zip bytes", size: int = 0, **settings: object) -> str:
    path = folder / "case.zip"
    with path.open("wb") as file:
        file.write(content)
        file.truncate(max(size, len(content)))
    return backend(url, **settings).post_task("ct-body", path)


def submit(server_url: str, session: MimSession, image: MimImage, **changes: object) -> str:
    fields = {"export_dicom_info": 0, "export_contours": 0, "contour_names": ""}
    request = entry.SubmitRequest(**{"model_human_readable_id": "m", "server_url": server_url, **fields, **changes})
    return entry.submit(session, [image], request)


def fetch(server_url: str, session: MimSession, image: MimImage, timeout_sec: float = 5) -> None:
    return entry.fetch(session, image, entry.FetchRequest("u-1", server_url, 1, timeout_sec))


def wait_for_result(url: str, *, sleep: Callable[[float], None] = lambda _: None, **settings: object) -> list[str]:
    client = InferenceClient(backend(url, **settings), MimSession().createLogger(), sleep=sleep)
    with client.get_task("u-1", Polling(0.1, 20.0)) as output:
        return list(output.get_output_as_label_array_dict())


def result_zip(pairs: dict[str, tuple[np.ndarray, dict[str, str]]]) -> bytes:
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive, tempfile.TemporaryDirectory() as folder:
        for name, (array, names) in pairs.items():
            path = Path(folder) / f"{name}.nii.gz"
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))
            archive.write(str(path), path.name)
            archive.writestr(f"{name}.json", json.dumps(names))
    return buffer.getvalue()


# What goes out


def test_the_request_that_submits_byte_by_byte(server, tmp_path, monkeypatch):
    monkeypatch.setattr("mim_extension.multipart.uuid4", lambda: SimpleNamespace(hex="b0undary"))
    server.script = [says(200, "uid-7")]

    assert post(server.url(), tmp_path, content=b"PK\x05\x06" + bytes(18)) == "uid-7"
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/api/tasks/?model_human_readable_id=ct-body")
    assert request.headers["Content-Type"] == "multipart/form-data; boundary=b0undary"
    assert request.headers["Content-Length"] == "154"
    assert request.headers["Authorization"] is None
    assert request.headers["Transfer-Encoding"] is None
    assert request.body == (
        b"--b0undary\r\n"
        b'Content-Disposition: form-data; name="zip_file"; filename="input.zip"\r\n'
        b"Content-Type: application/zip\r\n"
        b"\r\n"
        b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
        b"\r\n--b0undary--\r\n"
    )


def test_the_request_that_polls(server):
    server.script = [says(200, result_zip({}))]
    assert wait_for_result(server.url() + "/behind/proxy/") == []
    assert (server.requests[0].method, server.requests[0].path) == ("GET", "/behind/proxy/api/tasks/u-1")


def test_user_info_goes_out_as_basic_auth_with_both_requests(server, session, image):
    server.script = [says(202, "u-1"), says(200, result_zip({}))]
    url = server.url(f"clinic:{SECRET}%2F%C3%A9@")
    assert submit(url, session, image) == "u-1"
    fetch(url, session, image)

    expected = "Basic " + base64.b64encode(f"clinic:{SECRET}/é".encode()).decode()
    assert [request.headers["Authorization"] for request in server.requests] == [expected, expected]


def test_a_token_of_the_workstation_goes_out_where_the_address_holds_no_secret(server, session, image, monkeypatch):
    monkeypatch.setenv("MIM_INFERENCE_TOKEN", " ist_token ")
    server.script = [says(202, "u-1")]
    for user_info, expected in (("", "mim:ist_token"), (f"clinic:{SECRET}@", f"clinic:{SECRET}")):
        submit(server.url(user_info), session, image)
        assert base64.b64decode(server.requests[-1].headers["Authorization"].split()[1]).decode() == expected


@pytest.mark.parametrize("model", ["ct body", "a&b=c", "lunge/ü", "../x"])
def test_a_model_id_cannot_change_the_address(model, server, session, image):
    server.script = [says(200, "u-1")]
    assert submit(server.url(), session, image, model_human_readable_id=model) == "u-1"
    query = server.requests[0].path.split("?", 1)[1]
    assert dict(parse_qsl(query)) == {"model_human_readable_id": model}


# Submitting


@pytest.mark.parametrize("status", [200, 201, 202])
def test_any_2xx_with_a_json_string_is_a_uid(status, server, tmp_path):
    server.script = [says(status, "uid-7")]
    assert post(server.url(), tmp_path) == "uid-7"


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"uid": "7"}', b"[]", b'""', b"null"])
def test_an_answer_without_a_uid_is_said_to_be_none(body, server, tmp_path):
    server.script = [says(200, body)]
    with pytest.raises(InferenceServerError, match="took the case but gave no UID"):
        post(server.url(), tmp_path)


@pytest.mark.parametrize("status", [404, 422, 550])
def test_the_sentence_of_the_server_reaches_the_log_and_the_uid_is_empty(status, server, session, image):
    sentence = "The server does not know the model 'm'. Known models: ct-body, hippocampus."
    server.script = [says(status, {"code": "unknown_model", "message": sentence})]

    assert submit(server.url(), session, image) == ""
    assert logged(session, "error") == [sentence]


@pytest.mark.parametrize("closes_at_once", [False, True])
def test_a_refusal_before_the_body_is_read_is_still_heard(closes_at_once, server, tmp_path):
    def refuses_early(handler: Handler) -> None:
        handler.wfile.write(b'HTTP/1.1 413 Too Large\r\nContent-Length: 17\r\n\r\n"Over the limit."')
        handler.wfile.flush()
        handler.close_connection = True
        if not closes_at_once:
            handler.read_body()

    server.keeps_bodies = False
    server.script = [refuses_early]
    with pytest.raises(InferenceServerError, match=r"^Over the limit\.$"):
        post(server.url(), tmp_path, size=30_000_000)


@pytest.mark.parametrize("loss", [hangs_up, resets, says(503, "busy"), says(500, "broken")])
def test_a_case_is_never_sent_twice(loss, server, session, image):
    server.script = [loss]
    assert submit(server.url(), session, image) == ""
    time.sleep(0.05)
    assert len(server.requests) == 1


def test_a_connection_lost_after_the_body_says_that_the_case_may_have_arrived(server, tmp_path):
    server.script = [hangs_up]
    with pytest.raises(ServerUnreachable, match="the server may have taken it"):
        post(server.url(), tmp_path)


def test_a_connection_lost_within_the_body_says_that_the_server_does_not_have_it(server, tmp_path):
    server.script = [resets]
    with pytest.raises(ServerUnreachable, match="not sent completely, so the server does not have it"):
        post(server.url(), tmp_path, size=50_000_000)
    assert len(server.requests) == 1


def test_a_refused_connection_says_that_nothing_was_sent(tmp_path):
    with pytest.raises(ServerUnreachable, match=r"No connection to http://127\.0\.0\.1:\d+, .* Nothing was sent\."):
        post(f"http://127.0.0.1:{free_port()}", tmp_path)


def test_a_redirect_is_not_followed_and_named(server, tmp_path):
    server.script = [says(307, "", Location=f"https://elsewhere.invalid/{SECRET}")]
    with pytest.raises(InferenceServerError, match=r"called by its https:// address. Change server_url") as caught:
        post(server.url(), tmp_path)
    assert SECRET not in str(caught.value)
    assert len(server.requests) == 1


# Waiting


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_poll_goes_on_through_a_server_that_is_down_and_comes_up():
    port = free_port()
    pauses: list[float] = []
    started: list[Server] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            started.append(Server(port))
            started[0].script = [says(200, result_zip({"a": (np.ones((1, 1, 1), np.uint8), {"1": "X"})}))]
            started[0].start()

    assert wait_for_result(f"http://127.0.0.1:{port}", sleep=sleep) == ["X"]
    started[0].shutdown()
    started[0].server_close()
    assert pauses == [0.5, 1.0, 2.0]


def test_a_poll_goes_on_through_gateway_errors_resets_and_broken_downloads(server):
    result = result_zip({"a": (np.ones((1, 1, 1), np.uint8), {"1": "X"})})
    gateway = says(502, b"<html>Bad Gateway</html>")
    server.script = [gateway, says(503, "busy"), resets, hangs_up, breaks_off, says(551, {}), says(200, result)]

    assert wait_for_result(server.url()) == ["X"]
    assert len(server.requests) == 7


@pytest.mark.parametrize(
    ("status", "body", "sentence", "polls"),
    [
        (500, {"message": "The GPU is gone."}, "The GPU is gone.", 1),
        (550, {"code": "unknown_model", "message": "No model 'x'."}, "No model 'x'.", 1),
        (552, {"message": "The image is empty."}, "The image is empty.", 1),
        (553, {}, "The result is not on the server any more. Send the case again.", 3),
        (554, {"message": "No task u-1."}, "No task u-1.", 3),
        (401, "", "The server does not accept the token or secret. Check server_url and MIM_INFERENCE_TOKEN.", 1),
    ],
)
def test_each_status_of_the_dialect_ends_in_its_sentence(status, body, sentence, polls, server):
    server.script = [says(551, {}), says(status, body)]
    with pytest.raises(InferenceServerError) as caught:
        wait_for_result(server.url())
    assert str(caught.value) == sentence
    assert len(server.requests) == 1 + polls


def test_a_task_that_takes_too_long_is_left_to_be_fetched_later(server, session, image):
    server.script = [says(551, {"message": "queued"})]
    assert fetch(server.url(), session, image, timeout_sec=0) is None
    assert logged(session, "error") == [
        "No result after 0 s. The task is still waiting or running. The server keeps the task: "
        "fetch it later with InferenceServerGetFromUid and the same UID."
    ]


def test_a_login_page_instead_of_a_result_is_refused(server, session, image, plain_environment):
    server.script = [says(200, b"<html>Please log in</html>")]
    fetch(server.url(), session, image)
    assert logged(session, "error")[0].startswith("The result is damaged or is no result at all.")
    assert list(plain_environment.iterdir()) == []


# Time-outs, certificates, secrets, memory


def test_a_server_that_says_nothing_ends_the_submit_after_the_read_time_out(server, tmp_path):
    released = threading.Event()
    server.script = [lambda handler: (handler.read_body(), released.wait(5))]
    with pytest.raises(ServerUnreachable, match=r"did not answer in time\. The case was sent, but"):
        post(server.url(), tmp_path, read_timeout_s=0.2)
    released.set()
    assert len(server.requests) == 1


def test_a_server_that_says_nothing_is_polled_again(server):
    released = threading.Event()
    server.script = [lambda _: released.wait(5), says(200, result_zip({}))]
    assert wait_for_result(server.url(), read_timeout_s=0.2) == []
    released.set()


def test_a_server_that_takes_no_connection_ends_after_the_connect_time_out(tmp_path):
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        started = time.monotonic()
        with pytest.raises(ServerUnreachable, match=r"does not answer\. .* Nothing was sent\."):
            post(f"http://127.0.0.1:{full.getsockname()[1]}", tmp_path, connect_timeout_s=0.3)
        for each in waiting:
            each.close()
    assert time.monotonic() - started < 5


@pytest.fixture
def certificate(tmp_path) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command is not installed")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=server"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([openssl, "req", *options, *names], check=True, capture_output=True)
    return cert


@pytest.fixture
def tls_server(server, certificate) -> Server:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(certificate), str(certificate.with_name("key.pem")))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.scheme = "https"
    return server


def test_a_self_signed_certificate_is_refused_and_no_secret_is_sent(tls_server, tmp_path):
    url = tls_server.url(f"clinic:{SECRET}@")
    with pytest.raises(SettingsError, match=r"certificate of https://127\.0\.0\.1:\d+ is not trusted.*ca_bundle\.pem"):
        post(url, tmp_path)
    with pytest.raises(SettingsError, match="not trusted"):
        wait_for_result(url)
    assert tls_server.requests == []


def test_a_self_signed_certificate_is_accepted_with_its_own_bundle(tls_server, certificate, tmp_path, monkeypatch):
    tls_server.script = [says(200, "uid-7")]
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    assert post(tls_server.url(), tmp_path, ca_bundle=certificate) == "uid-7"


def test_the_bundle_of_the_environment_reaches_the_entry_points(tls_server, certificate, session, image, monkeypatch):
    tls_server.script = [says(200, "uid-7")]
    monkeypatch.setenv("MIM_INFERENCE_CA_BUNDLE", str(certificate))
    assert submit(tls_server.url(), session, image) == "uid-7"


def test_a_bundle_that_holds_no_certificate_is_named(tls_server, tmp_path):
    bundle = tmp_path / "empty.pem"
    bundle.write_text("nothing")
    with pytest.raises(SettingsError, match="holds no certificate in PEM form"):
        post(tls_server.url(), tmp_path, ca_bundle=bundle)


def test_https_to_a_plain_server_says_so(server, tmp_path):
    with pytest.raises(ServerUnreachable, match=r"No secure connection to https://.* Nothing was sent"):
        post(server.url().replace("http:", "https:"), tmp_path)


@pytest.mark.parametrize(
    "step",
    [
        says(200, "u"),
        says(401, {"message": "Refused."}),
        says(500, "x"),
        hangs_up,
        resets,
        says(302, "", Location="/x"),
    ],
)
def test_the_secret_of_an_address_reaches_no_log(step, server, session, image, caplog):
    caplog.set_level(logging.DEBUG)
    server.script = [step]
    url = server.url(f"clinic:{SECRET}@")
    submit(url, session, image)
    fetch(url, session, image, timeout_sec=0)
    submit(f"http://clinic:{SECRET}@127.0.0.1:{free_port()}", session, image)
    submit(f"http://clinic:{SECRET}/x@127.0.0.1", session, image)

    everything = "\n".join(logged(session) + caplog.messages)
    assert len(logged(session, "error")) >= 2
    assert SECRET not in everything
    assert "clinic" not in everything


def test_a_large_case_is_sent_without_being_held_in_memory(server, tmp_path):
    server.script = [says(200, "uid-7")]
    server.keeps_bodies = False
    tracemalloc.start()
    assert post(server.url(), tmp_path, size=200_000_000) == "uid-7"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert server.requests[0].headers["Content-Length"] == str(200_000_000 + 180)
    assert peak < 3_000_000


def test_a_large_result_is_received_without_being_held_in_memory(server, tmp_path):
    def streams(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "200000000")
        handler.end_headers()
        for _ in range(2000):
            handler.wfile.write(bytes(100_000))

    server.script = [streams]
    tracemalloc.start()
    assert backend(server.url()).get_task("u", tmp_path / "result.zip").status == 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "result.zip").stat().st_size == 200_000_000
    assert peak < 3_000_000


# From MIM's image to MIM's contours


class Segmenter:
    """Answers like a server whose models are simple enough that every answer is known."""

    def __init__(self, pairs: Callable[[dict[str, np.ndarray], dict[str, object]], dict]) -> None:
        self.pairs = pairs
        self.result = b""

    def __call__(self, handler: Handler) -> None:
        if handler.command == "POST":
            self.result = result_zip(self.pairs(*self.read_case(handler.read_body())))
            says(200, "u-1")(handler)
        else:
            says(200, self.result)(handler)

    @staticmethod
    def read_case(body: bytes) -> tuple[dict[str, np.ndarray], dict[str, object]]:
        content = body.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]
        volumes, documents = {}, {}
        with ZipFile(io.BytesIO(content)) as archive, tempfile.TemporaryDirectory() as folder:
            archive.extractall(folder)
            for name in archive.namelist():
                if name.endswith(".json"):
                    documents[name] = json.loads(archive.read(name))
                else:
                    volumes[name] = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(Path(folder) / name)))
        return volumes, documents


def on_contour_grid(array: np.ndarray, factor: list[int]) -> np.ndarray:
    return np.kron(array, np.ones(factor, dtype=np.uint8)).astype(np.uint8)


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64", "uint8"])
def test_a_threshold_of_the_image_comes_back_as_contours_that_overlap(dtype, server, session, image, plain_environment):
    voxels = image.getRawData().copyToNPArray()
    image = MimImage(voxels.astype(dtype), spacing=(1.0, 2.0, 3.0), scaling_factor=(1, 2, 2))

    def pairs(volumes: dict, documents: dict) -> dict:
        fine = on_contour_grid(volumes["tmp_0000.nii.gz"] > 50, documents["meta.json"]["scaling_factor"])
        return {"a": (fine, {"1": "Bright"}), "b": (np.ones_like(fine), {"1": "All", "0": "Nothing"})}

    server.script = [Segmenter(pairs)]
    uid = submit(server.url(), session, image)
    fetch(server.url(), session, image)

    contours = drawn_contours(image)
    assert uid == "u-1"
    assert list(contours) == ["Bright", "All", "Nothing"]
    assert np.array_equal(contours["Bright"], np.kron(voxels > 50, np.ones((1, 2, 2), dtype=bool)))
    assert contours["Bright"].shape == (2, 6, 8)
    assert contours["All"].all()
    assert not contours["Nothing"].any()
    assert logged(session, "error") == []
    assert logged(session, "info")[-1] == "Contours drawn: Bright, All, Nothing."
    assert list(plain_environment.iterdir()) == []


def test_an_exported_contour_comes_back_voxel_by_voxel(server, session, image):
    contour = image.createNewContour("GTVt")
    drawn = np.random.default_rng(1).random((2, 6, 8)) > 0.5
    contour.getData().setFromNPArray(drawn)
    contour.redrawCompletely()

    def pairs(volumes: dict, documents: dict) -> dict:
        return {"x": (volumes["contour_0000.nii.gz"], {"1": documents["contour_0000.json"]["name"] + " copy"})}

    server.script = [Segmenter(pairs)]
    submit(server.url(), session, image, export_contours=1, contour_names="GTVt")
    fetch(server.url(), session, image)
    assert np.array_equal(drawn_contours(image)["GTVt copy"], drawn)


def test_a_result_on_another_grid_is_refused_with_a_sentence(server, session, image):
    server.script = [says(200, result_zip({"a": (np.ones((2, 3, 4), np.uint8), {"1": "Bright"})}))]
    fetch(server.url(), session, image)

    assert logged(session, "error") == [
        "MIM does not take the structure 'Bright': the result does not lie on the contour grid of the reference "
        "image. Choose the image that was sent as image zero."
    ]
    assert image.getContours() == []


def test_a_wait_that_times_out_is_a_timeout_error(server):
    client = InferenceClient(backend(server.url()), MimSession().createLogger(), sleep=lambda _: None)
    with pytest.raises(ResultTimeout), client.get_task("u", Polling(0.0, 0.0)):
        pass
