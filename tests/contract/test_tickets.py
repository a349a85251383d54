"""Tickets in every database that they may be in: who may do what, and that nothing is claimed twice or left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from records import Clock

from inference_server.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    InferenceServerError,
    NotAuthorised,
    OverQuota,
    ResultGone,
    TooLarge,
    UnknownTask,
)
from inference_server.settings import Settings
from inference_server.tasks.audit import Audit
from inference_server.tasks.blobs import LocalBlobs
from inference_server.tasks.caller import Caller, Scope
from inference_server.tasks.database import Database
from inference_server.tasks.tickets.document import decode_service
from inference_server.tasks.tickets.providers import Providers
from inference_server.tasks.tickets.record import Area, Category, Service, Ticket, TicketStatus
from inference_server.tasks.tickets.serving import Serving
from inference_server.tasks.tickets.sessions import Sessions, TokensAndSessions
from inference_server.tasks.tickets.tickets import Tickets
from inference_server.tasks.tickets.upkeep import TicketUpkeep
from inference_server.tasks.tokens import Tokens

USER = frozenset({Scope.SUBMIT, Scope.READ_OWN})
ALICE, BOB, BRAIN, OTHER = (Caller(name, USER, "dss") for name in ("alice", "bob", "brain", "other"))
OPERATOR = Caller("technician", frozenset({Scope.OPERATE}), "dss")


class Site:
    """Tickets on empty records, with two providers of two services."""

    def __init__(self, database: Database, folder: Path, clock: Clock) -> None:
        self.database, self.clock = database, clock
        self.blobs = LocalBlobs(folder / "blobs")
        self.settings = Settings(data_dir=folder, dss_provider_silence_s=100, retention_s=1000, queue_time_limit_s=500)
        self.tickets = Tickets(database, self.blobs, limit=3, file_limit=2, clock=clock)
        self.providers = Providers(database)
        self.serving = Serving(self.tickets, self.providers)
        self.upkeep = TicketUpkeep(self.tickets, self.settings)
        for name in ("alice", "bob", "brain", "other"):
            Tokens(database, clock=clock).create(name, USER)
        self.hippocampus, self.tumor = self.offered("penn", "brain", "ashs"), self.offered("utrecht", "other", "glio")

    def offered(self, provider: str, user: str, name: str) -> Service:
        self.providers.add(provider)
        self.providers.admit(provider, user)
        service = decode_service(f'{{"name": "{name}", "version": "1.0.0", "shortdesc": "{name}"}}')
        self.providers.offer(provider, service)
        return service

    def staged(self, content: bytes = b"x") -> Path:
        path = self.blobs.stage()
        path.write_bytes(content)
        return path

    def fresh(self, caller: Caller = ALICE) -> Ticket:
        ticket = self.tickets.create(self.hippocampus, caller)
        self.tickets.add_file(ticket.id, "a.itksnap", self.staged(), caller)
        return ticket

    def ready(self, caller: Caller = ALICE) -> int:
        return self.tickets.set_ready(self.fresh(caller).id, caller).id

    def claimed(self) -> int:
        ticket_id = self.ready()
        found = self.claim()
        assert found is not None
        assert found.id == ticket_id
        return ticket_id

    def claim(self, caller: Caller = BRAIN) -> Ticket | None:
        return self.serving.claim([self.hippocampus.githash], "penn", "gpu-1", caller)

    def ended(self, status: TicketStatus = TicketStatus.SUCCESS) -> int:
        ticket_id = self.claimed()
        self.serving.add_file(ticket_id, "result.nii.gz", self.staged(b"labels"), BRAIN)
        self.serving.attach(ticket_id, self.staged(), description="d", mime_type="text/plain", caller=BRAIN)
        self.serving.add_log(ticket_id, Category.INFO, "done", BRAIN)
        self.serving.set_status(ticket_id, status, BRAIN)
        return ticket_id

    def files(self) -> int:
        """Return how many files there are on the disk."""
        return sum(path.is_file() for path in (self.settings.data_dir / "blobs").rglob("*"))

    def told(self) -> list[tuple[str, str, str]]:
        return [(entry.token, entry.action, entry.uid) for entry in Audit(self.database).entries()]


@pytest.fixture
def site(database: Database, tmp_path: Path, clock: Clock) -> Site:
    return Site(database, tmp_path, clock)


def test_a_ticket_goes_from_its_maker_to_a_provider_and_back(site: Site) -> None:
    ticket_id = site.ready()
    waiting = site.tickets.detail(ticket_id, ALICE)
    assert (waiting.ticket.status, waiting.queue_position, waiting.progress) == ("ready", 1, 0.0)
    assert site.serving.available([site.hippocampus.githash], BRAIN) == [(site.hippocampus.githash, "ashs", 1)]
    claimed = site.claim()
    assert claimed is not None
    assert (claimed.id, claimed.provider, claimed.instance, claimed.claimant) == (ticket_id, "penn", "gpu-1", "brain")
    (sent,) = site.serving.files(ticket_id, Area.INPUT, BRAIN)
    with site.blobs.open(site.serving.fetch(ticket_id, Area.INPUT, sent.number, BRAIN).blob) as file:
        assert file.read() == b"x"
    site.serving.set_progress(ticket_id, start=0.0, end=0.5, progress=0.5, caller=BRAIN)
    made = site.serving.attach(ticket_id, site.staged(), description="a plot", mime_type="image/png", caller=BRAIN)
    line = site.serving.add_log(ticket_id, Category.WARNING, "motion", BRAIN)
    assert site.tickets.detail(ticket_id, ALICE).progress == 0.25
    site.serving.add_file(ticket_id, "result.nii.gz", site.staged(b"labels"), BRAIN)
    assert site.serving.set_status(ticket_id, TicketStatus.SUCCESS, BRAIN) == "success"
    assert site.serving.set_status(ticket_id, TicketStatus.SUCCESS, BRAIN) == "success"
    done = site.tickets.detail(ticket_id, ALICE)
    assert (done.ticket.status, done.ticket.outcome, done.progress, done.queue_position) == (
        "success",
        "success",
        1,
        None,
    )
    assert [(entry.category, entry.message) for entry in done.log] == [
        ("info", "Ticket received and queued for processing"),
        ("info", "Ticket claimed by provider penn instance gpu-1"),
        ("warning", "motion"),
    ]
    assert [entry.attachments for entry in done.log] == [(), (), (made,)]
    assert site.tickets.log(ticket_id, ALICE, since=done.log[1].id) == done.log[2:]
    assert site.tickets.attachments(line, ALICE) == (made,) == (site.tickets.attachment_at(made.link),)
    assert site.told() == [
        ("alice", "submitted", f"ticket/{ticket_id}"),
        ("brain", "fetched", f"ticket/{ticket_id}"),
    ]


VERBS: dict[str, Callable[[Site, int], object]] = {
    "get": lambda site, ticket: site.tickets.get(ticket, BOB),
    "detail": lambda site, ticket: site.tickets.detail(ticket, BOB),
    "files": lambda site, ticket: site.tickets.files(ticket, Area.INPUT, BOB),
    "fetch": lambda site, ticket: site.tickets.fetch(ticket, Area.INPUT, 0, BOB),
    "add file": lambda site, ticket: site.tickets.add_file(ticket, "b", site.staged(), BOB),
    "ready": lambda site, ticket: site.tickets.set_ready(ticket, BOB),
    "retry": lambda site, ticket: site.tickets.retry(ticket, BOB),
    "delete": lambda site, ticket: site.tickets.delete(ticket, BOB),
    "attachments": lambda site, ticket: site.tickets.attachments(site.tickets.log(ticket, ALICE)[0].id, BOB),
    "pro status": lambda site, ticket: site.serving.status(ticket, OTHER),
    "pro files": lambda site, ticket: site.serving.files(ticket, Area.INPUT, OTHER),
    "pro fetch": lambda site, ticket: site.serving.fetch(ticket, Area.INPUT, 0, OTHER),
    "pro add file": lambda site, ticket: site.serving.add_file(ticket, "b", site.staged(), OTHER),
    "pro set status": lambda site, ticket: site.serving.set_status(ticket, TicketStatus.FAILED, OTHER),
    "pro log": lambda site, ticket: site.serving.add_log(ticket, Category.INFO, "hi", OTHER),
    "pro attach": lambda site, ticket: site.serving.attach(
        ticket, site.staged(), description="", mime_type="text/plain", caller=OTHER
    ),
    "pro set progress": lambda site, ticket: site.serving.set_progress(
        ticket, start=0, end=1, progress=1, caller=OTHER
    ),
    "pro progress": lambda site, ticket: site.serving.progress(ticket, OTHER),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_ticket_of_somebody_else_is_an_unknown_one(site: Site, verb: str) -> None:
    ticket_id = site.claimed()
    before = site.tickets.detail(ticket_id, ALICE)
    with pytest.raises(UnknownTask, match="no such ticket"):
        VERBS[verb](site, ticket_id)
    assert site.tickets.detail(ticket_id, ALICE) == before
    assert site.files() == 1


def test_who_operates_may_follow_and_delete_but_not_fetch(site: Site) -> None:
    ticket_id = site.claimed()
    assert site.tickets.get(ticket_id, OPERATOR).status == "claimed"
    with pytest.raises(Forbidden):
        site.tickets.fetch(ticket_id, Area.INPUT, 0, OPERATOR)
    site.tickets.delete(ticket_id, OPERATOR)
    assert site.told()[-1] == ("technician", "deleted", f"ticket/{ticket_id}")
    assert [ticket.id for ticket in site.tickets.list_all()] == []


def test_nobody_claims_for_a_provider_that_he_does_not_serve(site: Site) -> None:
    site.ready()
    for hashes, provider, caller in [
        ([site.hippocampus.githash], "penn", OTHER),
        ([site.hippocampus.githash], "utrecht", BRAIN),
        ([site.hippocampus.githash, site.tumor.githash], "penn", BRAIN),
        ([], "penn", BRAIN),
    ]:
        with pytest.raises(BadRequest, match="do not serve"):
            site.serving.claim(hashes, provider, "x", caller)
    site.providers.dismiss("penn", "brain")
    with pytest.raises(BadRequest, match="do not serve"):
        site.claim()


def test_the_oldest_ready_ticket_goes_first_and_positions_say_so(site: Site) -> None:
    first, second, third = (site.ready() for _ in range(3))
    assert [site.tickets.detail(ticket, ALICE).queue_position for ticket in (first, second, third)] == [1, 2, 3]
    assert [found.id for found in (site.claim(), site.claim(), site.claim()) if found] == [first, second, third]
    assert site.claim() is None


def test_instances_that_claim_together_get_every_ticket_once(site: Site) -> None:
    made = []
    for number in range(40):
        caller = Caller(f"user{number}", USER, "dss")
        made.append(site.ready(caller))
    got: list[int] = []

    def serve() -> None:
        while (ticket := site.claim()) is not None:
            got.append(ticket.id)

    instances = [threading.Thread(target=serve) for _ in range(4)]
    for instance in instances:
        instance.start()
    for instance in instances:
        instance.join()
    assert sorted(got) == made


def test_a_user_has_so_many_open_tickets_and_no_more(site: Site) -> None:
    tickets = [site.fresh() for _ in range(3)]
    with pytest.raises(OverQuota, match="3 open tickets"):
        site.fresh()
    assert site.fresh(BOB).token == "bob"
    site.tickets.delete(tickets[0].id, ALICE)
    assert site.fresh().status == "init"


@pytest.mark.parametrize("name", ["../a", "a/b", "a\\b", "..", ".", "", " ", "a\nb", "C:a", "x" * 201, "a\0"])
def test_a_name_that_is_none_is_refused_and_leaves_nothing(site: Site, name: str) -> None:
    ticket = site.tickets.create(site.hippocampus, ALICE)
    with pytest.raises(BadRequest, match="bare name"):
        site.tickets.add_file(ticket.id, name, site.staged(), ALICE)
    assert site.files() == 0


def test_a_file_of_the_same_name_takes_the_place_of_the_one_before(site: Site) -> None:
    ticket = site.fresh()
    site.tickets.add_file(ticket.id, "b.nii.gz", site.staged(b"1"), ALICE)
    site.tickets.add_file(ticket.id, "a.itksnap", site.staged(b"22"), ALICE)
    shown = [(file.number, file.name, file.size_bytes) for file in site.tickets.files(ticket.id, Area.INPUT, ALICE)]
    assert shown == [(0, "a.itksnap", 2), (1, "b.nii.gz", 1)]
    assert site.files() == 2
    with pytest.raises(TooLarge):
        site.tickets.add_file(ticket.id, "c", site.staged(), ALICE)
    assert site.files() == 2


def test_what_a_state_does_not_allow_is_refused(site: Site) -> None:
    empty = site.tickets.create(site.hippocampus, ALICE)
    with pytest.raises(BadRequest, match="no files"):
        site.tickets.set_ready(empty.id, ALICE)
    ticket_id = site.claimed()
    with pytest.raises(BadRequest, match="claimed"):
        site.tickets.add_file(ticket_id, "b", site.staged(), ALICE)
    with pytest.raises(BadRequest, match="claimed"):
        site.tickets.set_ready(ticket_id, ALICE)
    with pytest.raises(Conflict, match="claimed"):
        site.tickets.retry(ticket_id, ALICE)
    with pytest.raises(BadRequest, match="success or failed"):
        site.serving.set_status(ticket_id, TicketStatus.READY, BRAIN)
    site.tickets.delete(ticket_id, ALICE)
    with pytest.raises(Conflict, match="deleted"):
        site.serving.add_log(ticket_id, Category.INFO, "hi", BRAIN)
    assert site.serving.status(ticket_id, BRAIN) == "deleted"


@pytest.mark.parametrize("numbers", [(-0.1, 1, 1), (0, 1.1, 1), (0, 1, 2), (0, 1, float("nan")), (0.5, 0.5, 1)])
def test_progress_is_a_number_between_none_and_all(site: Site, numbers: tuple[float, float, float]) -> None:
    ticket_id = site.claimed()
    start, end, progress = numbers
    with pytest.raises(BadRequest):
        site.serving.set_progress(ticket_id, start=start, end=end, progress=progress, caller=BRAIN)


def test_chunks_add_up_and_nothing_forgets_those_inside(site: Site) -> None:
    ticket_id = site.claimed()

    def after(start: float, end: float, progress: float) -> float:
        site.serving.set_progress(ticket_id, start=start, end=end, progress=progress, caller=BRAIN)
        return site.serving.progress(ticket_id, BRAIN)

    assert [after(0, 0.5, 0.5), after(0, 0.5, 1), after(0.5, 0.75, 1), after(0.75, 1, 0.5)] == [0.25, 0.5, 0.75, 0.875]
    assert after(0.5, 1, 0) == 0.5
    assert after(0, 1, 0) == 0.0


def test_a_silent_provider_loses_its_ticket_which_can_be_tried_again(site: Site) -> None:
    ticket_id = site.ended(TicketStatus.FAILED)
    site.tickets.retry(ticket_id, ALICE)
    again = site.tickets.detail(ticket_id, ALICE)
    assert (again.ticket.status, again.ticket.claimant, again.progress) == ("ready", None, 0.0)
    assert again.log[-1].message == "Retrying ticket"
    assert site.tickets.files(ticket_id, Area.RESULTS, ALICE) == ()
    assert site.claim() is not None
    site.clock.now += 90
    site.serving.status(ticket_id, BRAIN)
    site.clock.now += 90
    assert site.upkeep.expire_silent(site.clock.now) == []
    site.clock.now += 20
    assert site.upkeep.expire_silent(site.clock.now) == [ticket_id]
    assert site.tickets.get(ticket_id, ALICE).status == "timeout"
    with pytest.raises(Conflict, match="timeout"):
        site.serving.add_log(ticket_id, Category.INFO, "hi", BRAIN)
    site.tickets.retry(ticket_id, ALICE)
    with pytest.raises(UnknownTask):
        site.serving.add_log(ticket_id, Category.INFO, "hi", BRAIN)


def test_what_nobody_claims_times_out(site: Site) -> None:
    ticket_id = site.ready()
    site.clock.now += 501
    assert site.upkeep.expire_unclaimed(site.clock.now) == [ticket_id]
    assert site.tickets.log(ticket_id, ALICE)[-1].category == "error"


def test_a_deleted_ticket_leaves_no_byte_and_no_word(site: Site) -> None:
    ticket_id = site.ended()
    (line,) = [entry for entry in site.tickets.log(ticket_id, ALICE) if entry.attachments]
    assert site.files() == 3
    site.tickets.delete(ticket_id, ALICE)
    left = site.tickets.detail(ticket_id, ALICE)
    assert (left.ticket.status, left.ticket.outcome, left.log) == ("deleted", "success", ())
    assert site.files() == 0
    with pytest.raises(ResultGone):
        site.tickets.attachment_at(line.attachments[0].link)
    assert site.told()[-1] == ("alice", "deleted", f"ticket/{ticket_id}")
    site.tickets.delete(ticket_id, ALICE)
    assert len(site.told()) == 2


def test_old_tickets_go_and_blobs_of_the_others_are_known(site: Site) -> None:
    site.ended()
    site.clock.now += 900
    kept = site.ended()
    site.tickets.add_file(site.tickets.create(site.tumor, BOB).id, "x", site.staged(), BOB)
    site.clock.now += 200
    site.upkeep.sweep()
    assert [ticket.status for ticket in site.tickets.list_all()] == ["success", "init"]
    assert site.tickets.list_all()[0].id == kept
    there = site.blobs.older_than(-1)
    assert site.upkeep.known_blobs([*there, "f" * 32]) == set(there)
    assert len(there) == 4


def test_services_are_listed_while_somebody_offers_them(site: Site) -> None:
    assert [service.name for service in site.providers.services()] == ["ashs", "glio"]
    assert site.providers.services()[0] == site.hippocampus
    twin = decode_service('{"name": "ashs", "version": "1.0.0", "shortdesc": "another"}')
    with pytest.raises(Conflict, match="name and version"):
        site.providers.offer("utrecht", twin)
    site.providers.withdraw("penn", site.hippocampus.githash)
    assert [service.name for service in site.providers.services()] == ["glio"]
    site.providers.offer("utrecht", twin)
    site.providers.remove("utrecht")
    assert (site.providers.services(), site.providers.names()) == ((), ("penn",))


def test_members_have_tokens_and_numbers_that_stay(site: Site) -> None:
    (before,) = site.providers.members("penn")
    assert (before.name, before.is_admin) == ("brain", False)
    site.providers.admit("penn", "brain", is_admin=True)
    assert [(member.id, member.is_admin) for member in site.providers.members("penn")] == [(before.id, True)]
    for wrong in (
        lambda: site.providers.admit("penn", "nobody"),
        lambda: site.providers.admit("nowhere", "brain"),
        lambda: site.providers.dismiss("penn", "other"),
        lambda: site.providers.add("a b"),
    ):
        with pytest.raises(BadRequest):
            wrong()
    site.providers.dismiss("penn", before.id)
    assert site.providers.members("penn") == ()


def test_a_sign_in_counts_once_and_a_session_ends_with_its_token(site: Site) -> None:
    sessions = Sessions(site.database, lifetime_s=1000, clock=site.clock)
    tokens = TokensAndSessions(site.database, sessions, clock=site.clock)
    text = sessions.offer(ALICE)
    assert len(text) == 40
    found = sessions.redeem(text)
    session = sessions.open(found.token_id)
    assert tokens.bearer(session, tokens.find(session)).name == found.name == "alice"
    forged = session[:-1] + ("a" if session[-1] != "a" else "b")

    def refused(*tries: Callable[[], object]) -> None:
        for attempt in tries:
            with pytest.raises(NotAuthorised):
                attempt()

    refused(
        lambda: sessions.redeem(text),
        lambda: sessions.redeem("0" * 40),
        lambda: tokens.bearer(forged, tokens.find(forged)),
    )
    late = sessions.offer(ALICE)
    site.clock.now += 901
    refused(lambda: sessions.redeem(late))
    over, other = (sessions.open(found.token_id) for _ in range(2))
    sessions.end(over)
    sessions.end("none_of_these")
    refused(lambda: tokens.bearer(over, tokens.find(over)))
    assert tokens.bearer(other, tokens.find(other)).name == "alice"
    tokens.revoke("alice")
    refused(lambda: tokens.bearer(other, tokens.find(other)), lambda: sessions.offer(ALICE))
    site.clock.now += 1000
    assert tokens.find(other) is None
    sessions.forget_old()


@pytest.mark.parametrize(
    "document",
    [
        "no json",
        "[]",
        '{"name": "a b", "version": "1.0.0", "shortdesc": "x"}',
        '{"name": "a", "version": "new", "shortdesc": "x"}',
        '{"name": "a", "version": "1", "shortdesc": ""}',
        '{"name": "a", "version": "1", "shortdesc": "x", "tags": [{"name": "t", "type": "Picture"}]}',
    ],
)
def test_a_service_document_that_is_none_is_named(document: str) -> None:
    with pytest.raises(InferenceServerError, match=r"service\.json"):
        decode_service(document)
