"""Requests to one DSS server, with the session of who signed in."""

from __future__ import annotations

import http.cookiejar
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from inference_server.clients.dss.errors import DSSAnswerError, DSSRefused, DSSUnreachable
from inference_server.clients.dss.sessions import Sessions, default_sessions
from inference_server.clients.native import ServerError

COOKIE = "webpy_session_id"
SIGNED_IN = "logged in as "
TIMEOUT = httpx.Timeout(connect=10.0, read=300.0, write=300.0, pool=10.0)
_BLOCK_BYTES = 1 << 20
_LONGEST_PAUSE_S = 30.0


class Connection:
    """Talks to one server. Use it as a context manager, or `close` it.

    Attributes:
        server: its URL, without a slash at the end.
    """

    def __init__(self, server: str, *, verify: bool | ssl.SSLContext = True, sessions: Sessions | None = None) -> None:
        """Take up the session that is kept for this server; nothing is sent yet.

        Args:
            server: its URL.
            verify: whether the server's certificate has to be signed by an authority that is known here, or a context
                that says whose.
            sessions: where sessions are kept; by default the keyring, else a private file.

        Raises:
            ServerError: the URL is none.
        """
        self.server = server_url(server)
        self._sessions = sessions or default_sessions()
        self._session = self._sessions.load(self.server)
        # The session is sent by hand: what other answers set must not replace it, nor be sent beside it.
        no_cookies = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
        if self.server.startswith("http:") and verify is True:
            verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and needs no authorities to be read
        self._http = httpx.Client(verify=verify, cookies=no_cookies, timeout=TIMEOUT)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @property
    def signed_in(self) -> bool:
        """Whether there is a session; the server may have ended it."""
        return self._session is not None

    def sign_in(self, token: str) -> httpx.Response:
        """Begin a session with a one-time token and keep it.

        Raises:
            DSSRefused: the token is not valid.
            DSSAnswerError: what answers is no DSS server.
        """
        self._session = None
        try:
            answer = self.post("api/login", {"token": token})
        except DSSRefused as refused:
            if not refused.signed_out:
                raise
            raise DSSRefused(refused.response, "The token is not valid; each works once.") from refused
        if not answer.text.startswith(SIGNED_IN):
            raise DSSAnswerError("The server did not sign in: the token may have been used before.")
        session = _cookie(answer)
        if session is None:
            raise DSSAnswerError("The server signed in, but gave no session.")
        self._session = session
        self._sessions.save(self.server, session)
        return answer

    def sign_out(self) -> bool:
        """Forget the session here, and have the server end it; return whether it said so."""
        try:
            self.get("logout")
        except DSSRefused as refused:
            return refused.http_status == httpx.codes.SEE_OTHER  # the published server shows its first page then
        except DSSUnreachable:
            return False
        finally:
            self._session = None
            self._sessions.forget(self.server)
        return True

    def reload_session(self) -> None:
        """Take up a session that another program began meanwhile."""
        self._session = self._sessions.load(self.server)

    def request(self, method: str, place: str, **parts: Any) -> httpx.Response:
        """Send a request once; `parts` are those of httpx.

        Raises:
            DSSRefused: the answer is not 200.
            DSSUnreachable: no answer came.
        """
        with self._reached():
            answer = self._http.request(method, self._url(place), headers=self._headers(), **parts)
        return _accepted(answer)

    def get(self, place: str, **query: str | int) -> httpx.Response:
        """Ask for something.

        Raises:
            DSSRefused: the answer is not 200.
            DSSUnreachable: no answer came.
        """
        return self.request("GET", place, params=query)

    def post(self, place: str, form: Mapping[str, str], *, attempts: int = 1) -> httpx.Response:
        """Send a form; with more than one attempt again, if no answer came.

        Raises:
            DSSRefused: the answer is not 200.
            DSSUnreachable: no answer came.
        """
        return repeated(lambda: self.request("POST", place, data=dict(form)), attempts)

    def upload(
        self, place: str, file: Path, form: Mapping[str, str], *, mime_type: str | None = None, attempts: int = 1
    ) -> httpx.Response:
        """Send a form with a file, streamed from disk.

        Raises:
            DSSRefused: the answer is not 200.
            DSSUnreachable: no answer came.
        """

        def send() -> httpx.Response:
            with file.open("rb") as stream:
                part = (file.name, stream, mime_type) if mime_type else (file.name, stream)
                return self.request("POST", place, data=dict(form), files={"myfile": part})

        return repeated(send, attempts)

    def download(self, place: str, target: Path) -> None:
        """Stream an answer into a file, which appears when all of it is there.

        Raises:
            DSSRefused: the answer is not 200.
            DSSUnreachable: no answer came, or only a part of it.
        """
        draft = target.with_name(f".{target.name}.part")
        try:
            self._fetch(place, draft)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    def _fetch(self, place: str, target: Path) -> None:
        with self._reached(), self._http.stream("GET", self._url(place), headers=self._headers()) as answer:
            if answer.status_code != httpx.codes.OK:
                answer.read()
            _accepted(answer)
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o600), "wb") as file:
                for block in answer.iter_bytes(_BLOCK_BYTES):
                    file.write(block)

    def _url(self, place: str) -> str:
        return f"{self.server}/{place}"

    def _headers(self) -> dict[str, str]:
        return {"Cookie": f"{COOKIE}={self._session}"} if self._session else {}

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as exc:
            raise _unreachable(self.server, exc) from exc


def server_url(text: str) -> str:
    """Return the URL of a server without the slash at its end.

    Raises:
        ServerError: the text is no URL of HTTP or HTTPS.
    """
    url = text.strip().rstrip("/")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ServerError("The address of the DSS server is not a URL; one like https://dss.itksnap.org was expected.")
    return url


def repeated(send: Callable[[], httpx.Response], attempts: int) -> httpx.Response:
    """Send a request up to so many times, until an answer comes."""
    for attempt in range(attempts - 1):
        try:
            return send()
        except DSSUnreachable:
            time.sleep(min(2.0**attempt, _LONGEST_PAUSE_S))
    return send()


def _accepted(answer: httpx.Response) -> httpx.Response:
    if answer.status_code != httpx.codes.OK:
        raise DSSRefused(answer)
    return answer


def _cookie(answer: httpx.Response) -> str | None:
    """Return the session that an answer sets. It is read here, since the client keeps no cookies."""
    for header in answer.headers.get_list("set-cookie"):
        name, _, value = header.partition(";")[0].partition("=")
        if name.strip() == COOKIE and value:
            return value.strip()
    return None


def _unreachable(server: str, exc: httpx.TransportError) -> DSSUnreachable:
    if "CERTIFICATE_VERIFY_FAILED" in str(exc):
        return DSSUnreachable(
            f"The certificate of {server} is not trusted here, or was made for another name. Give the right one as a "
            "file with --certificate."
        )
    if isinstance(exc, httpx.TimeoutException):
        return DSSUnreachable(f"The DSS server at {server} does not answer in time.")
    return DSSUnreachable(f"The DSS server at {server} does not answer.")
