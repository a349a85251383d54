"""The conversation of the image socket without a socket: tables, codec, and whatever order clients think of."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from door_support import queued_task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from inference_server.api.image_socket.codec import Code, Command, decode_command, decode_digest, decode_size
from inference_server.api.image_socket.connection import Connection, House
from inference_server.api.image_socket.desk import code_of
from inference_server.api.image_socket.image_file import ImageFile
from inference_server.api.image_socket.limits import Places, allow_files
from inference_server.api.image_socket.models import Choice, letter_of, parse_models
from inference_server.api.image_socket.states import COMMANDS, FIELDS, LENGTHS, NEEDS, Have, State, objection
from inference_server.api.image_socket.wire import GoneError, Wire
from inference_server.errors import (
    InferenceServerError,
    NotAuthorised,
    PredictionError,
    SettingsError,
    all_errors,
)
from inference_server.models.manifest import Manifest
from inference_server.settings import Settings
from inference_server.tasks.caller import LOCAL, Caller
from inference_server.tasks.record import Task

LIMIT_BYTES = 200
IN_MEMORY_BYTES = 20
LETTERS = {b"P": "sick", b"N": "well"}


class FakeDesk:
    """A server in memory; what a file's first byte says decides the prediction."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.valid = {"right"}
        self.is_open = True
        self.staged: set[Path] = set()
        self.count = 0
        self.letters: dict[str, bytes] = {}

    def admit(self, address: str, token: str | None) -> Caller:
        if (token is None and self.is_open) or token in self.valid:
            return LOCAL
        raise NotAuthorised

    def choice(self, code: str) -> Choice | None:
        return Choice("net") if code in ("ENSE", "VGG!") else None

    def stage(self, size_bytes: int) -> Path:
        self.count += 1
        path = self.folder / str(self.count)
        self.staged.add(path)
        return path

    def discard(self, image: Path) -> None:
        image.unlink()
        self.staged.remove(image)

    def digest(self, image: Path | bytes) -> str:
        return hashlib.sha256(content_of(image)).hexdigest()

    def submit(self, caller: Caller, choice: Choice, image: Path | bytes) -> Task:
        self.count += 1
        task = replace(queued_task(), uid=f"{self.count:032x}")
        self.letters[task.uid] = content_of(image)[:1]
        return task

    def answer(self, uid: str, caller: Caller, choice: Choice) -> bytes | PredictionError:
        letter = self.letters[uid]
        return letter if letter in LETTERS else PredictionError()


def content_of(image: Path | bytes) -> bytes:
    return image if isinstance(image, bytes) else image.read_bytes()


class FakeFollower:
    """Every task ends at once."""

    async def found(self, uid: str, look: Any) -> Any:
        return look()


class Client:
    """A connection of which both ends are in memory."""

    def __init__(self, desk: Any, *, probes_each: bool = False) -> None:
        self.loop = asyncio.new_event_loop()
        self.heard = bytearray()
        self.reader = asyncio.StreamReader(loop=self.loop)
        transport = SimpleNamespace(get_write_buffer_size=lambda: 0)
        writer: Any = SimpleNamespace(write=self.heard.extend, transport=transport)
        wire = Wire(self.reader, writer, idle_s=60, file_s=60)
        follower: Any = FakeFollower()
        limits = {"file_limit_bytes": LIMIT_BYTES, "in_memory_bytes": IN_MEMORY_BYTES}
        house = House(desk, follower, _at_once, **limits, patience_s=60, probes_each=probes_each)
        self.task = self.loop.create_task(Connection(house, wire, "10.0.0.1").converse())
        self.turn()

    def turn(self) -> None:
        """Let the connection do all that it can do."""

        async def idle() -> None:
            for _ in range(15):
                await asyncio.sleep(0)

        self.loop.run_until_complete(idle())

    def says(self, *pieces: bytes) -> bytes:
        """Say pieces one after the other, and return all that is heard."""
        for piece in pieces:
            if not self.task.done():
                self.reader.feed_data(piece)
                self.turn()
        return self.takes()

    def takes(self) -> bytes:
        heard = bytes(self.heard)
        self.heard.clear()
        return heard

    @property
    def is_over(self) -> bool:
        return self.task.done()

    def hangs_up(self) -> None:
        self.reader.feed_eof()
        self.turn()
        is_over, why = self.task.done(), self.task.exception() if self.task.done() else None
        self.loop.close()
        assert is_over
        assert why is None or isinstance(why, GoneError)


