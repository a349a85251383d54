"""Where a conversation is, and where each message leads: tables, without a socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from inference_server.api.image_socket.codec import (
    COMMAND_BYTES,
    DIGEST_BYTES,
    MODEL_BYTES,
    SIZE_BYTES,
    Code,
    Command,
)


class State(Enum):
    """What the server waits for."""

    COMMAND = auto()
    SIZE = auto()
    DATA = auto()
    MODEL = auto()
    DIGEST = auto()
    TOKEN_SIZE = auto()
    TOKEN = auto()
    CLOSED = auto()
    """Nothing: the connection ends."""


LENGTHS: Mapping[State, int] = {
    State.COMMAND: COMMAND_BYTES,
    State.SIZE: SIZE_BYTES,
    State.MODEL: MODEL_BYTES,
    State.DIGEST: DIGEST_BYTES,
    State.TOKEN_SIZE: SIZE_BYTES,
}
"""Bytes of what is waited for; file and token are as long as was said before."""


@dataclass(frozen=True)
class Rule:
    """What follows a message: the state after success, the one after any other code, and whether success is silent."""

    then: State
    refused: State
    silent: bool = False

    def follow(self, code: Code) -> tuple[bytes, State]:
        """Return what is answered with a code, and the next state."""
        if code is Code.SUCCESS:
            return b"" if self.silent else code.sign, self.then
        return code.sign, self.refused


COMMANDS: Mapping[Command | None, Rule] = {
    Command.FILE: Rule(State.SIZE, State.COMMAND),
    Command.MODE: Rule(State.MODEL, State.COMMAND),
    Command.PRED: Rule(State.COMMAND, State.COMMAND),
    Command.HASH: Rule(State.DIGEST, State.COMMAND),
    Command.AUTH: Rule(State.TOKEN_SIZE, State.COMMAND, silent=True),
    Command.TASK: Rule(State.COMMAND, State.COMMAND),
    Command.BYE: Rule(State.CLOSED, State.CLOSED),
    None: Rule(State.CLOSED, State.CLOSED),
}
FIELDS: Mapping[State, Rule] = {
    State.SIZE: Rule(State.DATA, State.CLOSED),
    State.DATA: Rule(State.COMMAND, State.COMMAND, silent=True),
    State.MODEL: Rule(State.COMMAND, State.COMMAND),
    State.DIGEST: Rule(State.COMMAND, State.COMMAND),
    State.TOKEN_SIZE: Rule(State.TOKEN, State.CLOSED, silent=True),
    State.TOKEN: Rule(State.COMMAND, State.COMMAND),
}


class Have(Enum):
    """What a command may need, in the order in which its lack is told, and the code that tells it."""

    CALLER = Code.NOT_AUTHORISED, "caller"
    MODEL = Code.NOT_SENT, "model"
    FILE = Code.NOT_SENT, "file"
    TASK = Code.NOT_SENT, "task"

    @property
    def lacking(self) -> Code:
        """The code that tells of its lack."""
        return self.value[0]


NEEDS: Mapping[Command | None, tuple[Have, ...]] = {
    Command.FILE: (Have.CALLER,),
    Command.MODE: (Have.CALLER,),
    Command.PRED: (Have.CALLER, Have.MODEL, Have.FILE),
    Command.HASH: (Have.CALLER, Have.FILE),
    Command.TASK: (Have.CALLER, Have.TASK),
    Command.AUTH: (),
    Command.BYE: (),
}


def objection(command: Command | None, held: frozenset[Have]) -> Code:
    """Return why a command cannot be followed by one who has this much, or success. None is an unknown command."""
    if command is None:
        return Code.FAILED
    return next((need.lacking for need in NEEDS[command] if need not in held), Code.SUCCESS)
