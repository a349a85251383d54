"""Who may come through which door: what every request is asked before its route runs.

Every route says what it needs, by `needs` or `open_to_all`; an application with one that does not say so is not made.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from flask import Flask, Request, g

from inference_server.api.sign_in import SignInLimit, is_foreign, is_sent_on_purpose, network
from inference_server.errors import Forbidden, NotAuthorised
from inference_server.settings import Settings
from inference_server.tasks.caller import ANONYMOUS, LOCAL, NO_AUTH, Caller, Scope
from inference_server.tasks.tokens import Token, Tokens

log = logging.getLogger(__name__)

FORWARDED = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")
"""What proxies add. With one of these a request of this machine was made for somebody elsewhere."""

View = TypeVar("View", bound=Callable[..., Any])
_NEED = "access_need"


@dataclass(frozen=True)
class Need:
    """What a route asks for: one of these scopes, any token where none is named, or nothing at all."""

    any_of: frozenset[Scope] = frozenset()
    is_open: bool = False

    def check(self, caller: Caller) -> None:
        """Refuse a caller who has none of the scopes.

        Raises:
            Forbidden: with the scopes that are missing.
        """
        if self.any_of and not self.any_of & caller.scopes:
            wanted = " or ".join(f"'{scope}'" for scope in sorted(self.any_of))
            raise Forbidden(f"This access token does not allow this; one with the scope {wanted} does.")


def needs(*any_of: Scope) -> Callable[[View], View]:
    """Mark a route as one for callers with at least one of these scopes, or with any token where none is named."""
    return _marked(Need(frozenset(any_of)))


def open_to_all(view: View) -> View:
    """Mark a route as one that tells nothing which a stranger may not know."""
    return _marked(Need(is_open=True))(view)


def need_of(app: Flask, endpoint: str) -> Need | None:
    """Return what a route asks for, None where it does not say."""
    return getattr(app.view_functions[endpoint], _NEED, None)


def caller() -> Caller:
    """Return who makes the present request."""
    found = g.caller
    assert isinstance(found, Caller)
    return found


class Access:
    """Finds out who a request comes from.

    Args:
        settings: whether access is controlled at all, and the limit on failures.
        tokens: their records.
        opened: the dialects that take clients without a token.
        refused: called for each token that was not valid.
    """

    def __init__(
        self,
        settings: Settings,
        tokens: Tokens,
        opened: frozenset[str],
        *,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._no_auth = settings.no_auth
        self._tokens = tokens
        self._opened = opened
        self._refused = refused
        self._limit = SignInLimit(settings.sign_in_limit)

    def admit(self, request: Request, *, dialect: str, presented: str | None, need: Need) -> Caller:
        """Return who makes a request, or refuse it.

        Args:
            request: its peer and headers say whether it comes from this machine.
            dialect: the door that it came through.
            presented: the token that it carries. Not looked at while no token was ever made.
            need: what its route asks for.

        Raises:
            NotAuthorised: it carries no token or not a valid one.
            Forbidden: the token does not allow it.
            SignInLimited: too many tokens that were not valid came from there.
        """
        found = replace(self._caller(request, dialect, presented), dialect=dialect)
        need.check(found)
        return found

    def admit_peer(self, address: str, *, dialect: str, presented: str | None, needs: Iterable[Need]) -> Caller:
        """Return who speaks over a connection of a protocol without requests, or refuse him.

        Args:
            address: the peer's.
            dialect: the door that it came through.
            presented: the token that it gave. Not looked at while no token was ever made.
            needs: what the dialect asks for, all of it.

        Raises:
            NotAuthorised, Forbidden, SignInLimited: as `admit`.
        """
        if presented is not None and self._tokens.any():
            found = self._bearer(address, presented)
        else:
            found = self._unnamed(dialect, is_here=lambda: _is_loopback(address))
        for need in needs:
            need.check(found)
        return replace(found, dialect=dialect)

    def _caller(self, request: Request, dialect: str, presented: str | None) -> Caller:
        if presented is not None and self._tokens.any():
            if not is_sent_on_purpose(request):
                raise NotAuthorised("A page of another site has to send its access token as `Bearer`.")
            return self._bearer(request.remote_addr, presented)
        return self._unnamed(dialect, is_here=lambda: is_local(request))

    def _unnamed(self, dialect: str, *, is_here: Callable[[], bool]) -> Caller:
        """Return who comes without a token."""
        if self._no_auth:
            return NO_AUTH
        if is_here() and not self._tokens.any():
            return LOCAL
        if dialect in self._opened:
            return ANONYMOUS
        raise NotAuthorised("This needs an access token. The operator of the server makes one.")

    @contextmanager
    def counted(self, request: Request) -> Iterator[None]:
        """Count it as a failure of the request's address if the block refuses what was presented.

        Raises:
            SignInLimited: too much that was not valid came from there.
        """
        with self._counted(request.remote_addr, None):
            yield

    def _bearer(self, address: str | None, presented: str) -> Caller:
        found = self._tokens.find(presented)
        with self._counted(address, found):
            return self._tokens.bearer(presented, found)

    @contextmanager
    def _counted(self, address: str | None, found: Token | None) -> Iterator[None]:
        key = (network(address), found.id if found else "")
        self._limit.check(key)
        try:
            yield
        except NotAuthorised as refused:
            self._limit.note_failure(key)
            self._refused()
            log.warning("sign-in refused", extra={"by": found.name if found else None, "reason": refused.message})
            raise


def is_local(request: Request) -> bool:
    """Whether a request was made on this machine, for somebody at this machine.

    A proxy's request is not, and neither is one that a page of another site made a browser send: its address or
    origin has the name of that site. A name without a dot is nobody's on the internet.
    """
    if not _is_loopback(request.remote_addr or "") or any(name in request.headers for name in FORWARDED):
        return False
    return _is_near(request.headers.get("Host", "")) and not is_foreign(request)


def _is_near(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return _is_loopback(name) or not set(name) & {".", ":"}


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _marked(need: Need) -> Callable[[View], View]:
    def mark(view: View) -> View:
        setattr(view, _NEED, need)
        return view

    return mark
