"""Access tokens: made once, shown once, stored as digests.

A token reads ``ist_<id>_<secret>``. The id finds its record. The secret has 192 random bits, so that a plain SHA-256 of
it can be stored: there is nothing to guess that a slow digest would protect.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, bindparam, exists, func, insert, or_, select, update

from inference_server.errors import BadRequest, NotAuthorised
from inference_server.tasks.caller import BUILT_IN_NAMES, Caller, Scope
from inference_server.tasks.database import Database
from inference_server.tasks.schema import tokens

ID_BYTES = 5
SECRET_BYTES = 24
_SHAPE = re.compile(r"ist_([0-9a-f]{10})_([A-Za-z0-9_-]{32})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

_IS_VALID = (
    tokens.c.revoked_at.is_(None),
    or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > bindparam("at")),
)
_FIND = select(tokens).where(tokens.c.id == bindparam("the_id"))
_ANY = select(exists().select_from(tokens))
_TAKEN = select(func.count()).select_from(tokens).where(tokens.c.name == bindparam("the_name"), *_IS_VALID)
_REVOKE = (
    update(tokens)
    .where(or_(tokens.c.name == bindparam("the_name"), tokens.c.id == bindparam("the_name")))
    .where(tokens.c.revoked_at.is_(None))
    .values(revoked_at=bindparam("at"))
    .returning(tokens)
)


@dataclass(frozen=True)
class Token:
    """The record of a token. Times are seconds since the epoch."""

    id: str
    name: str
    scopes: frozenset[Scope]
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    digest: str = field(default="", repr=False)

    def state(self, now: float) -> str:
        """Return `valid`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "valid"

    def matches(self, text: str) -> bool:
        """Whether a text is this token, found out in a time that tells nothing of how much of it is right."""
        shape = _SHAPE.fullmatch(text)
        return shape is not None and hmac.compare_digest(_digest(shape[2]), self.digest)


class Tokens:
    """Records of tokens. None is ever removed, so that a name in the audit log stays explained.

    Every method raises `StoreUnavailable` if the database cannot be reached.

    Args:
        database: migrated.
        clock: seconds since the epoch.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._is_any = False

    def create(self, name: str, scopes: Iterable[Scope], *, lifetime_s: float | None = None) -> tuple[Token, str]:
        """Make a token.

        Args:
            name: who bears it; the tasks belong to the name. It may be that of a token that is not valid any more,
                whose tasks are then the new one's.
            scopes: what it allows; at least one.
            lifetime_s: how long it is valid; None is for ever.

        Returns:
            Its record, and the token itself, which is stored nowhere.

        Raises:
            BadRequest: the name cannot be used or a valid token has it, or there is no scope.
        """
        now = self._clock()
        _refuse_name(name)
        if not (granted := frozenset(scopes)):
            raise BadRequest("A token needs at least one scope.", field="scopes")
        token_id, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
        expires_at = None if lifetime_s is None else now + lifetime_s
        made = Token(token_id, name, granted, now, expires_at, digest=_digest(secret))
        self._add(made, now)
        return made, f"ist_{token_id}_{secret}"

    def revoke(self, name_or_id: str) -> list[Token]:
        """End the validity of the tokens of a name, or of the one of an id; return those that this changed."""
        values = {"the_name": name_or_id, "at": self._clock()}
        with self._database.writing() as connection:
            return [to_token(row) for row in connection.execute(_REVOKE, values)]

    def all(self) -> list[Token]:
        """Return every token that was ever made, the oldest first."""
        with self._database.reading() as connection:
            return [to_token(row) for row in connection.execute(select(tokens).order_by(tokens.c.created_at))]

    def any(self) -> bool:
        """Whether a token was ever made, valid still or not."""
        if not self._is_any:
            with self._database.reading() as connection:
                self._is_any = bool(connection.scalar(_ANY))
        return self._is_any

    def find(self, text: str) -> Token | None:
        """Return the record of the token that a text claims to be; `bearer` finds out whether it is."""
        if (shape := _SHAPE.fullmatch(text)) is None:
            return None
        with self._database.reading() as connection:
            row = connection.execute(_FIND, {"the_id": shape[1]}).one_or_none()
        return to_token(row) if row is not None else None

    def bearer(self, text: str, found: Token | None) -> Caller:
        """Return who bears a token.

        Args:
            text: what was presented.
            found: what `find` returned for it.

        Raises:
            NotAuthorised: it is not valid. Whether it was once is told to its bearer alone.
        """
        if found is None or not found.matches(text):
            raise NotAuthorised("The access token is not valid. Check that all of it was copied.")
        return self.admitted(found)

    def admitted(self, found: Token) -> Caller:
        """Return who bears a token that was proven to be his.

        Raises:
            NotAuthorised: it is not valid any more.
        """
        if (state := found.state(self._clock())) != "valid":
            raise NotAuthorised(f"The access token is {state}. Ask the operator of the server for another one.")
        return Caller(found.name, found.scopes)

    def _add(self, made: Token, now: float) -> None:
        values = {**vars(made), "scopes": ",".join(sorted(made.scopes))}
        with self._database.writing() as connection:
            if connection.scalar(_TAKEN, {"the_name": made.name, "at": now}):
                raise BadRequest(
                    f"There is a valid token '{made.name}' already. Revoke it, or choose another name.", field="name"
                )
            connection.execute(insert(tokens), values)


def _refuse_name(name: str) -> None:
    if name in BUILT_IN_NAMES:
        raise BadRequest(f"The name '{name}' is one of the server's own. Choose another one.", field="name")
    if not _NAME.fullmatch(name):
        raise BadRequest("A token's name has up to 64 letters, digits, dots, dashes, underlines and @.", field="name")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def to_token(row: Row[Any]) -> Token:
    """Return the token in a row of all its columns."""
    values = dict(row._mapping)
    return Token(**{**values, "scopes": frozenset(Scope(scope) for scope in values["scopes"].split(","))})
