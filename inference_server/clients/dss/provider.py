"""What providers do: claim tickets, fetch what they hold, tell how far they are, give results."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import httpx

from inference_server.clients.dss.connection import Connection
from inference_server.clients.dss.export import exported
from inference_server.clients.dss.records import (
    Claimed,
    FileRow,
    ProvidedService,
    ReadyService,
    parse_claim,
    parse_files,
    rows,
    whole,
)
from inference_server.clients.dss.user import download_all, upload_file

Category = Literal["info", "warning", "error"]


class Provider:
    """The provider's side of a server. Every method raises `ServerError` where it refuses or does not answer.

    Args:
        attempts: how often to send what may be sent twice, such as progress, while no answer comes.
    """

    def __init__(self, connection: Connection, *, attempts: int = 1) -> None:
        self._connection = connection
        self.attempts = attempts

    def services(self) -> list[ProvidedService]:
        """Return the services that who is signed in provides."""
        return [ProvidedService(*row) for row in rows(self._connection.get("api/pro/services").text, 4)]

    def available(self, services: Sequence[str]) -> list[ReadyService]:
        """Return which of some services have tickets that wait, the longest waiting first; claims nothing."""
        text = self._connection.post("api/pro/services/available", {"services": ",".join(services)}).text
        return [ReadyService(service, name, whole(ready)) for service, name, ready in rows(text, 3)]

    def claim(self, services: Sequence[str], provider: str, code: str) -> Claimed | None:
        """Claim the next ticket of some services, or return None.

        It is asked once only: were the answer to a first try lost, a second one would claim another ticket.
        """
        form = {"services": ",".join(services), "provider": provider, "code": code}
        return parse_claim(self._connection.post("api/pro/services/claims", form).text)

    def wait_for_ticket(
        self,
        services: Sequence[str],
        provider: str,
        code: str,
        *,
        timeout_s: float = 300,
        poll_s: float = 15,
        sleep: Callable[[float], object] = time.sleep,
    ) -> Claimed | None:
        """Ask for a ticket again and again; None if there was none in time."""
        end = time.monotonic() + timeout_s
        while True:
            claimed = self.claim(services, provider, code)
            if claimed or time.monotonic() >= end:
                return claimed
            sleep(max(0.0, min(poll_s, end - time.monotonic())))

    def files(self, ticket: int) -> list[FileRow]:
        """Return the files that a ticket came with."""
        return parse_files(self._connection.get(f"api/pro/tickets/{ticket}/files/input").text)

    def download(self, ticket: int, folder: Path) -> list[Path]:
        """Fetch the files that a ticket came with into a folder, made if need be."""
        return download_all(self._connection, f"api/pro/tickets/{ticket}/files/input", self.files(ticket), folder)

    def set_progress(self, ticket: int, progress: float, *, chunk_start: float = 0.0, chunk_end: float = 1.0) -> None:
        """Tell how much of a part of the work is done, from 0 to 1; 0 takes back what was told of that part."""
        form = {"progress": str(progress), "chunk_start": str(chunk_start), "chunk_end": str(chunk_end)}
        self._post(ticket, "progress", form)

    def log(self, ticket: int, category: Category, message: str) -> None:
        """Add a line to a ticket's log, with what was attached since the last one."""
        self._post(ticket, category, {"message": message})

    def attach(self, ticket: int, description: str, file: Path, mime_type: str = "") -> httpx.Response:
        """Attach a file to the next line of the log."""
        form = {"filename": file.name, "submit": "send", "desc": description}
        if mime_type:
            form["mime_type"] = mime_type
        return self._connection.upload(f"api/pro/tickets/{ticket}/attachments", file, form)

    def upload(self, ticket: int, workspace: Path, *, suffix: str = "_results") -> list[str]:
        """Send a workspace and its images as results, under names that tell nothing; returns those names."""
        with exported(workspace, f"ticket_{ticket:08d}{suffix}.itksnap") as files:
            for file in files:
                upload_file(self._connection, f"api/pro/tickets/{ticket}/files/results", file, self.attempts)
            return [file.name for file in files]

    def status(self, ticket: int) -> str:
        """Return a ticket's status."""
        return self._connection.get(f"api/pro/tickets/{ticket}/status").text.strip()

    def succeed(self, ticket: int) -> str:
        """Say that all results are there."""
        return self._post(ticket, "status", {"status": "success"})

    def fail(self, ticket: int, message: str = "") -> str:
        """Say why there is no result."""
        if message:
            self.log(ticket, "error", message)
        return self._post(ticket, "status", {"status": "failed"})

    def _post(self, ticket: int, what: str, form: dict[str, str]) -> str:
        place = f"api/pro/tickets/{ticket}/{what}"
        return self._connection.post(place, form, attempts=self.attempts).text.strip()
