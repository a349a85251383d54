"""HTTPS beside HTTP, on real sockets, with a self-signed certificate."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from api_process import NOBODY, Api, sendable
from door_support import case, part

from inference_server.clients import Client, ServerError
from inference_server.stack.certificates import Pair, make_pair, shown

MIB = 1024**2


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("tls")
    make_pair(pair(folder / "data"))
    api = Api(folder, "--tls", "--tls-port", "0")
    yield api
    api.stop()


@pytest.fixture(autouse=True)
def _no_bundles_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


def pair(data: Path) -> Pair:
    return Pair(data / "tls" / "certificate.pem", data / "tls" / "key.pem")


def certificate(api: Api) -> str:
    return str(pair(api.data).certificate)


def test_both_addresses_answer(api: Api) -> None:
    plain, secure = api.urls
    assert plain.startswith("http://127.0.0.1:")
    assert secure.startswith("https://127.0.0.1:")
    assert requests.get(f"{plain}/healthz/live").json() == {"live": True}
    for name in ("127.0.0.1", "localhost"):
        url = secure.replace("127.0.0.1", name)
        assert requests.get(f"{url}/healthz/live", verify=certificate(api)).json() == {"live": True}


def test_a_client_verifies_the_certificate_strictly(api: Api) -> None:
    context = ssl.create_default_context(cafile=certificate(api))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with httpx.Client(verify=context) as client:
        assert client.get(f"{api.urls[1]}/healthz/live").status_code == 200


def test_who_trusts_another_certificate_or_only_authorities_is_not_served(api: Api, tmp_path: Path) -> None:
    other = pair(tmp_path)
    make_pair(other)
    for trusted in (str(other.certificate), True):
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"{api.urls[1]}/healthz/live", verify=trusted)


def test_our_client_says_what_is_wrong_with_a_certificate(api: Api, tmp_path: Path) -> None:
    with Client(api.urls[1], certificate=certificate(api)) as client:
        assert [model["id"] for model in client.models()] == ["one"]
    with Client(api.urls[1]) as client, pytest.raises(ServerError, match="is not trusted here") as error:
        client.models()
    assert error.value.problem_code == "certificate"


def test_the_fingerprint_on_the_wire_is_the_one_that_was_printed(api: Api) -> None:
    host, port = api.urls[1].removeprefix("https://").split(":")
    der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port))))
    assert shown(pair(api.data).certificate).sha256 == hashlib.sha256(der).digest().hex(":").upper()


def spoken(api: Api, version: ssl.TLSVersion) -> str | None:
    """Return what is spoken with a client that speaks one version of TLS alone."""
    context = ssl.create_default_context(cafile=certificate(api))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    host, port = api.urls[1].removeprefix("https://").split(":")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=10) as connection,
            context.wrap_socket(connection, server_hostname=host) as wrapped,
        ):
            return wrapped.version()
    except ssl.SSLError:
        return None


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_nothing_older_than_tls_1_2_is_spoken(api: Api) -> None:
    assert spoken(api, ssl.TLSVersion.TLSv1_1) is None
    assert spoken(api, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert spoken(api, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"


def test_plain_http_gets_nothing_at_the_address_of_https(api: Api) -> None:
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(api.urls[1].replace("https:", "http:") + "/healthz/live", timeout=10)
    assert requests.get(f"{api.urls[1]}/healthz/live", verify=certificate(api)).ok


def test_large_cases_and_results_go_over_it_unchanged(api: Api) -> None:
    verify: dict[str, Any] = {"verify": certificate(api)}
    with requests.Session() as session:
        form = sendable(part("model", "one"), part("case", case(), "c"))
        uid = session.post(f"{api.urls[1]}/api/v1/tasks", **form, **verify).json()["uid"]
        result = os.urandom(5 * MIB)
        api.finish(api.claim(), result)
        address = f"{api.urls[1]}/api/v1/tasks/{uid}/result"
        assert session.get(address, **verify).content == result
        piece = session.get(address, headers={"Range": "bytes=5000000-"}, **verify)
        assert (piece.status_code, piece.content) == (206, result[5000000:])
        too_large = sendable(part("model", "one"), part("case", bytes(20 * MIB), "c"))
        refused = session.post(f"{api.urls[1]}/api/v1/tasks", **too_large, **verify)
        assert (refused.status_code, refused.json()["code"]) == (400, "malformed_message")


def start(data: Path, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Start an API that is expected to refuse to."""
    environment = {f"INFERENCE_SERVER_{name}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "inference_server", "api", "--port", "0", "--data", str(data), *options],
        env={**os.environ, "INFERENCE_SERVER_BROKER_URL": NOBODY, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_a_certificate_it_does_not_start_and_says_how_to_make_one(tmp_path: Path) -> None:
    done = start(tmp_path, "--tls", "--tls-port", "0")
    assert done.returncode == 1
    assert "Make them with `inference-server certs`" in done.stderr


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    make_pair(pair(tmp_path / "one"))
    make_pair(pair(tmp_path / "two"))
    done = start(
        tmp_path / "one",
        "--tls",
        "--tls-port",
        "0",
        TLS_CERTIFICATE=certificate_of(tmp_path / "one"),
        TLS_KEY=str(pair(tmp_path / "two").key),
    )
    assert done.returncode == 1
    assert "cannot be used with the key" in done.stderr
    assert "Traceback" not in done.stderr


def certificate_of(data: Path) -> str:
    return str(pair(data).certificate)


@pytest.mark.parametrize(
    "options",
    [("--host", "0.0.0.0"), ("--tls", "--tls-host", "0.0.0.0"), ("--host", "::", "--open", "tomaat")],
)
def test_beyond_this_machine_it_does_not_start_without_a_token(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = start(tmp_path, *options)
    assert done.returncode == 1
    assert "there is no access token. Make one with `inference-server tokens create NAME`" in done.stderr


def test_a_dialect_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    done = start(tmp_path, "--open", "tomato")
    assert done.returncode == 1
    assert "The dialect 'tomato' cannot be opened" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host", "0.0.0.0", "--no-auth"), "access is not controlled"),
        (("--open", "mim"), "dialects are open to clients without a token"),
    ],
)
def test_what_lets_strangers_in_is_said_at_the_start(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    api = Api(tmp_path, *options)
    api.stop()
    assert said in api.log.read_text()
