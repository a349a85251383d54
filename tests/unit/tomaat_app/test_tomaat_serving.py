"""The settings of the stack behind a service, its certificate, and where it is announced."""

from __future__ import annotations

import socket
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from inference_server.errors import SettingsError
from inference_server.stack.certificates import Pair, make_pair, shown
from inference_server.tomaat_app import serving
from inference_server.tomaat_app.config import Config, check_config

ANNOUNCED = {"announce": True, "api_key": "isk_secret", "announcement": "https://a.example.org/announce"}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the environment's counts, and what is relative lies in a folder of the test."""
    monkeypatch.delenv("INFERENCE_SERVER_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)


def config(**keys: Any) -> Config:
    return check_config({"name": "Liver", "port": 9000, **keys})


def test_a_service_is_the_only_model_of_a_server_whose_https_is_open_to_tomaat(tmp_path: Path) -> None:
    settings = serving.service_settings(config())
    folder = tmp_path / "inference-server-data" / "tomaat-liver"
    assert (settings.data_dir, settings.models_dirs, settings.zoo) == (folder, str(folder / "app"), False)
    assert (settings.host, settings.port) == ("127.0.0.1", 0)
    assert (settings.tls, settings.tls_host, settings.tls_port) == (True, "0.0.0.0", 9000)
    assert (settings.opened, settings.open_alone, settings.no_auth) == (("tomaat",), True, False)
    assert settings.tomaat_root == "liver"
    assert (settings.public_url, settings.tomaat_announcers) == (None, None)
    assert settings.certificate == folder / "tls" / "certificate.pem"


def test_settings_of_the_environment_count_where_the_config_says_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("INFERENCE_SERVER_DATA_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("INFERENCE_SERVER_DEVICE", "cuda:1")
    monkeypatch.setenv("INFERENCE_SERVER_TLS_PORT", "1")
    settings = serving.service_settings(config())
    assert (settings.data_dir, settings.device, settings.tls_port) == (tmp_path / "mine", "cuda:1", 9000)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", f"https://{socket.getfqdn()}:9000"),
        ("gpu.example.org", "https://gpu.example.org:9000"),
        ("gpu.example.org:443", "https://gpu.example.org:443"),
        ("https://gpu.example.org:9000/", "https://gpu.example.org:9000"),
        ("http://192.0.2.7/", "http://192.0.2.7"),
    ],
)
def test_the_announced_url_follows_from_host_and_port(host: str, url: str) -> None:
    assert serving.service_settings(config(host=host, **ANNOUNCED)).public_url == url


def test_a_port_that_is_not_known_cannot_be_announced() -> None:
    with pytest.raises(SettingsError, match="A port that is found at start cannot be announced"):
        serving.service_settings(config(port=0, **ANNOUNCED))
    assert serving.service_settings(config(port=0)).public_url is None


def test_an_announcement_says_what_the_config_does_in_a_private_file(tmp_path: Path) -> None:
    said = config(modality="CT", anatomy="Liver", task="Segmentation", description="Finds it", **ANNOUNCED)
    assert serving.service_settings(said).tomaat_announcers is not None
    path = tmp_path / "announcers.yaml"
    path.write_text("of an earlier start")
    serving.write_announcers(path, said)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    told = {
        "key": "isk_secret",
        "name": "Liver",
        "modality": "CT",
        "anatomy": "Liver",
        "task": "Segmentation",
        "description": "Finds it",
    }
    assert yaml.safe_load(path.read_text()) == [{"url": ANNOUNCED["announcement"], "models": {"liver": told}}]


def certificate_at(path: Path) -> Pair:
    settings = serving.service_settings(config(cert_path=str(path), host="gpu.example.org"))
    serving.ensure_certificate(settings, config(host="gpu.example.org"))
    return Pair(settings.certificate, settings.certificate_key)


def test_a_certificate_is_made_where_there_is_none_and_kept_after_that(tmp_path: Path) -> None:
    pair = certificate_at(tmp_path / "mine")
    assert (pair.certificate, pair.key) == (tmp_path / "mine.crt", tmp_path / "mine.key")
    made = shown(pair.certificate)
    assert set(made.names) >= {"gpu.example.org", socket.gethostname(), "localhost", "127.0.0.1"}
    assert certificate_at(tmp_path / "mine") == pair
    assert shown(pair.certificate) == made


@pytest.mark.parametrize(
    ("given", "certificate", "key"),
    [
        ("mine.pem", "mine.pem", "mine.key"),
        ("mine", "mine.crt", "mine.key"),
        ("tls", "tls/certificate.pem", "tls/key.pem"),
    ],
)
def test_a_certificate_of_ones_own_is_found_with_its_key(
    tmp_path: Path, given: str, certificate: str, key: str
) -> None:
    own = Pair(tmp_path / certificate, tmp_path / key)
    make_pair(own)
    before = shown(own.certificate)
    assert certificate_at(tmp_path / given) == own
    assert shown(own.certificate) == before


def test_a_certificate_may_have_its_key_in_the_same_file(tmp_path: Path) -> None:
    apart = Pair(tmp_path / "a.crt", tmp_path / "a.key")
    make_pair(apart)
    both = tmp_path / "both.pem"
    both.write_bytes(apart.certificate.read_bytes() + apart.key.read_bytes())
    assert certificate_at(both) == Pair(both, both)


def test_what_a_client_needs_is_told_when_the_service_is_ready(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = certificate_at(tmp_path / "mine")
    settings = serving.service_settings(config(cert_path=str(tmp_path / "mine")))
    serving.tell(settings, "http://127.0.0.1:1234 https://0.0.0.0:9000")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"certificate  {pair.certificate}"
    assert said[1] == f"SHA-256      {shown(pair.certificate).sha256}"
    assert said[2] == f"ready https://{socket.gethostname()}:9000"
