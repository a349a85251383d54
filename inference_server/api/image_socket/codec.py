"""What goes over the wire: commands, fields of fixed lengths, and return codes. All of it is ASCII."""

from __future__ import annotations

import re
from enum import Enum, IntEnum

PROBE = b"?"
"""What the server sends to say that it waits for a command."""
PNEUMONIA, NORMAL = b"P", b"N"

COMMAND_BYTES = 4
SIZE_BYTES = 10
MODEL_BYTES = 4
DIGEST_BYTES = 64
TOKEN_LIMIT_BYTES = 4096


class Command(Enum):
    """What a client asks for. Of the last one the first three bytes count."""

    FILE = b"FILE"
    MODE = b"MODE"
    PRED = b"PRED"
    HASH = b"HASH"
    AUTH = b"AUTH"
    TASK = b"TASK"
    BYE = b"BYE"


class Code(IntEnum):
    """What the server answers."""

    SUCCESS = 0
    NOT_SENT = 1
    """No model was chosen or no image file sent."""
    FAILED = 2
    """The prediction could not be made: busy, failure of the model, time-out, file too large."""
    INVALID_MODEL = 3
    MISMATCH = 4
    """The check sum is another one."""
    INVALID_FILE = 5
    NOT_AUTHORISED = 6

    @property
    def sign(self) -> bytes:
        """The code as it is sent."""
        return b"%d" % self


_COMMANDS = {command.value: command for command in Command if command is not Command.BYE}
_NUMBER = re.compile(rb"[^0-9]*([0-9]+)[^0-9]*")
_DIGEST = re.compile(rb"[0-9A-Fa-f]{64}")


def decode_command(message: bytes) -> Command | None:
    """Return the command of a message of 4 bytes, None for one that there is not."""
    return Command.BYE if message.startswith(Command.BYE.value) else _COMMANDS.get(message)


def decode_size(message: bytes) -> int | None:
    """Return the number in a field of 10 bytes, None where there is none or more than one.

    Whatever is no digit is padding, on either side.
    """
    found = _NUMBER.fullmatch(message)
    return int(found[1]) if found else None


def decode_model(message: bytes) -> str:
    """Return a model's code; one that is not ASCII is the code of no model."""
    return message.decode("ascii", errors="replace")


def decode_digest(message: bytes) -> str | None:
    """Return a SHA-256 digest in lower case, None where the message is none."""
    return message.decode().lower() if _DIGEST.fullmatch(message) else None


def decode_token(message: bytes) -> str:
    """Return an access token; one that is not ASCII is nobody's."""
    return message.decode("ascii", errors="replace")
