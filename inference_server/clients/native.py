"""`Client`: the native API from Python.

>>> client = Client("http://127.0.0.1:8000")                                   # doctest: +SKIP
>>> task = client.wait(client.submit("ct-body", ["ct.nii.gz"]).uid)            # doctest: +SKIP
>>> client.fetch(task.uid, Path("contours"))                                   # doctest: +SKIP
"""

from __future__ import annotations

import json
import ssl
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from inference_server.clients.records import RemoteTask, RemoteWorker, task_of, worker_of
from inference_server.errors import BadRequest, InferenceServerError
from inference_server.imaging.archive import open_archive

POLL_S = 25.0
RETRY_S = 0.5
MEMBER_LIMIT = 10_000
UNPACKED_LIMIT_BYTES = 1 << 40
RESULT_FOLDERS = ("meshes", "transforms")


class ServerError(InferenceServerError):
    """The server refused, or could not be reached.

    Attributes:
        status: HTTP status, 0 where no answer came.
        problem_code: the server's error code, or "unreachable".
    """

    code = "server_error"

    def __init__(self, message: str, *, status: int = 0, problem_code: str = "unreachable", **extra: Any) -> None:
        super().__init__(message, **extra)
        self.http_status = status
        self.problem_code = problem_code


class Client:
    """A connection to one server. Use it as a context manager, or `close` it."""

    def __init__(
        self,
        server: str = "http://127.0.0.1:8000",
        *,
        token: str | None = None,
        certificate: Path | str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        """Prepare a connection; nothing is sent yet.

        Args:
            server: its URL; `https://user:token@host` is another way to give a token.
            token: an access token, where the server asks for one.
            certificate: a file in PEM form with the certificates to trust instead of the usual authorities'.
            timeout_s: longest silence of the server.

        Raises:
            ServerError: the URL is none.
            BadRequest: the certificate cannot be read.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url, verify = _server_url(server), trusted(certificate)
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s, verify=verify)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(
        self,
        model: str,
        images: Sequence[Path | str],
        *,
        parameters: Mapping[str, Any] | None = None,
        points: Mapping[str, Sequence[Sequence[float]]] | None = None,
        outputs: Sequence[str] = (),
        priority: str = "normal",
        idempotency_key: str | None = None,
    ) -> RemoteTask:
        """Send a case and return its task at once.

        Args:
            model: the model's id.
            images: NIfTI files in channel order, or one zipped case (`.zip`). Streamed, never held in memory.
            parameters: values for what the model declares.
            points: the points that the model takes, by name, each `(x, y, z)` in LPS mm.
            outputs: what is made beyond what the model gives: `meshes`, `volumes`.
            priority: `urgent`, `normal` or `batch`.
            idempotency_key: the same key gives the same task again; made fresh where none is given, so that a
                submission that is repeated after a lost answer makes no second task.

        Raises:
            ServerError: the server refused the case, or cannot be reached.
        """
        key = idempotency_key or uuid.uuid4().hex
        fields = {"model": model, "priority": priority, "parameters": json.dumps(dict(parameters or {}))}
        if points:
            fields["points"] = json.dumps({name: [list(point) for point in each] for name, each in points.items()})
        if outputs:
            fields["outputs"] = json.dumps(list(outputs))
        with ExitStack() as stack:
            files = [_part(stack, Path(image)) for image in images]
            parts = [*((name, (None, text)) for name, text in fields.items()), *files]
            answer = self._request("POST", "/api/v1/tasks", files=parts, headers={"Idempotency-Key": key})
        return task_of(answer.json())

    def status(self, uid: str, *, wait_s: float = 0.0, revision: int | None = None) -> RemoteTask:
        """Return a task; with `wait_s`, as soon as it differs from `revision`, at the latest after that time."""
        query: dict[str, Any] = {"wait": wait_s} if wait_s else {}
        if revision is not None:
            query["revision"] = revision
        timeout = httpx.Timeout(30.0, read=30.0 + wait_s)
        return task_of(self._request("GET", f"/api/v1/tasks/{uid}", params=query, timeout=timeout).json())

    def wait(
        self, uid: str, *, timeout_s: float | None = None, on_change: Callable[[RemoteTask], None] | None = None
    ) -> RemoteTask:
        """Wait until a task has ended; a server that is away for a while is waited for.

        Raises:
            ServerError: there is no such task, or it has not ended after `timeout_s`.
        """
        deadline = time.monotonic() + (timeout_s or float("inf"))
        task = self._next(uid, None, 0.0)
        while True:
            if task and on_change:
                on_change(task)
            if task and task.ended:
                return task
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                state = f"is still {task.status}" if task else "could not be asked for"
                raise ServerError(f"The task {state} after {timeout_s:g} s.", problem_code="timed_out")
            task = self._next(uid, task, min(POLL_S, left_s))

    def fetch(self, uid: str, folder: Path | str) -> list[Path]:
        """Download a result and unpack it: label volumes (`.nii.gz`), each with its label names (`.json`), and folders
        of meshes and transforms where there are any.

        Returns:
            The files written, sorted by name.

        Raises:
            ServerError: the result is not there (yet, or any more).
            BadRequest: the folder cannot be written.
        """
        target = result_folder(folder)
        with tempfile.NamedTemporaryFile(suffix=".zip") as packed:
            with self._stream("GET", f"/api/v1/tasks/{uid}/result") as answer:
                for block in answer.iter_bytes():
                    packed.write(block)
            packed.flush()
            return _unpack(Path(packed.name), target)

    def cancel(self, uid: str) -> RemoteTask:
        """Stop a task, also while it runs."""
        return task_of(self._request("POST", f"/api/v1/tasks/{uid}/cancel").json())

    def retry(self, uid: str) -> RemoteTask:
        """Queue a failed or cancelled task once more."""
        return task_of(self._request("POST", f"/api/v1/tasks/{uid}/retry").json())

    def delete(self, uid: str) -> None:
        """Remove a task and all its data."""
        self._request("DELETE", f"/api/v1/tasks/{uid}")

    def tasks(self, *, limit: int | None = None, **filters: str) -> Iterator[RemoteTask]:
        """Yield the newest tasks first; filters: `status`, `model`, `dialect`."""
        query: dict[str, Any] = dict(filters)
        left = limit if limit is not None else 1 << 60
        while left > 0:
            page = self._request("GET", "/api/v1/tasks", params={**query, "limit": min(left, 100)}).json()
            yield from map(task_of, page["tasks"])
            left -= len(page["tasks"])
            if not page.get("next_cursor"):
                return
            query["cursor"] = page["next_cursor"]

    def events(self, uid: str, *, since: int = 0) -> list[Mapping[str, Any]]:
        """Return a task's log, or what came after the line whose `seq` is `since`."""
        answer = self._request("GET", f"/api/v1/tasks/{uid}/events", params={"since": since})
        return list(answer.json()["events"])

    def models(self) -> list[Mapping[str, Any]]:
        """Return the manifests of the models served."""
        return list(self._request("GET", "/api/v1/models").json()["models"])

    def model(self, model: str) -> Mapping[str, Any]:
        """Return one model's manifest."""
        return dict(self._request("GET", f"/api/v1/models/{model}").json())

    def workers(self) -> list[RemoteWorker]:
        """Return what the workers do; this needs a token with the scope `operate`, where any is needed."""
        return [worker_of(record) for record in self._request("GET", "/api/v1/workers").json()["workers"]]

    def _next(self, uid: str, task: RemoteTask | None, wait_s: float) -> RemoteTask | None:
        """Return the task once it is another one than `task`, or what was known if the server is away."""
        try:
            return self.status(uid, wait_s=wait_s, revision=task.revision) if task else self.status(uid)
        except ServerError as error:
            if error.http_status not in (0, 429, 502, 503, 504):
                raise
            time.sleep(RETRY_S)
            return task

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        with _reachable(self._http):
            answer = self._http.request(method, path, **options)
        _refuse_problem(answer)
        return answer

    @contextmanager
    def _stream(self, method: str, path: str) -> Iterator[httpx.Response]:
        with _reachable(self._http), self._http.stream(method, path) as answer:
            if answer.is_error:
                answer.read()
            _refuse_problem(answer)
            yield answer


def result_folder(folder: Path | str) -> Path:
    """Return a folder for results, made if need be.

    Raises:
        BadRequest: it cannot be made or written.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            return target
    except OSError as exc:
        raise BadRequest(f"The folder for the result cannot be written: {exc.strerror}.", field="out") from exc


def _server_url(server: str) -> str:
    with suppress(httpx.InvalidURL):
        url = httpx.URL(server)
        if url.scheme in ("http", "https") and url.host:
            return server.rstrip("/")
    raise ServerError("The address of the server is not a URL; one like http://127.0.0.1:8000 was expected.")


def trusted(certificate: Path | str | None) -> ssl.SSLContext | bool:
    """Return what to verify a server with: the usual authorities, or the certificates of a file.

    Raises:
        BadRequest: the file cannot be read.
    """
    if certificate is None:
        return True
    try:
        return ssl.create_default_context(cafile=certificate)
    except OSError as exc:  # SSLError is one
        raise BadRequest("The certificate is not a file with a certificate in PEM form.", field="certificate") from exc


@contextmanager
def _reachable(http: httpx.Client) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as exc:
        server = _without_secret(http.base_url)
        if "CERTIFICATE_VERIFY_FAILED" not in str(exc):
            raise ServerError(f"The server at {server} does not answer.") from exc
        raise ServerError(
            f"The certificate of {server} is not trusted here, or was made for another name. Give the right one as "
            "a file (--certificate, INFERENCE_SERVER_CERTIFICATE).",
            problem_code="certificate",
        ) from exc


def _without_secret(url: httpx.URL) -> str:
    return str(url.copy_with(username=None, password=None))


def _refuse_problem(answer: httpx.Response) -> None:
    if not answer.is_error:
        return
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    message = problem.get("detail") or f"The server answered {answer.status_code}."
    raise ServerError(
        message,
        status=answer.status_code,
        problem_code=problem.get("code", "http"),
        field=problem.get("field"),
    )


def _part(stack: ExitStack, path: Path) -> tuple[str, tuple[str, Any, str]]:
    """Return a form part. Its file name is a fixed one: a real one may name a patient."""
    stream = stack.enter_context(path.open("rb"))
    if path.suffix == ".zip":
        return "case", ("case.zip", stream, "application/zip")
    suffix = ".nii.gz" if path.name.endswith(".gz") else path.suffix
    return "image", (f"image{suffix}", stream, "application/octet-stream")


def _unpack(packed: Path, folder: Path) -> list[Path]:
    limits = {"member_limit": MEMBER_LIMIT, "unpacked_limit_bytes": UNPACKED_LIMIT_BYTES}
    written = []
    with open_archive(packed, folders=RESULT_FOLDERS, **limits) as archive:
        for name in sorted(archive.names):
            (folder / name).parent.mkdir(exist_ok=True)
            with archive.open(name) as member, (folder / name).open("wb") as out:
                while block := member.read(1 << 20):
                    out.write(block)
            written.append(folder / name)
    return written
