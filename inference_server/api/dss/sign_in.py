"""Signing in: the page that gives a token to paste into ITK-SNAP, and the session that the token buys."""

from __future__ import annotations

from flask import Blueprint, Response, render_template_string, request

from inference_server.api.access import Need, caller, needs, open_to_all
from inference_server.api.context import Context, context
from inference_server.api.dss.answer import json_text, text, wants_json
from inference_server.api.dss.codec import encode_login
from inference_server.api.dss.desk import desk
from inference_server.api.dss.forms import field
from inference_server.api.dss.session import COOKIE, presented, refuse_foreign_pages, session_of, set_cookie
from inference_server.errors import NotAuthorised
from inference_server.tasks.caller import Caller

DIALECT = "dss"
ACCESS_TOKEN = "ist_"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sign in</title>
<style>body{font:16px/1.5 sans-serif;max-width:40em;margin:3em auto;padding:0 1em}
code{display:block;font-size:1.1em;padding:1em;background:#eee;overflow-wrap:anywhere}
input{font:inherit;width:100%;box-sizing:border-box;margin:.5em 0}button{font:inherit}</style></head><body>
{% if token %}<h1>Your token</h1><p>Paste it into ITK-SNAP, or into the program that asks for it. It is good once, for a
quarter of an hour.</p><code id="token">{{ token }}</code>
{% else %}<h1>Sign in</h1>{% if refused %}<p><strong>{{ refused }}</strong></p>{% endif %}
<p>Your access token of this server; its operator makes it.</p>
<form method="post" action="token"><input type="password" name="token" autocomplete="off" autofocus required>
<button>Get a token for ITK-SNAP</button></form>{% endif %}</body></html>
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

blueprint = Blueprint("sign_in", __name__)


@blueprint.get("/token")
@open_to_all
def get_token_page() -> Response:
    """Show a token for signing in to whoever needs no access token; ask everybody else for one."""
    try:
        who = _admitted(context(), presented(request))
    except NotAuthorised:
        return _page()
    return _page(desk().sessions.offer(who))


@blueprint.post("/token")
@open_to_all
def post_access_token() -> Response:
    """Show a token for signing in to the bearer of an access token."""
    try:
        who = _admitted(context(), field("token"))
    except NotAuthorised as refused:
        page = _page(refused=refused.message)
        page.status_code = refused.status
        return page
    return _page(desk().sessions.offer(who))


@blueprint.get("/api/token")
@needs()
def get_token() -> Response:
    """Answer with a token for signing in."""
    return text(desk().sessions.offer(caller()))


@blueprint.get("/api/login")
@needs()
def get_login() -> Response:
    """Answer who is signed in."""
    return _signed_in(caller().name)


@blueprint.post("/api/login")
@open_to_all
def sign_in() -> Response:
    """Begin a session with a token for signing in, or with an access token."""
    refuse_foreign_pages()
    here, given = context(), field("token")
    name, token_id = _bearer(here, given) if given.startswith(ACCESS_TOKEN) else _redeemed(here, given)
    session = desk().sessions.open(token_id)
    return set_cookie(_signed_in(name), session, lifetime_s=here.settings.dss_session_s)


@blueprint.get("/logout")
@open_to_all
def sign_out() -> Response:
    """End the session, for whoever else may have its cookie too."""
    refuse_foreign_pages()
    desk().sessions.end(session_of(request))
    answer = text("logged out")
    answer.delete_cookie(COOKIE)
    return answer


def _signed_in(name: str) -> Response:
    as_json = wants_json()
    said = encode_login(name, as_json=as_json)
    return json_text(said) if as_json else text(said)


def _bearer(here: Context, token: str) -> tuple[str, str | None]:
    who = _admitted(here, token)
    found = desk().sessions.redeem(desk().sessions.offer(who))
    return found.name, found.token_id


def _redeemed(here: Context, given: str) -> tuple[str, str | None]:
    with here.access.counted(request):
        found = desk().sessions.redeem(given)
    if found.token_id is None:  # that of somebody who needs no access token, which depends on where he is
        _admitted(here, None)
    return found.name, found.token_id


def _admitted(here: Context, token: str | None) -> Caller:
    return here.access.admit(request, dialect=DIALECT, presented=token, need=Need())


def _page(token: str = "", *, refused: str = "") -> Response:
    answer = Response(render_template_string(PAGE, token=token, refused=refused), content_type="text/html")
    answer.headers["Content-Security-Policy"] = POLICY
    answer.headers["Referrer-Policy"] = "no-referrer"
    return answer
