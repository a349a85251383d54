"""Records of the DSS dialect, as they cross borders. Times are seconds since the epoch, UTC."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TicketStatus(StrEnum):
    """Where a ticket is in its life."""

    INIT = "init"
    """Made; its files arrive."""
    READY = "ready"
    """Complete; waits for a provider, or in the queue of a model."""
    CLAIMED = "claimed"
    """Somebody works on it."""
    SUCCESS = "success"
    FAILED = "failed"
    TIMEOUT = "timeout"
    """It waited too long, or its provider fell silent."""
    DELETED = "deleted"
    """Removed; the bare record is kept."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self not in OPEN


OPEN = (TicketStatus.INIT, TicketStatus.READY, TicketStatus.CLAIMED)
ENDED = (TicketStatus.SUCCESS, TicketStatus.FAILED, TicketStatus.TIMEOUT)


class Area(StrEnum):
    """Where a file of a ticket belongs."""

    INPUT = "input"
    RESULTS = "results"


class Category(StrEnum):
    """What kind of a line of a log it is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Tag:
    """How a workspace says which layer is which input of a service.

    `type` is MainImage, AnatomicImage, OverlayImage, Segmentation or PointLandmark.
    """

    name: str
    type: str
    hint: str = ""
    required: bool = True


@dataclass(frozen=True)
class Service:
    """What a ticket can ask for: a model of this server, or an algorithm that a provider runs.

    Attributes:
        githash: 40 lower-case hexadecimal digits that stand for one version of one service.
        name: without blanks.
        version: `major.minor.patch`.
        shortdesc: 78 characters at most.
        tags: its inputs.
        model: id of the model of this server that it is; None of an external service.
    """

    githash: str
    name: str
    version: str
    shortdesc: str
    longdesc: str = ""
    url: str = ""
    citation: str = ""
    keywords: tuple[str, ...] = ()
    tags: tuple[Tag, ...] = ()
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """One request for a service.

    Attributes:
        id: rises.
        token: name of the access token that made it; whose it is.
        githash, service, version: of the service.
        outcome: how it ended, also after it was deleted.
        ready_at: when it last became ready.
        seen_at: when its provider was last heard of.
        provider, instance, claimant: who claimed it; `claimant` is the name of an access token.
        task_uid: the linked task of a ticket on a model.
        event_seq: the last event of that task that stands in the ticket's log.
    """

    id: int
    token: str
    githash: str
    service: str
    version: str
    status: TicketStatus
    created_at: float
    outcome: TicketStatus | None = None
    ready_at: float | None = None
    claimed_at: float | None = None
    seen_at: float | None = None
    ended_at: float | None = None
    provider: str | None = None
    instance: str | None = None
    claimant: str | None = None
    task_uid: str | None = None
    event_seq: int = 0


@dataclass(frozen=True)
class TicketFile:
    """A file of a ticket. `number` is its place in its area, from 0, and stays what it is."""

    number: int
    name: str
    blob: str
    size_bytes: int


@dataclass(frozen=True)
class Attachment:
    """A file that belongs to a line of a log; `link` is the 32 digits of its public address."""

    id: int
    link: str
    description: str
    mime_type: str
    blob: str
    size_bytes: int


@dataclass(frozen=True)
class LogEntry:
    """A line of a ticket's log. `id` rises over all tickets of the server."""

    id: int
    time: float
    category: Category
    message: str
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True)
class Detail:
    """All that a waiting client asks for. `queue_position` is from 1, of a ready ticket alone."""

    ticket: Ticket
    progress: float
    queue_position: int | None
    log: tuple[LogEntry, ...]


@dataclass(frozen=True)
class Offer:
    """A service that a provider offers."""

    service: Service
    provider: str


@dataclass(frozen=True)
class Statistics:
    """How a service fared during the last day; durations in seconds, None where nothing is known."""

    succeeded: int
    failed: int
    mean_duration_s: float | None
    unheard_s: float | None
    waiting: int
