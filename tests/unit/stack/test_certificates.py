from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from inference_server.errors import SettingsError
from inference_server.stack.certificates import Pair, make_pair, shown


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path / "tls" / "certificate.pem", tmp_path / "tls" / "key.pem")


def test_it_names_what_was_asked_for_and_this_machine(pair: Pair) -> None:
    make_pair(pair, ["server.hospital.example", "10.1.2.3", "bücher.example"], days=30)
    seen = shown(pair.certificate)
    expected = ("server.hospital.example", "10.1.2.3", "xn--bcher-kva.example", "localhost", "127.0.0.1", "::1")
    assert seen.names == expected
    assert abs(seen.until - (datetime.now(UTC) + timedelta(days=30))) < timedelta(minutes=5)


def test_its_fingerprints_are_those_of_the_certificate_that_tls_shows(pair: Pair) -> None:
    import hashlib

    make_pair(pair)
    der = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
    seen = shown(pair.certificate)
    assert seen.sha256.replace(":", "").lower() == hashlib.sha256(der).hexdigest()
    assert seen.sha1.replace(":", "").lower() == hashlib.sha1(der).hexdigest()


def test_the_key_is_its_owners_alone_also_where_another_file_was(pair: Pair) -> None:
    pair.key.parent.mkdir()
    pair.key.touch(mode=0o644)
    make_pair(pair)
    assert pair.key.stat().st_mode & 0o777 == 0o600
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)


@pytest.mark.parametrize("name", ["a" * 64, "..", "a b\x00"])
def test_what_is_no_name_of_a_host_is_refused(pair: Pair, name: str) -> None:
    with pytest.raises(SettingsError, match="not the name or address of a host"):
        make_pair(pair, [name])
    assert not pair.certificate.exists()


def test_a_file_that_is_no_certificate_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nothing")
    with pytest.raises(SettingsError, match="holds no certificate"):
        shown(tmp_path / "x.pem")
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        shown(tmp_path / "y.pem")


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "tls").touch()
    with pytest.raises(SettingsError, match="cannot be written"):
        make_pair(Pair(tmp_path / "tls" / "c.pem", tmp_path / "tls" / "k.pem"))
