"""The bytes of one connection, in whatever pieces they come, within limits of time."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from contextlib import suppress

STEP_BYTES = 64 * 1024
AHEAD_LIMIT_BYTES = 64 * 1024
LINGER_S = 2.0


class GoneError(Exception):
    """The client has ended the connection."""


class Wire:
    """A connection.

    Every method raises `GoneError` or `OSError` if the client is gone, and `TimeoutError` if it takes too long.

    Args:
        reader: of its bytes.
        writer: to it.
        idle_s: longest time until a whole message has come, or the next byte of a file, or until the client has taken
            what was sent.
        file_s: longest time of a whole file.
    """

    def __init__(self, reader: StreamReader, writer: StreamWriter, *, idle_s: float, file_s: float) -> None:
        self._reader = reader
        self._writer = writer
        self._idle_s = idle_s
        self._file_s = file_s
        self._ahead = bytearray()
        """What has come already and was not asked for yet."""

    async def exactly(self, count: int) -> bytes:
        """Return the next so many bytes."""
        if len(self._ahead) < count:
            async with asyncio.timeout(self._idle_s):
                while len(self._ahead) < count:
                    self._ahead += await self._more()
        return self._take(count)

    async def copy(self, count: int, write: Callable[[bytes], object]) -> None:
        """Hand on the next so many bytes in pieces, as they come."""
        async with asyncio.timeout(self._file_s):
            while count:
                async with asyncio.timeout(self._idle_s):
                    if not self._ahead:
                        self._ahead += await self._more(count)
                piece = self._take(count)
                count -= len(piece)
                write(piece)

    async def send(self, message: bytes) -> None:
        """Send bytes."""
        if message:
            self._writer.write(message)
            if self._writer.transport.get_write_buffer_size():
                async with asyncio.timeout(self._idle_s):
                    await self._writer.drain()

    async def hung_up(self) -> None:
        """Return once the client is gone; never for one that says more and more meanwhile."""
        with suppress(GoneError, OSError):
            while len(self._ahead) < AHEAD_LIMIT_BYTES:
                self._ahead += await self._more()
            await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Say that nothing more comes, and read on for a moment, as TLS does by itself.

        Closed while the client still sends, the connection would break before it has read the last answer.
        """
        with suppress(GoneError, OSError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                    await self._drop_rest()
                self._writer.close()
                await self._writer.wait_closed()

    async def _drop_rest(self) -> None:
        with suppress(GoneError):
            while True:
                await self._more()

    async def _more(self, most: int = STEP_BYTES) -> bytes:
        if piece := await self._reader.read(min(most, STEP_BYTES)):
            return piece
        raise GoneError

    def _take(self, most: int) -> bytes:
        taken = bytes(self._ahead[:most])
        del self._ahead[:most]
        return taken