async def _at_once(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


def padded(number: int) -> bytes:
    return str(number).encode().ljust(10, b"z")


contents = st.builds(bytes.__add__, st.sampled_from([b"P", b"N", b"?"]), st.binary(max_size=40))
cuts = st.lists(st.integers(0, 400), max_size=3)


class AnyOrder(RuleBasedStateMachine):
    """What is heard is what the protocol's page says, whatever is said in whatever pieces and order."""

    @initialize(is_open=st.sampled_from([True, True, False]), probes_each=st.booleans())
    def connect(self, is_open: bool, probes_each: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.desk = FakeDesk(Path(self.folder.name))
        self.desk.is_open = is_open
        self.client = Client(self.desk, probes_each=probes_each)
        self.probe = b"?" if probes_each else b""
        self.admitted, self.token = is_open, None
        self.model = self.file = self.doubt = self.uid = False
        self.content, self.said = b"", 0
        assert self.client.takes() == b"?"
        if is_open:
            self.choose(b"ENSE", [], asks=False)
            self.send(b"P", [], "z")

    def exchange(self, message: bytes, cuts: list[int], answer: bytes, *, ends: bool = False) -> None:
        self.said += 1
        places = sorted({cut % (len(message) + 1) for cut in cuts} | {0, len(message)})
        heard = self.client.says(*(message[a:b] for a, b in itertools.pairwise(places)))
        assert heard == answer + (b"" if ends else self.probe)
        assert self.client.is_over == ends

    def is_on(self) -> bool:
        return not self.client.is_over

    def is_late(self) -> bool:
        """What ends a conversation comes when much has been said, else little would be."""
        return self.is_on() and self.said > 12

    @precondition(is_on)
    @rule(content=contents, cuts=cuts, size=st.sampled_from(["z", "0", " "]))
    def send(self, content: bytes, cuts: list[int], size: str) -> None:
        if not self.admitted:
            self.exchange(b"FILE", cuts, b"6")
            return
        number = str(len(content))
        field = number.rjust(10, size) if size == "0" else number.ljust(10, size)
        self.exchange(b"FILE" + field.encode() + content, cuts, b"00")
        self.file, self.doubt, self.content = True, False, content

    @precondition(lambda self: self.is_late() and self.admitted)
    @rule(size=st.sampled_from([b"zzzzzzzzzz", b"201zzzzzzz", b"9999999999", b"1z1zzzzzzz"]), cuts=cuts)
    def announce_badly(self, size: bytes, cuts: list[int]) -> None:
        self.exchange(b"FILE" + size, cuts, b"02", ends=True)

    @precondition(is_on)
    @rule(code=st.sampled_from([b"ENSE", b"VGG!", b"none", b"\xff\0??"]), cuts=cuts, asks=st.booleans())
    def choose(self, code: bytes, cuts: list[int], asks: bool) -> None:
        if not self.admitted:
            self.exchange(b"MODE", cuts, b"6")
            return
        self.model = code in (b"ENSE", b"VGG!")
        self.exchange(b"MODE" + code, cuts, b"00" if self.model else b"03")
        self.perhaps_predict(asks)

    @precondition(is_on)
    @rule(is_right=st.booleans(), cuts=cuts, asks=st.booleans())
    def compare(self, is_right: bool, cuts: list[int], asks: bool) -> None:
        if not (self.admitted and self.file):
            self.exchange(b"HASH", cuts, b"1" if self.admitted else b"6")
            return
        digest = hashlib.sha256(self.content if is_right else b"!" + self.content).hexdigest()
        self.doubt = not is_right
        self.exchange(b"HASH" + digest.encode(), cuts, b"00" if is_right else b"04")
        self.perhaps_predict(asks)

    @precondition(is_on)
    @rule(cuts=cuts)
    def predict(self, cuts: list[int]) -> None:
        self.exchange(b"PRED", cuts, self.expected_prediction())

    def perhaps_predict(self, asks: bool) -> None:
        if asks:
            self.predict([])

    def expected_prediction(self) -> bytes:
        if not self.admitted:
            return b"6"
        if not (self.model and self.file):
            return b"1"
        if self.doubt:
            return b"4"
        self.admitted = (self.token is None and self.desk.is_open) or self.token in self.desk.valid
        if not self.admitted:
            return b"6"
        self.uid = True
        return b"0" + self.content[:1] if self.content[:1] in LETTERS else b"2"

    @precondition(is_on)
    @rule(token=st.sampled_from(["right", "right", "right", "wrong", ""]), cuts=cuts, asks=st.booleans())
    def authorise(self, token: str, cuts: list[int], asks: bool) -> None:
        self.token, self.admitted = token, token in self.desk.valid
        self.exchange(b"AUTH" + padded(len(token)) + token.encode(), cuts, b"0" if self.admitted else b"6")
        self.perhaps_predict(asks)

    @precondition(is_late)
    @rule()
    def revoke(self) -> None:
        self.desk.valid.clear()

    @precondition(is_on)
    @rule(cuts=cuts)
    def ask_for_the_task(self, cuts: list[int]) -> None:
        if not (self.admitted and self.uid):
            self.exchange(b"TASK", cuts, b"1" if self.admitted else b"6")
            return
        heard = self.client.says(b"TASK")
        assert (heard[:1], len(heard)) == (b"0", 33 + len(self.probe))

    @precondition(is_late)
    @rule(message=st.sampled_from([b"FROB", b"file", b"\0\0\0\0"]), cuts=cuts)
    def say_nonsense(self, message: bytes, cuts: list[int]) -> None:
        self.exchange(message, cuts, b"2", ends=True)

    @precondition(is_late)
    @rule(fourth=st.binary(min_size=1, max_size=1), cuts=cuts)
    def say_goodbye(self, fourth: bytes, cuts: list[int]) -> None:
        self.exchange(b"BYE" + fourth, cuts, b"0", ends=True)

    @precondition(lambda self: self.is_late() and self.admitted)
    @rule(count=st.integers(0, 99))
    def vanish_within_a_file(self, count: int) -> None:
        assert self.client.says(b"FILE" + padded(100) + bytes(count)) == b"00"
        assert len(self.desk.staged) == 1
        self.client.reader.feed_eof()
        self.client.turn()
        assert self.client.is_over

    @precondition(lambda self: not self.is_on())
    @rule()
    def nothing_more_is_heard(self) -> None:
        assert self.client.takes() == b""

    @invariant()
    def nothing_is_left_lying_about(self) -> None:
        if hasattr(self, "client"):
            is_large = self.file and len(self.content) > IN_MEMORY_BYTES
            assert len(self.desk.staged) == (is_large and self.is_on())

    def teardown(self) -> None:
        if hasattr(self, "client"):
            self.client.hangs_up()
            assert not self.desk.staged
            assert not list(self.desk.folder.iterdir())
            self.folder.cleanup()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_noise_ends_in_silence_or_an_answer(noise: bytes, is_open: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        desk = FakeDesk(Path(folder))
        desk.is_open = is_open
        client = Client(desk)
        heard = client.says(noise)
        client.hangs_up()
        assert set(heard) <= set(b"?0123456PN")
        assert not desk.staged


def test_the_tables_know_every_state_and_command() -> None:
    assert set(FIELDS) == set(State) - {State.COMMAND, State.CLOSED}
    assert set(COMMANDS) == {*Command, None}
    assert set(NEEDS) == set(Command)
    assert set(LENGTHS) == set(State) - {State.DATA, State.TOKEN, State.CLOSED}
    reached = {state for rule in (*COMMANDS.values(), *FIELDS.values()) for state in (rule.then, rule.refused)}
    assert reached == set(State)


@pytest.mark.parametrize("have", [frozenset(), frozenset({Have.MODEL, Have.FILE, Have.TASK})])
def test_who_is_nobody_may_say_who_he_is_and_goodbye(have: frozenset[Have]) -> None:
    allowed = {command for command in Command if objection(command, have) is Code.SUCCESS}
    assert allowed == {Command.AUTH, Command.BYE}


@pytest.mark.parametrize(
    ("field", "size"),
    [
        (b"123zzzzzzz", 123),
        (b"0000000007", 7),
        (b"\0\0\xff12\xff\xff\xff\xff\xff", 12),
        (b"9999999999", 9_999_999_999),
        (b"0zzzzzzzzz", 0),
        (b"zzzzzzzzzz", None),
        (b"1 2zzzzzzz", None),
        (b"-" * 10, None),
    ],
)
def test_sizes(field: bytes, size: int | None) -> None:
    assert decode_size(field) == size


def test_commands_and_digests() -> None:
    assert [decode_command(text) for text in (b"FILE", b"BYE\n", b"BYE!", b"BYES")] == [
        Command.FILE,
        Command.BYE,
        Command.BYE,
        Command.BYE,
    ]
    assert decode_command(b"file") is decode_command(b"BY!!") is None
    assert decode_digest(b"AB" * 32) == "ab" * 32
    assert decode_digest(b"g" * 64) is None


def test_every_error_has_a_code() -> None:
    codes = {error.code: code_of(error()) for error in all_errors() if error.__module__ == "inference_server.errors"}
    assert {code for code, answer in codes.items() if answer is Code.NOT_AUTHORISED} == {
        "not_authorised",
        "forbidden",
        "sign_in_limited",
    }
    assert {code for code, answer in codes.items() if answer is Code.INVALID_FILE} == {
        "bad_request",
        "malformed_message",
        "invalid_volume",
        "too_large",
    }
    assert {code for code, answer in codes.items() if answer is Code.INVALID_MODEL} == {"unknown_model"}
    assert code_of(InferenceServerError()) is Code.FAILED


def test_the_limits_of_time_are_the_protocols() -> None:
    fields = Settings.model_fields
    assert (fields["image_socket_idle_s"].default, fields["image_socket_file_s"].default) == (20.0, 300.0)


def test_models_of_the_setting() -> None:
    found = parse_models(" ENSE=both, VGG!=my.model:Opacity of a lung ,")
    assert found == {"ENSE": Choice("both"), "VGG!": Choice("my.model", "Opacity of a lung")}


@pytest.mark.parametrize("text", ["", "ENSE", "ENSE=", "EN=both", "ENSES=both", "ENSE=a,ENSE=b", "ENSE=a:", "E SE=a"])
def test_a_setting_that_names_no_models(text: str) -> None:
    with pytest.raises(SettingsError, match="ENSE=chest-xray-ensemble"):
        parse_models(text)


def manifest(**changes: Any) -> Manifest:
    fixed: dict[str, Any] = {"id": "net", "kind": "classification", "dimensions": 2}
    return Manifest(**{**fixed, "classes": ("normal", "pneumonia"), **changes})


@pytest.mark.parametrize(
    ("classes", "changes", "letter"),
    [
        ({"normal": 0.51, "pneumonia": 0.49}, {}, b"N"),
        ({"normal": 0.49, "pneumonia": 0.51}, {}, b"P"),
        ({"normal": 0.5, "pneumonia": 0.5}, {}, b"P"),
        ({"normal": 0.69, "pneumonia": 0.31}, {"threshold": 0.3}, b"P"),
        ({"normal": 0.31, "pneumonia": 0.69}, {"threshold": 0.7}, b"N"),
        ({"normal": 0.3, "Pneumonia": 0.4, "other": 0.3}, {}, b"P"),
        ({"normal": 0.5, "pneumonia": 0.4, "other": 0.1}, {}, b"N"),
    ],
)
def test_letters(classes: dict[str, float], changes: dict[str, Any], letter: bytes) -> None:
    assert letter_of(classes, Choice("net"), manifest(**changes)) == letter


def test_a_result_without_the_class_is_no_answer() -> None:
    with pytest.raises(PredictionError):
        letter_of({"cat": 1.0}, Choice("net"), manifest())


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"dimensions": 3}, False),
        ({"classes": ("cat", "dog")}, False),
        ({"kind": "segmentation", "classes": ()}, False),
        ({"channels": ({"name": "front"}, {"name": "side"})}, False),
        ({"channels": ({"name": "front"}, {"name": "side", "required": False})}, True),
    ],
)
def test_models_that_fit(changes: dict[str, Any], fits: bool) -> None:
    assert Choice("net").fits(manifest(**changes)) is fits


def test_places() -> None:
    places = Places(in_all=3, per_host=2)
    assert [places.take(host) for host in "aaabb"] == [True, True, False, True, False]
    places.free("a")
    assert places.taken == 2
    assert places.take("b")
    assert not places.take("c")


def test_more_connections_than_the_system_opens_files_for_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 4096))
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.setrlimit", lambda _, limits: raised.append(limits))
    allow_files(100)
    assert not raised
    allow_files(900)
    assert raised == [(4 * 900 + 128, 4096)]
    with pytest.raises(SettingsError, match="the system allows 4096"):
        allow_files(1000)


def test_a_disk_that_refuses_a_piece_is_told_by_the_prediction() -> None:
    file = ImageFile(100_000, Path("/dev/full"))
    for _ in range(4):
        file.write(bytes(40_000))
    file.close()
    file.compare(equal=True)
    assert file.doubt is Code.FAILED
