"""Addresses, settings, sentences of the server and the multipart body."""

from __future__ import annotations

from pathlib import Path

import pytest

from mim_extension.errors import SettingsError
from mim_extension.multipart import MultipartFile
from mim_extension.server_address import parse_server_url
from mim_extension.server_message import server_message
from mim_extension.settings import Settings, read_settings


@pytest.mark.parametrize(
    ("server_url", "tasks_url", "shown"),
    [
        ("http://localhost:8000", "http://localhost:8000/api/tasks/", "http://localhost:8000"),
        (" https://h.example/ ", "https://h.example/api/tasks/", "https://h.example"),
        ("https://h.example/mim/", "https://h.example/mim/api/tasks/", "https://h.example"),
        ("https://user:s3cret@h.example:8443", "https://h.example:8443/api/tasks/", "https://h.example:8443"),
        ("http://[::1]:80/x", "http://[::1]:80/x/api/tasks/", "http://[::1]:80"),
    ],
)
def test_an_address_is_split_into_what_is_asked_and_what_is_shown(server_url, tasks_url, shown):
    address = parse_server_url(server_url)
    assert (address.tasks_url, address.shown) == (tasks_url, shown)


@pytest.mark.parametrize(
    ("server_url", "auth"),
    [
        ("https://h", None),
        ("https://user:secret@h", (b"user", b"secret")),
        ("https://token@h", (b"token", b"")),
        ("https://u:a%2Fb%40c%3A%C3%A9@h", (b"u", "a/b@c:é".encode())),
        ("https://u:a@b@h", (b"u", b"a@b")),
    ],
)
def test_user_info_becomes_basic_auth_and_is_not_part_of_the_representation(server_url, auth):
    address = parse_server_url(server_url)
    assert address.auth == auth
    assert "secret" not in repr(address)


@pytest.mark.parametrize(
    "server_url",
    [
        "",
        "server.example",
        "ftp://h",
        "https://",
        "https://user:s3cret@",
        "https://user:s3c/ret@h",
        "https://user:123/s3cret@h",
        "https://user:s3c?ret@h",
        "https://user:s3c#ret@h",
        "https://user:s3cret@h:port",
        "https://user:s3cret@[::1",
        "https://h:99999",
    ],
)
def test_what_is_no_address_is_refused_without_repeating_any_of_it(server_url):
    with pytest.raises(SettingsError) as caught:
        parse_server_url(server_url)
    assert "is not the address of a server" in str(caught.value)
    assert "s3c" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("server_url", "is_exposed"),
    [
        ("http://h.example", True),
        ("http://10.0.0.7", True),
        ("https://h.example", False),
        ("http://localhost:8000", False),
        ("http://127.0.0.1", False),
        ("http://[::1]", False),
    ],
)
def test_plain_http_to_another_computer_is_noticed(server_url, is_exposed):
    assert parse_server_url(server_url).is_exposed is is_exposed


def test_a_uid_cannot_change_the_address():
    assert parse_server_url("http://h").task_url("../a?b#c") == "http://h/api/tasks/..%2Fa%3Fb%23c"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'"Just text"', "Just text"),
        (b'{"code": "unknown_model", "message": "No model \'x\'."}', "No model 'x'."),
        (b'{"message": "Refused.", "detail": "Known models: a."}', "Refused. Known models: a."),
        (b'{"message": "Refused.", "detail": {"field": "x"}}', "Refused."),
        (b'{"detail": "Not found"}', "Not found"),
        (b'{"detail": [{"loc": ["query"], "msg": "field required"}]}', "field required"),
        (b'{"error": {"message": "Deep"}}', "Deep"),
        (b'{"title": "Too large", "status": 413}', "Too large"),
        (b"plain words", "plain words"),
        (b"two\r\nlines\x00\x1b[31m", "two lines [31m"),
        (b"<html>502 Bad Gateway</html>", ""),
        (b"", ""),
        (b"[]", ""),
        (b"17", ""),
        (b'{"message": null}', ""),
        (b"\xff", "\ufffd"),
        (b"[" * 60_000, "[" * 599 + "…"),
    ],
)
def test_the_sentence_is_found_in_an_answer_of_any_shape(body, sentence):
    found = server_message(body)
    assert found in (sentence, "")
    assert found == sentence or body.startswith(b"[[")


def test_a_sentence_is_cut_at_600_characters():
    assert server_message(b"x" * 1000) == "x" * 599 + "…"


def test_without_settings_the_usual_authorities_are_trusted(tmp_path):
    assert read_settings({}, tmp_path) == Settings(None, 30.0, 120.0)


def test_a_bundle_beside_the_extension_is_used_and_the_environment_wins(tmp_path):
    beside, named = tmp_path / "ca_bundle.pem", tmp_path / "other.pem"
    beside.touch()
    named.touch()
    assert read_settings({}, tmp_path).ca_bundle == beside
    assert read_settings({"MIM_INFERENCE_CA_BUNDLE": str(named)}, tmp_path).ca_bundle == named


def test_a_bundle_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="MIM_INFERENCE_CA_BUNDLE names a certificate file that does not exist"):
        read_settings({"MIM_INFERENCE_CA_BUNDLE": str(tmp_path / "none.pem")}, tmp_path)


def test_time_outs_can_be_set():
    settings = read_settings(
        {"MIM_INFERENCE_CONNECT_TIMEOUT_S": "2.5", "MIM_INFERENCE_READ_TIMEOUT_S": "7"}, Path("none")
    )
    assert (settings.connect_timeout_s, settings.read_timeout_s) == (2.5, 7.0)


@pytest.mark.parametrize("value", ["0", "-1", "soon", "inf", "nan"])
def test_a_time_out_that_is_none_is_refused_by_its_name(value):
    with pytest.raises(SettingsError, match="MIM_INFERENCE_READ_TIMEOUT_S must be a number of seconds above zero"):
        read_settings({"MIM_INFERENCE_READ_TIMEOUT_S": value}, Path("none"))


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_the_body_is_the_same_in_pieces_of_any_size(size, tmp_path):
    path = tmp_path / "case.zip"
    path.write_bytes(bytes(range(256)) * 3)
    with path.open("rb") as file:
        body = MultipartFile(file, field="zip_file", file_name="input.zip", boundary="b0")
        announced = len(body)
        pieces = list(iter(lambda: body.read(size), b""))

    assert b"".join(pieces) == (
        b"--b0\r\n"
        b'Content-Disposition: form-data; name="zip_file"; filename="input.zip"\r\n'
        b"Content-Type: application/zip\r\n\r\n" + bytes(range(256)) * 3 + b"\r\n--b0--\r\n"
    )
    assert announced == sum(map(len, pieces)) == body.sent_bytes
    assert max(map(len, pieces)) <= size
    assert body.is_sent


def test_an_empty_file_makes_a_whole_body(tmp_path):
    path = tmp_path / "empty.zip"
    path.touch()
    with path.open("rb") as file:
        body = MultipartFile(file, field="zip_file", file_name="input.zip", boundary="b0")
        content = b"".join(body)
    assert content.endswith(b"\r\n\r\n\r\n--b0--\r\n")
    assert len(content) == len(body)
