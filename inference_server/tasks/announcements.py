"""The records of the TOMAAT announcement service: keys, stored as digests, and what was announced with them."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, bindparam, delete, exists, insert, or_, select, update

from inference_server.errors import BadRequest, NotAuthorised
from inference_server.tasks.database import Database
from inference_server.tasks.schema import announced, announcement_keys

LIFETIME_S = 3600.0
"""How long an announcement counts."""
KEY_PREFIX = "isk_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

_VALID = announcement_keys.c.revoked_at.is_(None)
_SID = (
    select(announcement_keys.c.sid)
    .where(announcement_keys.c.digest == bindparam("the_digest"), _VALID)
    .with_for_update()  # announcements with one key come one after the other
)
_TAKEN = select(exists().where(announcement_keys.c.name == bindparam("the_name"), _VALID))
_REVOKE = (
    update(announcement_keys)
    .where(or_(announcement_keys.c.name == bindparam("the_name"), announcement_keys.c.sid == bindparam("the_name")))
    .where(_VALID)
    .values(revoked_at=bindparam("at"))
    .returning(announcement_keys)
)
_FORGET = delete(announced).where(
    or_(announced.c.creation_time <= bindparam("before"), announced.c.sid == bindparam("the_sid"))
)
_LIVE = (
    select(announced)
    .where(announced.c.creation_time > bindparam("before"))
    .order_by(announced.c.creation_time, announced.c.sid)
)


@dataclass(frozen=True)
class Key:
    """The record of a key. `sid` is the public identifier of what is announced with it."""

    sid: str
    name: str
    created_at: float
    revoked_at: float | None = None


@dataclass(frozen=True)
class Service:
    """A service as it announces itself."""

    prediction_url: str
    interface_url: str
    name: str
    modality: str
    anatomy: str
    task: str
    description: str


@dataclass(frozen=True)
class Announced:
    """A service that was announced, under which public identifier and when (seconds since the epoch)."""

    sid: str
    service: Service
    creation_time: float


class Announcements:
    """Keys and announced services. Every method raises `StoreUnavailable` if the database cannot be reached.

    Args:
        database: migrated.
        clock: seconds since the epoch.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def create_key(self, name: str) -> tuple[Key, str]:
        """Make a key for one service.

        Args:
            name: whose it is; for the operator alone.

        Returns:
            Its record, and the key itself, which is stored nowhere.

        Raises:
            BadRequest: the name cannot be used, or a valid key has it.
        """
        if not _NAME.fullmatch(name):
            raise BadRequest("A key's name has up to 64 letters, digits, dots, dashes, underlines and @.", field="name")
        text = KEY_PREFIX + secrets.token_urlsafe(24)
        made = Key(secrets.token_hex(5), name, self._clock())
        with self._database.writing() as connection:
            if connection.scalar(_TAKEN, {"the_name": name}):
                raise BadRequest(f"There is a key '{name}' already. Revoke it, or choose another name.", field="name")
            connection.execute(insert(announcement_keys), {**vars(made), "digest": _digest(text)})
        return made, text

    def revoke_key(self, name_or_sid: str) -> list[Key]:
        """End the validity of a key, and remove what was announced with it; return the keys that this changed."""
        at = self._clock()
        with self._database.writing() as connection:
            revoked = [_key(row) for row in connection.execute(_REVOKE, {"the_name": name_or_sid, "at": at})]
            for key in revoked:
                connection.execute(_FORGET, {"the_sid": key.sid, "before": at - LIFETIME_S})
        return revoked

    def all_keys(self) -> list[Key]:
        """Return every key that was ever made, the oldest first."""
        query = select(announcement_keys).order_by(announcement_keys.c.created_at, announcement_keys.c.name)
        with self._database.reading() as connection:
            return [_key(row) for row in connection.execute(query)]

    def announce(self, key: str, service: Service) -> Announced:
        """Note a service, in place of what was announced with the same key before.

        Raises:
            NotAuthorised: the key is unknown or was revoked.
        """
        at = self._clock()
        with self._database.writing() as connection:
            sid = connection.scalar(_SID, {"the_digest": _digest(key)})
            if sid is None:
                raise NotAuthorised("The api_key is not known here. Ask the operator of this service for one.")
            connection.execute(_FORGET, {"the_sid": sid, "before": at - LIFETIME_S})
            connection.execute(insert(announced), {"sid": sid, **vars(service), "creation_time": at})
        return Announced(sid, service, at)

    def services(self) -> list[Announced]:
        """Return the services whose announcements count still, the oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(_LIVE, {"before": self._clock() - LIFETIME_S}).all()
        return [_announced(row) for row in rows]


def _digest(key: str) -> str:
    # A key has 192 random bits: there is nothing to guess that a slow digest would protect.
    return hashlib.sha256(key.encode()).hexdigest()


def _key(row: Row[Any]) -> Key:
    return Key(row.sid, row.name, row.created_at, row.revoked_at)


def _announced(row: Row[Any]) -> Announced:
    values = dict(row._mapping)
    return Announced(values.pop("sid"), creation_time=values.pop("creation_time"), service=Service(**values))
