"""Requests to services, each host with the trust that its certificate has; every failure is a `ServerError`."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx

from inference_server.clients.fingerprints import PinnedContext, Trust, unreachable
from inference_server.clients.native import ServerError

QUICK_S = 5.0
"""Longest silence of a server that is only asked for what it knows already."""
SLOW_S = 30.0
"""Longest silence of a server that takes a case."""


def parse_url(text: str) -> httpx.URL:
    """Return a URL without the slash at its end.

    Raises:
        ServerError: the text is no URL of HTTP or HTTPS.
    """
    with suppress(httpx.InvalidURL):
        url = httpx.URL(text.strip().rstrip("/"))
        if url.scheme in ("http", "https") and url.host:
            return url
    raise ServerError(
        "The address of the service is not a URL; one like https://server:8443/tomaat/model was expected."
    )


class Connections:
    """Open connections, one set for each host. Use it as a context manager, or `close` it."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._open: dict[str, tuple[httpx.Client, ssl.SSLContext | bool]] = {}

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for client, _ in self._open.values():
            client.close()
        self._open.clear()

    def ask(self, method: str, url: httpx.URL, timeout: float | httpx.Timeout = QUICK_S, **options: Any) -> Any:
        """Send a request and return the JSON that came.

        Raises:
            ServerError: the server is not trusted, does not answer, or answers something else; `http_status` is 0
                where no answer came.
        """
        client, verification = self._client(url)
        with self._reachable(url, verification):
            answer = client.request(method, url, timeout=timeout, **options)
        if answer.status_code != httpx.codes.OK:
            raise ServerError(_not_ok(answer), status=answer.status_code, problem_code="http")
        with suppress(ValueError):
            return answer.json()
        raise ServerError("What the server answered is not JSON; is this the address of a TOMAAT service?", status=200)

    def _client(self, url: httpx.URL) -> tuple[httpx.Client, ssl.SSLContext | bool]:
        origin = f"{url.scheme}://{url.netloc.decode()}"
        if origin not in self._open:
            verification = self._trust.verification(url)
            self._open[origin] = httpx.Client(verify=verification), verification
        return self._open[origin]

    @contextmanager
    def _reachable(self, url: httpx.URL, verification: ssl.SSLContext | bool) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as exc:
            raise ServerError(f"The server at {url.netloc.decode()} does not answer in time.") from exc
        except httpx.TransportError as exc:
            if isinstance(verification, PinnedContext) and verification.met not in (None, verification.pinned):
                raise self._trust.refusal(url, str(verification.met)) from exc
            raise unreachable(url) from exc


def _not_ok(answer: httpx.Response) -> str:
    hints = {
        401: "it asks for an access token: put one into the address, https://user:<token>@server/…",
        403: "the access token does not allow this",
        404: "there is no TOMAAT service at this address",
        405: "there is no TOMAAT service of this kind at this address",
        413: "what was sent is larger than it takes",
    }
    hint = hints.get(answer.status_code)
    return f"The server answered {answer.status_code}" + (f": {hint}." if hint else ".")
