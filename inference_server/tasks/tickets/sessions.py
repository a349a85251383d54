"""Signing in: tokens that count once, and sessions, both stored as digests.

A session reads ``iss_<id>_<secret>``: another secret of one access token, which ends with it. Who comes without an
access token, where that is allowed, needs none: what his client keeps is random and proves nothing.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import bindparam, delete, insert, or_, select

from inference_server.errors import NotAuthorised
from inference_server.tasks.caller import BUILT_IN_NAMES, Caller
from inference_server.tasks.database import Database
from inference_server.tasks.schema import tokens
from inference_server.tasks.tickets.tables import sessions, sign_ins
from inference_server.tasks.tokens import Token, Tokens, to_token

SIGN_IN_S = 900.0
"""How long a token for signing in is good for."""
SIGN_IN_BYTES = 20
_SESSION = re.compile(r"iss_([0-9a-f]{10})_([A-Za-z0-9_-]{32})")
_WRONG = "The token is wrong, was used, or is too old. The page /token of this server gives another one."

_BEARER = select(tokens).where(
    tokens.c.name == bindparam("the_name"),
    tokens.c.revoked_at.is_(None),
    or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > bindparam("at")),
)
_REDEEM = delete(sign_ins).where(sign_ins.c.digest == bindparam("the_digest")).returning(*sign_ins.c)
_FIND = (
    select(tokens)
    .join(sessions, sessions.c.token_id == tokens.c.id)
    .where(sessions.c.id == bindparam("the_id"), sessions.c.digest == bindparam("the_digest"))
    .where(sessions.c.expires_at > bindparam("at"))
)


@dataclass(frozen=True)
class SignIn:
    """Whose token for signing in it was. `token_id` is that of the access token, None of a built-in caller."""

    name: str
    token_id: str | None


class Sessions:
    """Records of sign-ins and sessions. Every method raises `StoreUnavailable` if the database cannot be reached.

    Args:
        database: migrated.
        lifetime_s: how long a session lasts.
        clock: seconds since the epoch.
    """

    def __init__(self, database: Database, *, lifetime_s: float, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._lifetime_s = lifetime_s
        self._clock = clock

    def offer(self, caller: Caller) -> str:
        """Return 40 characters with which the caller's client can sign in once, within a quarter of an hour.

        Raises:
            NotAuthorised: the caller's access token has ended meanwhile.
        """
        text, at = secrets.token_hex(SIGN_IN_BYTES), self._clock()
        with self._database.writing() as connection:
            row = connection.execute(_BEARER, {"the_name": caller.name, "at": at}).first()
            if row is None and caller.name not in BUILT_IN_NAMES:
                raise NotAuthorised("The access token has ended. Ask the operator of the server for another one.")
            who = {"name": caller.name, "token_id": row.id if row is not None else None}
            connection.execute(insert(sign_ins), {**who, "digest": _digest(text), "expires_at": at + SIGN_IN_S})
        return text

    def redeem(self, text: str) -> SignIn:
        """Use up a token for signing in; return whose it was.

        Raises:
            NotAuthorised: it is wrong, was used, or is too old.
        """
        with self._database.writing() as connection:
            row = connection.execute(_REDEEM, {"the_digest": _digest(text)}).one_or_none()
        if row is None or row.expires_at <= self._clock():
            raise NotAuthorised(_WRONG)
        return SignIn(row.name, row.token_id)

    def open(self, token_id: str | None) -> str:
        """Begin a session of an access token, or of somebody without one, and return what a client shows for it."""
        session_id, secret = secrets.token_hex(5), secrets.token_urlsafe(24)
        if token_id is None:
            return f"none_{session_id}_{secret}"
        row = {"id": session_id, "token_id": token_id, "digest": _digest(secret)}
        with self._database.writing() as connection:
            connection.execute(insert(sessions), {**row, "expires_at": self._clock() + self._lifetime_s})
        return f"iss_{session_id}_{secret}"

    def find(self, text: str) -> Token | None:
        """Return the access token that a session speaks for, None where there is no such session any more."""
        if (shape := _SESSION.fullmatch(text)) is None:
            return None
        values = {"the_id": shape[1], "the_digest": _digest(shape[2]), "at": self._clock()}
        with self._database.reading() as connection:
            row = connection.execute(_FIND, values).one_or_none()
        return to_token(row) if row is not None else None

    def end(self, text: str) -> None:
        """End a session; what is none is passed over."""
        if (shape := _SESSION.fullmatch(text)) is None:
            return
        mine = (sessions.c.id == shape[1], sessions.c.digest == _digest(shape[2]))
        with self._database.writing() as connection:
            connection.execute(delete(sessions).where(*mine))

    def forget_old(self) -> None:
        """Remove what is no longer good."""
        at = self._clock()
        with self._database.writing() as connection:
            for table in (sign_ins, sessions):
                connection.execute(delete(table).where(table.c.expires_at <= at))


class TokensAndSessions(Tokens):
    """Access tokens, and the sessions that speak for them.

    Args:
        database: migrated.
        sessions: their records.
        clock: seconds since the epoch.
    """

    def __init__(self, database: Database, sessions: Sessions, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(database, clock=clock)
        self._sessions = sessions

    def find(self, text: str) -> Token | None:
        """Return the record of the token that a text claims to be, or that a session speaks for."""
        return self._sessions.find(text) or super().find(text)

    def bearer(self, text: str, found: Token | None) -> Caller:
        """Return who bears a token, or whose session it is.

        Raises:
            NotAuthorised: it is not valid.
        """
        if found is not None and _SESSION.fullmatch(text):
            return self.admitted(found)
        return super().bearer(text, found)


def _digest(text: str) -> str:
    # At least 160 random bits: there is nothing to guess that a slow digest would protect.
    return hashlib.sha256(text.encode()).hexdigest()
