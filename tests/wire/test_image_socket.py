"""The image socket byte by byte, on a real connection."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from image_socket_support import SICK, WELL, Peer, Server, serving, sha256, until, xray
from pictures import save_picture

from inference_server.api.image_socket.server import IN_MEMORY_BYTES
from inference_server.tasks.caller import Scope
from inference_server.tasks.record import Problem, Status
from inference_server.tasks.tokens import Tokens


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as server:
        yield server


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with Peer(server.address) as peer:
        assert peer.hears() == b"?"
        yield peer


@pytest.fixture
def image(tmp_path: Path) -> bytes:
    return xray(tmp_path)


def predicted(server: Server, peer: Peer, classes: dict[str, float] = SICK) -> bytes:
    """Ask for a prediction and return both bytes of the answer."""
    peer.says(b"PRED")
    server.answer(classes)
    return peer.hears(2)


def test_a_conversation_byte_by_byte(server: Server, peer: Peer, image: bytes) -> None:
    """As the protocol tells it, every byte of both sides."""
    size = b"%d" % len(image)
    script = [(b"FILE", b"0"), (size.ljust(10, b"z"), b"0"), (image, b""), (b"MODE", b"0"), (b"MYCN", b"0")]
    for said, heard in script:
        for byte in said:
            peer.says(bytes([byte]))
        assert peer.hears(len(heard)) == heard
    assert predicted(server, peer) == b"0P"
    assert predicted(server, peer, WELL) == b"0N"
    assert peer.asks(b"BYE!") == b"0"
    assert peer.is_closed()
    assert server.statuses() == [Status.FINISHED] * 2


def test_everything_in_one_piece(server: Server, peer: Peer, image: bytes) -> None:
    size = b"%d" % len(image)
    peer.says(b"MODEMYCNFILE" + size.rjust(10, b" ") + image + b"HASH" + sha256(image) + b"PREDBYE\n")
    server.answer()
    assert peer.hears(100) == b"0000000P0"


def test_several_files_and_models_on_one_connection(server: Server, peer: Peer, tmp_path: Path) -> None:
    for level, code, classes, letter in (
        (1, b"MYCN", SICK, b"P"),
        (2, b"WARY", WELL, b"P"),
        (3, b"MYCN", WELL, b"N"),
        (4, b"LUNG", {"Clear": 0.4, "Opacity": 0.6}, b"P"),
    ):
        peer.sends_all(xray(tmp_path, level), code)
        assert predicted(server, peer, classes) == b"0" + letter
    assert not server.staged(), "small ones are kept in memory"


def test_a_large_file_lies_on_the_disk_until_another_comes(server: Server, peer: Peer, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 600), np.uint8)
    large = save_picture(tmp_path / "large.png", pixels).read_bytes()
    assert len(large) > IN_MEMORY_BYTES
    for _ in range(2):
        peer.sends_all(large)
        assert peer.asks(b"HASH") + peer.asks(sha256(large)) == b"00"
        assert predicted(server, peer) == predicted(server, peer) == b"0P"
        assert len(server.staged()) == 1
    peer.sends_all(xray(tmp_path))
    assert not server.staged()


@pytest.mark.parametrize("bye", [b"BYE!", b"BYE?", b"BYE\0", b"BYE\xff"])
def test_goodbye_with_any_fourth_byte(peer: Peer, bye: bytes) -> None:
    assert peer.asks(bye) == b"0"
    assert peer.is_closed()


@pytest.mark.parametrize("command", [b"FROB", b"file", b"\0\0\0\0", b"GET ", b"\xff\xfe\xfd\xfc"])
def test_an_unknown_command_is_answered_and_ends_it(peer: Peer, command: bytes) -> None:
    assert peer.asks(command) == b"2"
    assert peer.is_closed()


def test_a_client_of_another_protocol_is_answered_and_sent_away(peer: Peer) -> None:
    """Also one that goes on talking: the answer is not lost with the connection."""
    peer.says(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n" + bytes(100_000))
    assert peer.hears(100) == b"2"


@pytest.mark.parametrize("code", [b"BEAS", b"ORGA", b"NONE", b"mycn", b"\xff\xff\xff\xff"])
def test_an_unknown_model(peer: Peer, image: bytes, code: bytes) -> None:
    """One that is not there, classifies something else, or nothing; what was chosen before is not meant any more."""
    peer.sends_all(image)
    assert peer.asks(b"MODE") + peer.asks(code) == b"03"
    assert peer.asks(b"PRED") == b"1"
    assert peer.asks(b"MODE") + peer.asks(b"MYCN") == b"00"


def test_prediction_without_model_or_file(server: Server, peer: Peer, image: bytes) -> None:
    assert peer.asks(b"PRED") == b"1"
    assert peer.asks(b"HASH") == b"1"
    assert peer.asks(b"TASK") == b"1"
    peer.sends_file(image)
    assert peer.asks(b"PRED") == b"1"
    assert peer.asks(b"MODE") + peer.asks(b"MYCN") == b"00"
    assert predicted(server, peer) == b"0P"
    assert peer.asks(b"FILE") == b"0"
    assert peer.asks(b"0000000000") == b"0"
    assert peer.asks(b"PRED") == b"5"


@pytest.mark.parametrize(
    "size",
    [b"zzzzzzzzzz", b"\0" * 10, b"12z34zzzzz", b"-", b"9999999999", b"67108865zz"],
    ids=["letters", "zeros", "two numbers", "signs", "ten digits", "one too many"],
)
def test_a_size_that_is_none_or_too_large(peer: Peer, size: bytes) -> None:
    assert peer.asks(b"FILE") == b"0"
    assert peer.asks(size.ljust(10, b"-")) == b"2"
    assert peer.is_closed()


@pytest.mark.parametrize("size", [b"%dzzzzzzzz", b"00000000%d", b"\0\0\0\0%d\xff\xff\xff\xff", b"%d        "])
def test_a_size_with_any_padding(peer: Peer, size: bytes) -> None:
    assert peer.asks(b"FILE") == b"0"
    assert peer.asks(size % 67) == b"0"
    assert peer.says(bytes(67)).asks(b"HASH" + sha256(bytes(67)), 2) == b"00"


@pytest.mark.parametrize(
    "content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"PK\x03\x04" * 40]
)
def test_a_file_that_is_no_image_is_told_by_the_prediction(server: Server, peer: Peer, content: bytes) -> None:
    peer.sends_all(content)
    assert peer.asks(b"PRED") == b"5"
    assert server.statuses() == []


def test_a_decompression_bomb(server: Server, peer: Peer, image: bytes) -> None:
    """A picture of some bytes that declares 60,000 x 60,000 pixels."""
    bomb = image[:16] + struct.pack(">II", 60_000, 60_000) + image[24:]
    peer.sends_all(bomb)
    assert peer.asks(b"PRED") == b"5"


def test_an_image_that_the_worker_cannot_read(server: Server, peer: Peer, image: bytes) -> None:
    peer.sends_all(image)
    peer.says(b"PRED")
    server.fail_next(Problem("malformed_message", "The picture cannot be read."))
    assert peer.hears() == b"5"


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("prediction", b"2"),
        ("out_of_memory", b"2"),
        ("timed_out", b"2"),
        ("worker_lost", b"2"),
        ("unknown_model", b"3"),
    ],
)
def test_a_failure_of_the_model(server: Server, peer: Peer, image: bytes, code: str, answer: bytes) -> None:
    peer.sends_all(image)
    peer.says(b"PRED")
    server.fail_next(Problem(code, "Something failed."))
    assert peer.hears() == answer
    assert predicted(server, peer) == b"0P"


def test_a_wrong_check_sum(server: Server, peer: Peer, image: bytes) -> None:
    """A file that came otherwise than it was sent is not classified; the right digest clears it."""
    peer.sends_all(image)
    assert peer.asks(b"HASH") + peer.asks(sha256(b"another")) == b"04"
    assert peer.asks(b"PRED") == b"4"
    assert peer.asks(b"HASH") + peer.asks(b"x" * 64) == b"04"
    assert peer.asks(b"HASH") + peer.asks(sha256(image).upper()) == b"00"
    assert predicted(server, peer) == b"0P"
    assert peer.asks(b"HASH") + peer.asks(sha256(b"another")) == b"04"
    peer.sends_file(image)
    assert predicted(server, peer) == b"0P"


def test_the_uid_of_the_last_prediction(server: Server, peer: Peer, image: bytes) -> None:
    peer.sends_all(image)
    peer.says(b"PRED")
    uid = server.answer()
    assert peer.hears(2) == b"0P"
    assert peer.asks(b"TASK", 33) == b"0" + uid.encode()


def test_pictures_of_all_formats_reach_the_queue(server: Server, peer: Peer, tmp_path: Path) -> None:
    deep = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
    files = [
        save_picture(tmp_path / "a.jpg", (deep // 256).astype(np.uint8)),
        save_picture(tmp_path / "b.png", deep),
        save_picture(tmp_path / "c.dcm", deep),
        save_picture(tmp_path / "d.dcm", deep, inverse=True),
    ]
    for file in files:
        peer.sends_all(file.read_bytes())
        assert predicted(server, peer) == b"0P"


def test_a_connection_lost_within_a_file_leaves_nothing(server: Server, image: bytes) -> None:
    with Peer(server.address) as peer:
        assert peer.hears() == b"?"
        assert peer.asks(b"FILE") + peer.asks(b"1000000zzz") == b"00"
        peer.says(image)
        until(lambda: len(server.staged()) == 1)
    until(lambda: not server.staged())
    until(lambda: server.connections == 0)
    assert not server.blob_files()


def test_whoever_hangs_up_while_his_task_waits_has_it_cancelled(server: Server, image: bytes) -> None:
    with Peer(server.address) as peer:
        peer.hears()
        peer.sends_all(image)
        peer.says(b"PRED")
        until(lambda: server.statuses() == [Status.QUEUED])
    until(lambda: server.statuses() == [Status.CANCELLED])


def test_commands_sent_ahead_of_an_answer_are_not_taken_for_a_farewell(
    server: Server, peer: Peer, image: bytes
) -> None:
    peer.sends_all(image)
    peer.says(b"PREDPREDBYE!")
    server.answer(SICK)
    server.answer(WELL)
    assert peer.hears(100) == b"0P0N0"


def test_a_server_that_stops_ends_conversations_and_cancels_what_they_wait_for(
    server: Server, peer: Peer, image: bytes
) -> None:
    peer.sends_all(image)
    peer.says(b"PRED")
    until(lambda: server.statuses() == [Status.QUEUED])
    server.stop()
    assert server.statuses() == [Status.CANCELLED]
    assert not server.staged()
    assert peer.hears() == b""


def test_two_conversations_are_not_crossed(server: Server, peer: Peer, tmp_path: Path) -> None:
    with Peer(server.address) as other:
        other.hears()
        peer.sends_all(xray(tmp_path, 1))
        other.sends_all(xray(tmp_path, 2))
        peer.says(b"PRED")
        until(lambda: len(server.statuses()) == 1)
        other.says(b"PRED")
        until(lambda: len(server.statuses()) == 2)
        first, second = server.claim(), server.claim()
        server.finish(second, report={"classifications": WELL})
        assert other.hears(2) == b"0N"
        server.finish(first, report={"classifications": SICK})
        assert peer.hears(2) == b"0P"


def test_a_probe_before_every_command(tmp_path: Path, image: bytes) -> None:
    with serving(tmp_path, image_socket_probe=True) as server, Peer(server.address) as peer:
        assert peer.hears() == b"?"
        assert peer.asks(b"MODE") == b"0"
        assert peer.asks(b"MYCN", 2) == b"0?"
        assert peer.asks(b"FILE") == b"0"
        assert peer.asks(b"%dzzzzzzzz" % len(image)) == b"0"
        assert peer.asks(image) == b"?"
        peer.says(b"PRED")
        server.answer()
        assert peer.hears(3) == b"0P?"
        assert peer.asks(b"BYE!") == b"0"
        assert peer.is_closed()


def test_silence_ends_a_conversation(tmp_path: Path) -> None:
    """Before a command, within one, within a size, and within a file."""
    with serving(tmp_path, image_socket_idle_s=0.2) as server:
        for said in (b"", b"FIL", b"FILE123", b"FILE123zzzzzzzabc"):
            with Peer(server.address) as peer:
                peer.says(said)
                assert peer.hears(100) in (b"?", b"?0", b"?00")
        until(lambda: server.connections == 0)
        assert not server.staged()


def test_a_drop_now_and_then_does_not_keep_a_file_open_for_ever(tmp_path: Path) -> None:
    with serving(tmp_path, image_socket_file_s=0.5) as server, Peer(server.address) as peer:
        assert peer.asks(b"FILE000001000z", 3) == b"?00"
        ended = threading.Event()

        def drip() -> None:
            while not ended.wait(0.02):
                try:
                    peer.says(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            until(lambda: server.connections == 0)
        finally:
            ended.set()
            thread.join()
        assert not server.staged()


def test_computing_does_not_count_as_silence(tmp_path: Path, image: bytes) -> None:
    with serving(tmp_path, image_socket_idle_s=0.3) as server, Peer(server.address) as peer:
        peer.hears()
        peer.sends_all(image)
        peer.says(b"PRED")
        claim = until(lambda: server.statuses() == [Status.QUEUED] and server.claim())
        peer.socket.settimeout(0.8)
        with pytest.raises(TimeoutError):
            peer.hears()
        peer.socket.settimeout(20)
        server.finish(claim, report={"classifications": SICK})
        assert peer.hears(2) == b"0P"


def test_a_prediction_that_takes_too_long_is_given_up(tmp_path: Path, image: bytes) -> None:
    with serving(tmp_path, image_socket_patience_s=0.1) as server, Peer(server.address) as peer:
        peer.hears()
        peer.sends_all(image)
        assert peer.asks(b"PRED") == b"2"
        assert server.statuses() == [Status.CANCELLED]
        assert peer.asks(b"BYE!") == b"0"


def test_a_busy_server(tmp_path: Path, image: bytes) -> None:
    with serving(tmp_path, queue_limit=1) as server, Peer(server.address) as peer, Peer(server.address) as other:
        for one in (peer, other):
            one.hears()
            one.sends_all(image)
        peer.says(b"PRED")
        until(lambda: server.statuses() == [Status.QUEUED])
        assert other.asks(b"PRED") == b"2"
        server.answer()
        assert peer.hears(2) == b"0P"


def test_a_full_disk(tmp_path: Path) -> None:
    with serving(tmp_path, disk_low_bytes=2**60) as server, Peer(server.address) as peer:
        peer.hears()
        assert peer.asks(b"FILE") + peer.asks(b"1000000zzz") == b"02"
        assert peer.is_closed()


def test_a_full_disk_and_a_small_file(tmp_path: Path) -> None:
    with serving(tmp_path, disk_low_bytes=2**60) as server, Peer(server.address) as peer:
        peer.hears()
        peer.sends_all(xray(tmp_path))
        assert peer.asks(b"PRED") == b"2"
        assert not server.staged()


def test_limits_on_connections(tmp_path: Path) -> None:
    """Who comes too many is closed before the `?`; a place that is left is taken again."""
    with serving(tmp_path, image_socket_connections=3, image_socket_host_connections=2) as server:
        with Peer(server.address) as first, Peer(server.address) as second:
            assert first.hears() + second.hears() == b"??"
            with Peer(server.address) as third:
                assert third.is_closed()
            assert first.asks(b"BYE!") == b"0"
            assert first.is_closed()
        until(lambda: server.connections == 0)
        with Peer(server.address) as again:
            assert again.hears() == b"?"


def token(text: str) -> bytes:
    return b"AUTH" + b"%d" % len(text) + b" " * (10 - len(str(len(text)))) + text.encode()


@pytest.fixture
def made(server: Server) -> str:
    """A token that may submit and read its own."""
    return Tokens(server.database).create("clinic", [Scope.SUBMIT, Scope.READ_OWN])[1]


def test_without_a_token_nothing_but_goodbye(server: Server, made: str, peer: Peer) -> None:
    for command in (b"FILE", b"MODE", b"PRED", b"HASH", b"TASK"):
        assert peer.asks(command) == b"6"
    assert peer.asks(b"BYE!") == b"0"


def test_a_token_lets_in_and_owns_the_task(server: Server, made: str, image: bytes) -> None:
    with Peer(server.address) as peer:
        assert peer.hears() == b"?"
        assert peer.asks(token(made)) == b"0"
        peer.sends_all(image)
        assert predicted(server, peer) == b"0P"
        uid = peer.asks(b"TASK", 33)[1:].decode()
    task = server.store.get(uid)
    assert (task.token, task.dialect, task.model) == ("clinic", "image-socket", "net")
    with server.database.reading() as connection:
        lines = connection.exec_driver_sql("SELECT token, dialect, action FROM audit ORDER BY seq").all()
    assert [tuple(line) for line in lines] == [
        ("clinic", "image-socket", "submitted"),
        ("clinic", "image-socket", "fetched"),
    ]


@pytest.mark.parametrize("wrong", ["ist_0123456789_" + "x" * 32, "", "é", "x" * 4096])
def test_a_wrong_token(server: Server, made: str, peer: Peer, wrong: str) -> None:
    said = wrong.encode()
    assert peer.asks(b"AUTH" + b"%d" % len(said) + b"z" * (10 - len(str(len(said)))) + said) == b"6"
    assert peer.asks(b"FILE") == b"6"
    assert peer.asks(token(made)) == b"0"
    assert peer.asks(b"FILE") == b"0"


@pytest.mark.parametrize("size", [b"zzzzzzzzzz", b"4097zzzzzz", b"9999999999"])
def test_a_token_of_no_or_too_large_a_size(server: Server, made: str, peer: Peer, size: bytes) -> None:
    assert peer.asks(b"AUTH" + size) == b"6"
    assert peer.is_closed()


def test_a_token_that_may_not_submit_or_read(server: Server, made: str, peer: Peer) -> None:
    for name, scopes in (("reader", [Scope.READ_OWN]), ("sender", [Scope.SUBMIT])):
        assert peer.asks(token(Tokens(server.database).create(name, scopes)[1])) == b"6"


def test_a_token_that_is_revoked_ends_its_use_at_once(server: Server, made: str, peer: Peer, image: bytes) -> None:
    assert peer.asks(token(made)) == b"0"
    peer.sends_all(image)
    Tokens(server.database).revoke("clinic")
    assert peer.asks(b"PRED") == b"6"
    assert peer.asks(b"FILE") == b"6"
    assert server.statuses() == []


def test_after_many_wrong_tokens_no_further_one_of_the_kind_is_looked_at(server: Server, made: str, peer: Peer) -> None:
    for _ in range(server.settings.sign_in_limit + 2):
        assert peer.asks(token("ist_0123456789_" + "x" * 32)) == b"6"
    assert peer.asks(token(made)) == b"0"


def test_opened_to_clients_without_a_token(tmp_path: Path, image: bytes) -> None:
    with serving(tmp_path, open="image-socket") as server, Peer(server.address) as peer:
        Tokens(server.database).create("clinic", [Scope.SUBMIT, Scope.READ_OWN])
        assert peer.hears() == b"?"
        peer.sends_all(image)
        assert predicted(server, peer) == b"0P"
        assert server.store.get(peer.asks(b"TASK", 33)[1:].decode()).token == "anonymous"
        assert peer.asks(token("wrong")) == b"6"
        assert peer.asks(b"PRED") == b"6"


def test_nothing_of_the_client_is_logged(
    server: Server, peer: Peer, image: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    peer.sends_all(b"not an image %d" % 1234567)
    assert peer.asks(b"PRED") == b"5"
    peer.sends_all(image)
    assert predicted(server, peer) == b"0P"
    said = "\n".join(
        f"{record.getMessage()} {vars(record)}" for record in caplog.records if "asyncio" not in record.name
    )
    assert "no prediction" in said
    for private in ("127.0.0.1", str(len(image)), "22", "staging"):
        assert f" {private} " not in said.replace(",", " ").replace("'", " ")


def test_a_broken_connection_is_no_error(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer(server.address)
    assert peer.asks(b"FILE100zzzzzzz", 3) == b"?00"
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.socket.close()
    until(lambda: server.connections == 0)
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")]
