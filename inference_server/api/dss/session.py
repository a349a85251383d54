"""The cookie of a session, whose name and lasting value the Python client reads."""

from __future__ import annotations

from flask import Request, Response, request

from inference_server.api.sign_in import authorization, is_foreign
from inference_server.errors import Forbidden

COOKIE = "webpy_session_id"
OF_TOKEN = "iss_"
SITES = ("none", "same-origin")
"""What browsers say of requests that the user or a page of this server made."""


def presented(asked: Request) -> str | None:
    """Return what a request shows: a token in its header, or the session in its cookie.

    The cookie of somebody who came without an access token shows nothing.
    """
    session = session_of(asked)
    return authorization(asked) or (session if session.startswith(OF_TOKEN) else None)


def session_of(asked: Request) -> str:
    """Return the session in the cookie of a request, an empty text where there is none."""
    return asked.cookies.get(COOKIE, "")


def set_cookie(answer: Response, session: str, *, lifetime_s: float) -> Response:
    """Give a client its session. It is given once, at the sign-in: clients keep no later one."""
    answer.set_cookie(
        COOKIE,
        session,
        max_age=round(lifetime_s),
        secure=request.is_secure or request.headers.get("X-Forwarded-Proto") == "https",
        httponly=True,
        samesite="Strict",
    )
    return answer


def refuse_foreign_pages() -> None:
    """Refuse a sign-in, or a change by GET, that a page of another site made a browser ask for.

    Raises:
        Forbidden: the browser says that it was one.
    """
    if is_foreign(request) or request.headers.get("Sec-Fetch-Site", "none") not in SITES:
        raise Forbidden("A page of another site cannot do this.")
