"""Who asks something of the server, and what of which task that lets them do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from inference_server.tasks.record import ANONYMOUS as ANONYMOUS_NAME


class Owned(Protocol):
    """What belongs to somebody: a task, or a ticket."""

    @property
    def token(self) -> str:
        """The name of the access token that made it."""


class Scope(StrEnum):
    """A right that a token carries."""

    SUBMIT = "submit"
    """Send cases; cancel, retry and delete one's own tasks."""
    READ_OWN = "read-own"
    """Follow one's own tasks and fetch their results."""
    READ_ALL = "read-all"
    """The same with the tasks of everybody."""
    URGENT = "urgent"
    """Submit tasks that go before those of everybody else; beside `submit`."""
    OPERATE = "operate"
    """Follow, cancel, retry and delete the tasks of everybody; their results are not part of it."""


ALL_SCOPES = frozenset(Scope)
READING = (Scope.READ_OWN, Scope.READ_ALL, Scope.OPERATE)
"""Each of these lets its bearer follow some tasks."""

STEERING = (Scope.SUBMIT, Scope.OPERATE)
"""Each of these lets its bearer cancel, retry and delete some tasks."""


@dataclass(frozen=True)
class Caller:
    """Who asks, and through which door.

    Attributes:
        name: the token's name. A task belongs to the name that submitted it.
        scopes: what the token allows.
        dialect: the door that the request came through.
    """

    name: str
    scopes: frozenset[Scope]
    dialect: str = ""

    @property
    def sees_all(self) -> bool:
        """Whether tasks of others may be followed."""
        return bool(self.scopes & {Scope.READ_ALL, Scope.OPERATE})

    def may_see(self, task: Owned) -> bool:
        """Whether a task may be followed. To whom it may not, it does not exist."""
        return self.sees_all or self._owns(task, Scope.READ_OWN)

    def may_fetch(self, task: Owned) -> bool:
        """Whether a task's result may be fetched."""
        return Scope.READ_ALL in self.scopes or self._owns(task, Scope.READ_OWN)

    def may_steer(self, task: Owned) -> bool:
        """Whether a task may be cancelled, retried and deleted."""
        return Scope.OPERATE in self.scopes or self._owns(task, Scope.SUBMIT)

    def _owns(self, task: Owned, scope: Scope) -> bool:
        return scope in self.scopes and task.token == self.name


ANONYMOUS = Caller(ANONYMOUS_NAME, frozenset({Scope.SUBMIT, Scope.READ_OWN}))
"""Whoever comes without a token through a door that is open to such clients."""
LOCAL = Caller("local", ALL_SCOPES)
"""Whoever works on the server's own machine while no token has ever been made."""
NO_AUTH = Caller("no-auth", ALL_SCOPES)
"""Whoever comes without a token to a server that was told to check none."""
SERVER = Caller("server", ALL_SCOPES)
"""The server itself."""
BUILT_IN_NAMES = frozenset(caller.name for caller in (ANONYMOUS, LOCAL, NO_AUTH, SERVER))
