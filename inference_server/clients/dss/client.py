"""`DSSClient`: both sides of a DSS server, in the words of the `itksnap-dss` package.

>>> client = DSSClient("https://dss.itksnap.org")                              # doctest: +SKIP
>>> client.login_if_needed()                                                   # doctest: +SKIP
>>> client.dssp_claim_ticket([githash], "lab", "instance_1")                   # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import getpass
import math
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx

from inference_server.clients.dss.connection import Connection, repeated
from inference_server.clients.dss.provider import Provider
from inference_server.clients.dss.records import (
    Attachment,
    Claimed,
    Detail,
    FileRow,
    LogLine,
    ProvidedService,
    ReadyService,
    ServiceRow,
    TicketRow,
    rows,
)
from inference_server.clients.dss.sessions import Sessions
from inference_server.clients.dss.user import User
from inference_server.errors import InferenceServerError

if TYPE_CHECKING:
    import pandas as pd

ATTEMPTS = 5


class DSSClient:
    """Talks to one server, as a user (`dss_…`) and as a provider (`dssp_…`).

    A script that uses the `itksnap-dss` package goes on as it is with this class: methods, defaults and results are the
    same, tables are pandas DataFrames, and errors are those of httpx too. Different are: certificates are verified; a
    claim is sent only once; files appear when they are complete. Every method raises `ServerError` where the server
    refuses, with its sentence, or does not answer.
    """

    def __init__(self, server: str, verify: bool | ssl.SSLContext = True, *, sessions: Sessions | None = None) -> None:
        """Take up the session that is kept for this server; nothing is sent yet.

        Args:
            server: its URL.
            verify: whether its certificate has to be signed by an authority known here, or a context that says whose.
            sessions: where sessions are kept; by default the keyring, else a private file.

        Raises:
            ServerError: the URL is none.
            InferenceServerError: pandas is not installed.
        """
        _pandas()
        self._connection = Connection(server, verify=verify, sessions=sessions)
        self.server = self._connection.server
        self.user = User(self._connection)
        self.provider = Provider(self._connection, attempts=ATTEMPTS)

    def __enter__(self) -> DSSClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def get_(self, loc: str, **kwargs: Any) -> httpx.Response:
        """Send a GET of httpx to a place on the server."""
        return self._connection.request("GET", loc, **kwargs)

    def post_(self, loc: str, **kwargs: Any) -> httpx.Response:
        """Send a POST of httpx to a place on the server, up to five times, until an answer comes."""
        return repeated(lambda: self._connection.request("POST", loc, **kwargs), ATTEMPTS)

    def csv_(self, r: httpx.Response, names: list[str]) -> pd.DataFrame:
        """Return the table that came, all of it texts."""
        return _pandas().DataFrame(rows(r.text, len(names)), columns=names)

    def login(self, token: str | None = None) -> httpx.Response:
        """Sign in with a one-time token; without one it is asked for at the terminal."""
        if token is None:
            token = getpass.getpass(prompt=f"Visit {self.server}/token to obtain a token, and enter it: ")
        return self._connection.sign_in(token)

    def login_if_needed(self) -> None:
        """Sign in, unless there is a session."""
        if not self._connection.signed_in:
            self.login()

    def dssp_list_services(self) -> pd.DataFrame:
        """Return the services that who is signed in provides: `service`, `version`, `hash`, `provider`."""
        return _table(ProvidedService, self.provider.services())

    def dssp_available_services(self, services: list[str]) -> pd.DataFrame | None:
        """Return services with waiting tickets: `service`, `service_name`, `ready_tickets`; None if there are none."""
        found = self.provider.available(services)
        return _table(ReadyService, found) if found else None

    def dssp_claim_ticket(self, services: list[str], provider: str, provider_code: str) -> pd.DataFrame | None:
        """Claim the next ticket of some services: `ticket`, `service`, `status`; None if none waits."""
        return _claim(self.provider.claim(services, provider, provider_code))

    def dssp_wait_for_ticket(
        self, services: list[str], provider: str, provider_code: str, timeout: int = 300, interval: int = 15
    ) -> pd.DataFrame | None:
        """Ask for a ticket every `interval` seconds; None if there was none within `timeout` seconds."""
        return _claim(
            self.provider.wait_for_ticket(services, provider, provider_code, timeout_s=timeout, poll_s=interval)
        )

    def dssp_list_ticket_files(self, ticket: int) -> pd.DataFrame:
        """Return the files that a ticket came with: `index`, `filename`."""
        return _table(FileRow, self.provider.files(ticket))

    def dssp_download_ticket(self, ticket: int, outdir: str) -> None:
        """Fetch the files that a ticket came with into a folder, made if need be."""
        self.provider.download(ticket, Path(outdir))

    def dssp_set_progress(self, ticket: int, progress: float, chunk_start: float = 0.0, chunk_end: float = 1.0) -> None:
        """Tell how much of a part of the work is done, from 0 to 1; 0 takes back what was told of that part."""
        self.provider.set_progress(ticket, progress, chunk_start=chunk_start, chunk_end=chunk_end)

    def dssp_log(self, ticket: int, category: Literal["info", "warning", "error"], message: str) -> None:
        """Add a line to a ticket's log, with what was attached since the last one."""
        self.provider.log(ticket, category, message)

    def dssp_set_status(self, ticket: int, status: Literal["failed", "success"]) -> None:
        """Say how a ticket ended."""
        self.provider.succeed(ticket) if status == "success" else self.provider.fail(ticket)

    def dssp_attach(self, ticket: int, desc: str, filename: str, mime_type: str = "") -> httpx.Response:
        """Attach a file to the next line of the log."""
        return self.provider.attach(ticket, desc, Path(filename), mime_type)

    def dssp_upload_ticket(self, ticket: int, workspace_file: str, wsfile_suffix: str = "") -> None:
        """Send a workspace and its images as results, under names that tell nothing of the patient."""
        self.provider.upload(int(ticket), Path(workspace_file), suffix=wsfile_suffix)

    def dssp_ticket_status(self, ticket: int) -> str:
        """Return the status of a ticket."""
        return self.provider.status(ticket)

    def dss_list_services(self) -> pd.DataFrame:
        """Return the services that take tickets: `name`, `githash`, `version`, `shortdesc`."""
        return _table(ServiceRow, self.user.services())

    def dss_service_detail(self, service: str) -> Mapping[str, Any]:
        """Return what a service, named by hash or name, says of itself, with the tags of the layers that it takes."""
        return self.user.service(service)

    def dss_create_ticket(self, service: str, workspace_file: str | None = None) -> int:
        """Make a ticket for a service, named by hash or name; with a workspace, send it and say that all is there."""
        return self.user.send(service, Path(workspace_file)) if workspace_file else self.user.create(service)

    def dss_upload_ticket(self, ticket: int, workspace_file: str) -> None:
        """Send a workspace and its images, under names that tell nothing of the patient."""
        self.user.upload(int(ticket), Path(workspace_file))

    def dss_submit_ticket(self, ticket: int) -> str:
        """Say that all files are there; returns the ticket's status."""
        return self.user.submit(ticket)

    def dss_list_tickets(self) -> pd.DataFrame:
        """Return the user's tickets: `id`, `service`, `status`."""
        return _table(TicketRow, self.user.tickets())

    def dss_ticket_log(self, ticket: int, since: int = 0) -> pd.DataFrame:
        """Return the log after the id `since`: `id`, `atime`, `category`, `message`, `attachments` (how many)."""
        lines = self.user.log(ticket, since=since)
        return _table(LogLine, [dataclasses.replace(line, attachments=len(line.attachments)) for line in lines])  # type: ignore[arg-type]

    def dss_log_attachments(self, log_id: int) -> pd.DataFrame:
        """Return the attachments of a line of a log: `url`, `description`, `mime_type`."""
        return _table(Attachment, self.user.attachments(log_id))

    def dss_ticket_progress(self, ticket: int) -> float:
        """Return how much of a ticket is done, from 0 to 1."""
        return self.user.progress(ticket)

    def dss_queue_position(self, ticket: int) -> int:
        """Return how many tickets of the service wait up to this one."""
        return self.user.queue_position(ticket)

    def dss_ticket_detail(self, ticket: int, since: int = 0) -> Detail:
        """Return status, progress and the lines of the log after the id `since`."""
        return self.user.detail(ticket, since=since)

    def dss_wait_for_ticket(
        self,
        ticket: int,
        timeout: float = math.inf,
        interval: float = 5,
        on_change: Callable[[Detail], None] | None = None,
    ) -> Detail:
        """Wait until a ticket has ended; its `status` says how."""
        limit_s = None if math.isinf(timeout) else timeout
        return self.user.wait(ticket, timeout_s=limit_s, poll_s=interval, on_change=on_change)

    def dss_download_ticket(self, ticket: int, outdir: str) -> list[Path]:
        """Fetch the results of a ticket into a folder, made if need be."""
        return self.user.download(ticket, Path(outdir))

    def dss_delete_ticket(self, ticket: int) -> str:
        """Remove a ticket and its files."""
        return self.user.delete(ticket)

    def dss_retry_ticket(self, ticket: int) -> str:
        """Queue a ticket that failed, or whose provider fell silent, once more."""
        return self.user.retry(ticket)


def _pandas() -> Any:
    try:
        import pandas as pd
    except ImportError as exc:
        raise InferenceServerError("Tables need pandas: pip install 'inference-server[dss]'.") from exc
    return pd


def _table(kind: type, records: Iterable[Any]) -> pd.DataFrame:
    columns: Sequence[str] = [column.name for column in dataclasses.fields(kind)]
    rows = [[getattr(record, column) for column in columns] for record in records]
    return _pandas().DataFrame(rows, columns=columns)


def _claim(claimed: Claimed | None) -> pd.DataFrame | None:
    return _table(Claimed, [claimed]) if claimed else None
