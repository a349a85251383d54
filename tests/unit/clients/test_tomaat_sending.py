from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest

from inference_server.clients.fingerprints import KnownCertificates, parse_fingerprint
from inference_server.clients.tomaat.sending import Base64Lines, base64_blocks
from inference_server.errors import BadRequest

PRINT = bytes(range(32)).hex(":").upper()


@pytest.mark.parametrize("size", [0, 1, 56, 57, 58, 1000, 200_000])
@pytest.mark.parametrize("prefix", [b"", b"mat\n"])
def test_a_file_is_sent_as_lines_of_base64_whose_length_is_known_before(
    tmp_path: Path, size: int, prefix: bytes
) -> None:
    content = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(content)
    sent: list[int] = []
    with (tmp_path / "file").open("rb") as file:
        stream = Base64Lines(file, prefix=prefix, sent=sent.append)
        length = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        blocks = list(iter(lambda: stream.read(65536), b""))
    assert b"".join(blocks) == prefix + base64.encodebytes(content)
    assert (length, sum(sent)) == (len(b"".join(blocks)),) * 2
    assert max(map(len, blocks), default=0) <= 65536


def test_the_base64_of_blocks_is_that_of_the_whole(tmp_path: Path) -> None:
    content = bytes(5_000_000)
    assert b"".join(base64_blocks(io.BytesIO(content), lambda _: None)) == base64.b64encode(content)


@pytest.mark.parametrize("text", [PRINT, PRINT.lower(), PRINT.replace(":", ""), f"SHA256:{PRINT}", f" sha-256 {PRINT}"])
def test_a_fingerprint_is_taken_in_every_usual_form(text: str) -> None:
    assert parse_fingerprint(text) == PRINT


@pytest.mark.parametrize("text", ["", PRINT[:-1], PRINT + ":00", PRINT.replace("0", "G")])
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="has 64 digits"):
        parse_fingerprint(text)


def test_known_certificates_are_kept_line_by_line(tmp_path: Path) -> None:
    known = KnownCertificates(tmp_path / "new" / "known")
    assert known.fingerprint("a:1") is None
    assert not known.forget("a:1")
    known.remember("a:1", PRINT)
    known.path.write_text(f"# mine\n\n{known.path.read_text()}")
    known.remember("[::1]:2", PRINT[::-1])
    assert (known.fingerprint("a:1"), known.fingerprint("[::1]:2")) == (PRINT, PRINT[::-1])
    assert known.forget("a:1")
    assert known.path.read_text() == f"# mine\n\n[::1]:2 sha256 {PRINT[::-1]}\n"
    assert known.path.stat().st_mode & 0o777 == 0o600


def test_a_line_that_cannot_be_read_is_no_reason_to_trust_anybody(tmp_path: Path) -> None:
    known = KnownCertificates(tmp_path / "known")
    known.path.write_text(f"a:1 sha256 {PRINT}\nb:1 {PRINT}\n")
    with pytest.raises(BadRequest, match="Line 2 of "):
        known.fingerprint("a:1")
