"""What goes wrong between a client and a DSS server.

Both kinds are errors of httpx too, so that scripts which expect those of the `itksnap-dss` package go on as they are.
"""

from __future__ import annotations

import httpx

from inference_server.clients.native import ServerError

_SHOWN = 1000
GONE = frozenset({400, 403, 404, 410})
"""A ticket about which a server answers one of these is not the asker's, or not any more."""


class DSSRefused(httpx.HTTPStatusError, ServerError):
    """The server answered something other than 200, the only status that is success in this protocol.

    The message is the sentence that the server gave.
    """

    def __init__(self, answer: httpx.Response, message: str | None = None) -> None:
        super().__init__(message or _sentence(answer), request=answer.request, response=answer)
        self.http_status = answer.status_code
        self.problem_code = "refused"

    @property
    def signed_out(self) -> bool:
        """Whether the server does not know who asks."""
        return self.http_status == httpx.codes.UNAUTHORIZED

    @property
    def passing(self) -> bool:
        """Whether the same request may be answered later."""
        return self.http_status == httpx.codes.TOO_MANY_REQUESTS or self.http_status >= 500


class DSSUnreachable(httpx.TransportError, ServerError):
    """No answer came."""

    problem_code = "unreachable"


class DSSAnswerError(ServerError):
    """The answer is not one of this protocol."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=httpx.codes.OK, problem_code="answer")


def _sentence(answer: httpx.Response) -> str:
    text = answer.text.strip()[:_SHOWN]
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        url = answer.request.url
        hint = f"Sign in with `inference-server dss login --server {url.scheme}://{url.netloc.decode()}`."
        return f"{text.rstrip('.')}. {hint}" if text else f"The server does not know who asks. {hint}"
    if not text or text.startswith("<"):
        return f"The server answered {answer.status_code}."
    return text
