"""The HTTP of the two requests that the extension makes."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import requests
from requests import exceptions as http
from requests.auth import HTTPBasicAuth

from .errors import ExtensionError, InferenceServerError, ServerUnreachable, SettingsError
from .multipart import CHUNK_BYTES, MultipartFile
from .server_address import ServerAddress
from .server_message import server_message
from .settings import BUNDLE_FILE, BUNDLE_VARIABLE, VERSION, Settings

FINISHED = 200
_USER = b"mim"
"""Servers look at the token alone."""
_MESSAGE_BYTES = 64 * 1024
_HEADERS = {"User-Agent": f"inference-server-mim/{VERSION}"}
_MEANINGS = {
    401: "The server does not accept the token or secret. Check server_url and MIM_INFERENCE_TOKEN.",
    403: "The server does not allow this with your token or secret. Ask its administrator.",
    404: "There is no inference server at this address. Check server_url.",
    413: "The case is larger than the server accepts.",
    500: "The server had an internal error.",
    503: "The server is busy or being restarted. Try again in a few minutes.",
    507: "The server's disk is full. Tell its administrator.",
    550: "The server does not know this model.",
    552: "The model could not finish this case.",
    553: "The result is not on the server any more. Send the case again.",
    554: "The server does not know this task. Check the UID and server_url, or send the case again.",
}


@dataclass(frozen=True)
class Answer:
    """What a server said to a poll; ``retry_after_s`` is 0 where it named no time."""

    status: int
    message: str = ""
    retry_after_s: float = 0.0

    @property
    def sentence(self) -> str:
        return self.message or _MEANINGS.get(self.status, f"The server answered with status {self.status}.")


class ClientBackend:
    """Sends a case once, and asks for its result as often as it is told to."""

    def __init__(self, address: ServerAddress, settings: Settings) -> None:
        self._address = address
        auth = address.auth or ((_USER, settings.token.encode()) if settings.token else None)
        self._auth = HTTPBasicAuth(*auth) if auth else None
        # Given with every request: on a session the environment's bundle would win over it.
        self._verify = str(settings.ca_bundle) if settings.ca_bundle else True
        self._timeout = (settings.connect_timeout_s, settings.read_timeout_s)

    def post_task(self, model_human_readable_id: str, zip_path: Path) -> str:
        """Send a case, exactly once, reading the zip from disk while it goes out.

        Args:
            model_human_readable_id: the model's id.
            zip_path: the input zip. Not modified.

        Returns:
            The UID of the task.

        Raises:
            InferenceServerError: the server refused the case, in its own words.
            ServerUnreachable: no answer came; the text says whether the case may have arrived.
            SettingsError: the server's certificate is not trusted.
        """
        with zip_path.open("rb") as file:
            body = MultipartFile(file, field="zip_file", file_name="input.zip")
            try:
                return self._post(model_human_readable_id, body)
            except ServerUnreachable as error:
                raise ServerUnreachable(f"{error} {_what_became_of(body)}") from error

    def get_task(self, uid: str, destination: Path) -> Answer:
        """Ask once for the result of a task.

        Args:
            uid: the task's UID.
            destination: where the result zip is written when there is one; replaced if it exists.

        Returns:
            The status and the server's sentence; ``FINISHED`` once the whole zip is at ``destination``.

        Raises:
            ServerUnreachable: no answer came, or the download broke off.
            SettingsError: the server's certificate is not trusted.
        """
        headers = {"Accept-Encoding": "identity"}
        with self._request("GET", self._address.task_url(uid), headers=headers) as response:
            if response.status_code != FINISHED:
                return _read_answer(response)
            _save(response, destination)
            return Answer(FINISHED)

    def _post(self, model_human_readable_id: str, body: MultipartFile) -> str:
        query = {"model_human_readable_id": model_human_readable_id}
        headers = {"Content-Type": body.content_type}
        url = self._address.tasks_url
        with self._request("POST", url, params=query, data=body, headers=headers) as response:
            if not 200 <= response.status_code < 300:
                raise InferenceServerError(_read_answer(response).sentence)
            return _read_uid(response)

    @contextmanager
    def _request(
        self, method: str, url: str, *, headers: dict[str, str], **content: Any
    ) -> Iterator[requests.Response]:
        try:
            with requests.request(
                method,
                url,
                headers={**_HEADERS, **headers},
                auth=self._auth,
                verify=self._verify,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
                **content,
            ) as response:
                yield response
        except http.RequestException as error:
            raise _explained(error, self._address.shown) from error


def _read_uid(response: requests.Response) -> str:
    try:
        uid = json.loads(_read_start(response))
    except ValueError:
        uid = None
    if not isinstance(uid, (str, int)) or not str(uid).strip():
        raise InferenceServerError("The server took the case but gave no UID. Is server_url an inference server?")
    return str(uid)


def _read_answer(response: requests.Response) -> Answer:
    if response.is_redirect:
        return Answer(response.status_code, _redirected(response))
    return Answer(response.status_code, server_message(_read_start(response)), _retry_after_s(response))


def _redirected(response: requests.Response) -> str:
    kind = "its https:// address" if response.headers["Location"].startswith("https:") else "another address"
    return f"The server asks to be called by {kind}. Change server_url to it."


def _retry_after_s(response: requests.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 0.0


def _read_start(response: requests.Response) -> bytes:
    return next(response.iter_content(_MESSAGE_BYTES), b"")


def _save(response: requests.Response, destination: Path) -> None:
    with destination.open("wb") as file:
        for chunk in response.iter_content(CHUNK_BYTES):
            file.write(chunk)
        received = file.tell()
    # Older urllib3 does not notice a body that ends early.
    if received != int(response.headers.get("Content-Length", received)):
        raise ServerUnreachable("The connection broke off while the result was being fetched.")


def _what_became_of(body: MultipartFile) -> str:
    if body.sent_bytes == 0:
        return "Nothing was sent."
    if not body.is_sent:
        return (
            "The case was not sent completely, so the server does not have it: send it again. "
            "If that fails too, it may be larger than the server accepts."
        )
    return (
        "The case was sent, but the answer was lost: the server may have taken it. "
        "Look at the server's list of tasks before you send it again."
    )


def _explained(error: http.RequestException, server: str) -> ExtensionError:
    """Say what went wrong in our own words: the library's may hold an address in full."""
    if isinstance(error, http.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return SettingsError(
            f"The certificate of {server} is not trusted on this computer. If your IT department gave you a "
            f"certificate, put it beside the extension as {BUNDLE_FILE}, or name it in {BUNDLE_VARIABLE}."
        )
    if isinstance(error, http.SSLError) and "X509" in str(error):
        return SettingsError(f"The file in {BUNDLE_VARIABLE} or {BUNDLE_FILE} holds no certificate in PEM form.")
    if isinstance(error, (http.InvalidURL, http.InvalidSchema, http.MissingSchema)):
        return SettingsError("server_url is not the address of a server.")
    if isinstance(error, http.ProxyError):
        return ServerUnreachable(f"The proxy of this network did not let the request to {server} through.")
    if isinstance(error, http.SSLError):
        return ServerUnreachable(f"No secure connection to {server} could be made. Is https:// right for it?")
    if isinstance(error, http.ConnectTimeout):
        return ServerUnreachable(f"{server} does not answer. Check server_url and the network.")
    if isinstance(error, http.ReadTimeout):
        return ServerUnreachable(f"{server} took the request but did not answer in time.")
    return ServerUnreachable(
        f"No connection to {server}, or it was lost. Check server_url and that the server is running."
    )
