"""One conversation: messages in, answers out, and what has to be done between them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from inference_server.api.image_socket.codec import (
    DIGEST_BYTES,
    MODEL_BYTES,
    PROBE,
    SIZE_BYTES,
    TOKEN_LIMIT_BYTES,
    Code,
    Command,
    decode_command,
    decode_digest,
    decode_model,
    decode_size,
    decode_token,
)
from inference_server.api.image_socket.desk import Desk, code_of
from inference_server.api.image_socket.follower import Follower, Run
from inference_server.api.image_socket.image_file import ImageFile
from inference_server.api.image_socket.models import Choice
from inference_server.api.image_socket.states import COMMANDS, FIELDS, LENGTHS, Have, State, objection
from inference_server.api.image_socket.wire import GoneError, Wire
from inference_server.errors import InferenceServerError, StorageFull, TimedOut
from inference_server.tasks.caller import Caller
from inference_server.tasks.record import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class House:
    """What all connections share.

    Attributes:
        desk: does what a client asks for.
        follower: waits for tasks.
        run: calls the desk, which blocks.
        file_limit_bytes: largest file.
        in_memory_bytes: largest file that is kept in memory, where it costs the least.
        patience_s: longest wait for a prediction.
        probes_each: whether every command is asked for with a probe, or the first one only.
    """

    desk: Desk
    follower: Follower
    run: Run
    file_limit_bytes: int
    in_memory_bytes: int
    patience_s: float
    probes_each: bool = False


class Connection:
    """A conversation with one client. The client's image is gone when `converse` ends, however it does.

    Args:
        house: what is shared with other conversations.
        wire: to the client.
        address: the client's.
    """

    def __init__(self, house: House, wire: Wire, address: str) -> None:
        self._house = house
        self._wire = wire
        self._address = address
        self._state = State.COMMAND
        self._token: str | None = None
        self._caller: Caller | None = None
        self._choice: Choice | None = None
        self._image: ImageFile | None = None
        self._task: Task | None = None
        self._announced = 0
        self._fields: Mapping[State, Callable[[], Awaitable[Code]]] = {
            State.SIZE: self._begin_file,
            State.DATA: self._receive,
            State.MODEL: self._choose,
            State.DIGEST: self._compare,
            State.TOKEN_SIZE: self._expect_token,
            State.TOKEN: self._identify,
        }

    async def converse(self) -> None:
        """Answer until the client says goodbye or something that ends the conversation.

        Raises:
            GoneError, OSError: the client is gone.
            TimeoutError: it was silent for too long.
        """
        try:
            await self._wire.send(PROBE)
            await self._admit(None)
            await self._answer_all()
        finally:
            self._drop_image()

    async def _answer_all(self) -> None:
        while self._state is not State.CLOSED:
            if self._state is State.COMMAND:
                answer = await self._command()
            else:
                answer, self._state = FIELDS[self._state].follow(await self._fields[self._state]())
            is_asked = self._house.probes_each and self._state is State.COMMAND
            await self._wire.send(answer + (PROBE if is_asked else b""))

    async def _command(self) -> bytes:
        command = decode_command(await self._wire.exactly(LENGTHS[State.COMMAND]))
        code, more = objection(command, self._held()), b""
        if code is Code.SUCCESS and command is Command.PRED:
            code, more = await self._predict()
        elif code is Code.SUCCESS and command is Command.TASK and self._task:
            more = self._task.uid.encode()
        elif code is Code.SUCCESS and command is Command.FILE:
            self._drop_image()
        answer, self._state = COMMANDS[command].follow(code)
        return answer + more

    def _held(self) -> frozenset[Have]:
        held = {Have.CALLER: self._caller, Have.MODEL: self._choice, Have.FILE: self._image, Have.TASK: self._task}
        return frozenset(have for have, held_one in held.items() if held_one is not None)

    async def _begin_file(self) -> Code:
        size_bytes = decode_size(await self._wire.exactly(SIZE_BYTES))
        if size_bytes is None or size_bytes > self._house.file_limit_bytes:
            return Code.FAILED
        if size_bytes <= self._house.in_memory_bytes:
            self._image = ImageFile(size_bytes)
            return Code.SUCCESS
        try:
            self._image = ImageFile(size_bytes, await self._house.run(self._house.desk.stage, size_bytes))
        except StorageFull as error:
            return code_of(error)
        return Code.SUCCESS

    async def _receive(self) -> Code:
        assert self._image, "a size came before"
        await self._wire.copy(self._image.size_bytes, self._image.write)
        self._image.close()
        return Code.SUCCESS

    async def _choose(self) -> Code:
        code = decode_model(await self._wire.exactly(MODEL_BYTES))
        self._choice = await self._house.run(self._house.desk.choice, code)
        return Code.INVALID_MODEL if self._choice is None else Code.SUCCESS

    async def _compare(self) -> Code:
        said = decode_digest(await self._wire.exactly(DIGEST_BYTES))
        assert self._image, "without a file no check sum is asked for"
        equal = said == await self._house.run(self._house.desk.digest, self._image.source)
        self._image.compare(equal=equal)
        return Code.SUCCESS if equal else Code.MISMATCH

    async def _expect_token(self) -> Code:
        size_bytes = decode_size(await self._wire.exactly(SIZE_BYTES))
        if size_bytes is None or size_bytes > TOKEN_LIMIT_BYTES:
            return Code.NOT_AUTHORISED
        self._announced = size_bytes
        return Code.SUCCESS

    async def _identify(self) -> Code:
        return await self._admit(decode_token(await self._wire.exactly(self._announced)))

    async def _admit(self, token: str | None) -> Code:
        self._token, self._caller = token, None
        try:
            self._caller = await self._house.run(self._house.desk.admit, self._address, token)
        except InferenceServerError as error:
            return code_of(error)
        return Code.SUCCESS

    async def _predict(self) -> tuple[Code, bytes]:
        assert self._image, "PRED needs it"
        assert self._choice, "PRED needs it"
        if self._image.doubt is not Code.SUCCESS:
            return self._image.doubt, b""
        try:
            return Code.SUCCESS, await self._letter(self._choice, self._image)
        except InferenceServerError as error:
            task = self._task.uid if self._task else None
            log.info("no prediction", extra={"task": task, "code": error.code})
            return code_of(error), b""

    async def _letter(self, choice: Choice, image: ImageFile) -> bytes:
        self._task = None
        self._task = await self._house.run(self._submit, choice, image)
        answer = await self._awaited(self._task, choice)
        if isinstance(answer, InferenceServerError):
            raise answer
        return answer

    def _submit(self, choice: Choice, image: ImageFile) -> Task:
        """Submit a task, for a client that is still admitted: a token may be revoked at any time. This blocks."""
        desk, self._caller = self._house.desk, None
        self._caller = desk.admit(self._address, self._token)
        return desk.submit(self._caller, choice, image.source)

    async def _awaited(self, task: Task, choice: Choice) -> bytes | InferenceServerError:
        """Return what a task ended with; one that nobody waits for any more is cancelled."""
        desk, caller = self._house.desk, self._caller
        assert caller, "somebody submitted it"
        end: asyncio.Task[bytes | InferenceServerError] = asyncio.create_task(
            self._house.follower.found(task.uid, partial(desk.answer, task.uid, caller, choice))
        )
        gone = asyncio.create_task(self._wire.hung_up())
        try:
            await asyncio.wait({end, gone}, timeout=self._house.patience_s, return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                return end.result()
            if gone.done():
                raise GoneError
            raise TimedOut
        finally:
            has_ended = end.done()
            await _cancelled(end, gone)
            if not has_ended:
                await self._house.run(desk.drop, task, caller)

    def _drop_image(self) -> None:
        if self._image:
            self._image.close()
            if self._image.path:
                self._house.desk.discard(self._image.path)
            self._image = None


async def _cancelled(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, InferenceServerError):
            await task
