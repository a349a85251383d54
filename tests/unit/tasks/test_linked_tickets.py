"""Tickets on models: one task each, whose progress, events and result become the ticket's."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from door_support import ONE
from nifti_files import GEOMETRY_BYTES, oblique
from records import HOLDER
from sqlalchemy import update
from tickets import ANNA, ARRAY, WORKSPACE, Site, labels_like, layer, main, picture, uploaded

from inference_server.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    InferenceServerError,
    OverQuota,
    QueueTimedOut,
    StorageFull,
    StoreUnavailable,
    UnknownModel,
    UnknownTask,
)
from inference_server.imaging.workspace import Landmark, Role, SnapLabel, Workspace, read_workspace
from inference_server.imaging.workspace.xml import LIMIT_BYTES
from inference_server.models.case import Result
from inference_server.models.manifest import Channel, LabelName, Manifest, NamedInput
from inference_server.tasks.caller import Caller, Scope
from inference_server.tasks.record import Problem, Status
from inference_server.tasks.schema import tasks
from inference_server.tasks.store import TaskFilter
from inference_server.tasks.tickets import rows
from inference_server.tasks.tickets.links import Links
from inference_server.tasks.tickets.record import Area, Ticket, TicketStatus

TWO = Manifest(id="two", channels=(Channel(name="T1"), Channel(name="FLAIR"), Channel(name="T2", required=False)))
SEEDED = Manifest(
    id="seeded",
    runtime="python-app",
    app="app.py:run",
    points=(NamedInput(name="seeds"), NamedInput(name="more", required=False)),
)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, ONE, TWO, SEEDED)
    yield made
    made.close()


def running(site: Site, workspace: Workspace | None = None) -> Ticket:
    return site.ready(site.sent(uploaded(workspace or Workspace((main(),)))))


def case_of(site: Site, ticket: Ticket) -> zipfile.ZipFile:
    task = site.store.get(site.now(ticket).task_uid or "")
    with site.blobs.open(task.case_blob or "") as file:
        return zipfile.ZipFile(io.BytesIO(file.read()))


def test_a_ready_ticket_makes_one_task_of_the_main_image_in_the_callers_name(site: Site) -> None:
    ticket = running(site, Workspace((main("level=0.25", "MRI"), layer("b.nii.gz"))))
    assert ticket.status is TicketStatus.READY
    task = site.store.get(ticket.task_uid or "")
    assert (task.model, task.token, task.dialect, task.parameters) == ("one", "anna", "dss", {"level": 0.25})
    with case_of(site, ticket) as case:
        assert case.namelist() == ["tmp_0000.nii.gz"]
        assert case.read("tmp_0000.nii.gz") == picture()
    assert site.lines(ticket) == ["info: Ticket received and queued for processing"]
    assert site.turns.sent == ["default"]


def test_layers_become_channels_by_their_tags(site: Site) -> None:
    workspace = Workspace((main("flair"), layer("a.nii.gz", "t1"), layer("c.nii.gz", "other")))
    images = {"layer_000.nii.gz": picture(2), "a.nii.gz": picture(2, ARRAY + 1)}
    ticket = site.ready(site.sent(uploaded(workspace, **images), "two"))
    with case_of(site, ticket) as case:
        assert [case.read(f"tmp_000{number}.nii.gz") for number in (0, 1)] == [*images.values()][::-1]


def grid_in(site: Site, ticket: Ticket) -> bytes | None:
    with case_of(site, ticket) as case:
        return case.read("grid.hdr") if "grid.hdr" in case.namelist() else None


def test_labels_are_wanted_on_the_grid_of_the_main_image(site: Site) -> None:
    other = picture(1, np.zeros((9, 8, 7), np.int16))
    layers = {"the model's first": ("T1", "FLAIR"), "another": ("FLAIR", "T1")}
    found = {}
    for which, (first, second) in layers.items():
        workspace = Workspace((main(first), layer("a.nii.gz", second)))
        files = uploaded(workspace, **{"layer_000.nii.gz": picture(2), "a.nii.gz": picture(3)})
        found[which] = grid_in(site, site.ready(site.sent(files, "two")))
    assert found == {"the model's first": None, "another": gzip.decompress(picture(2))[:348]}
    files = uploaded(Workspace((main("T1"), layer("b.nii.gz"))), **{"layer_000.nii.gz": picture(2), "b.nii.gz": other})
    assert grid_in(site, site.ready(site.sent(files))) is None
    tagged = uploaded(Workspace((main(), layer("b.nii.gz", ONE.channels[0].name))), **{"layer_000.nii.gz": other})
    assert grid_in(site, site.ready(site.sent(tagged))) == gzip.decompress(other)[:348]


def test_landmarks_become_points_in_the_patient(site: Site) -> None:
    workspace = Workspace((main(),), landmarks=(Landmark("x", (0.5, 0.5, 0.5), ("seeds",)),))
    ticket = site.ready(site.sent(uploaded(workspace), "seeded"))
    x, y, z = oblique(0)[:3, 3]
    with case_of(site, ticket) as case:
        points = json.loads(case.read("points.json"))
    assert list(points) == ["seeds"]
    np.testing.assert_allclose(points["seeds"], [[-x, -y, z]], rtol=1e-6)


NO_IMAGE = b"GIF89a" + bytes(400)


@pytest.mark.parametrize(
    ("model", "workspace", "changes", "sentence"),
    [
        ("one", Workspace((main(), main(name="b.nii.gz"))), {}, "has 2 main images; one was expected"),
        ("one", Workspace(), {}, "has no main image"),
        ("one", Workspace((main("a=1", "level=7"),)), {}, "'level' must be a number from 0 to 1; '7' came"),
        ("two", Workspace((main("T1"),)), {}, "No layer .* 'FLAIR', which this service needs. Tags .*: T1"),
        ("two", Workspace((main("T1"), layer("b.nii.gz", "T1"))), {}, "2 layers .* 'T1'"),
        ("seeded", Workspace((main(),)), {}, "needs the points 'seeds'"),
        ("one", Workspace((main(),)), {"layer_000.nii.gz": None}, "layer 0 whose image was not uploaded"),
        ("one", Workspace((main(), layer("b.nii.gz"))), {"b.nii.gz": None}, "layer 1 whose image was not uploaded"),
        ("one", Workspace((main(),)), {WORKSPACE: None}, "one workspace, .* none came"),
        ("one", Workspace((main(),)), {"b.itksnap": b""}, "one workspace, .* 2 came"),
        ("one", Workspace((main(),)), {WORKSPACE: b"not"}, "The workspace is not well-formed XML"),
        ("one", Workspace((main(),)), {WORKSPACE: bytes(LIMIT_BYTES + 1)}, "The workspace is larger than 16 MiB"),
        ("one", Workspace((main(),)), {"layer_000.nii.gz": NO_IMAGE}, "NIfTI"),
        ("one", Workspace((main(),)), {"layer_000.nii.gz": picture()[:100]}, "damaged or cut off"),
    ],
)
def test_what_cannot_be_run_is_refused_in_words_and_the_ticket_stays(
    site: Site, model: str, workspace: Workspace, changes: dict[str, bytes | None], sentence: str
) -> None:
    files = {name: content for name, content in {**uploaded(workspace), **changes}.items() if content is not None}
    ticket = site.sent(files, model)
    with pytest.raises(InferenceServerError, match=sentence) as refused:
        site.ready(ticket)
    assert refused.value.status in (400, 413, 422)
    assert site.now(ticket) == ticket
    assert not site.store.page(TaskFilter()).tasks
    assert len(site.blob_files()) == len(files)


def test_a_ticket_is_made_ready_once(site: Site) -> None:
    ticket = running(site)
    with pytest.raises(BadRequest, match="The ticket is ready; only a fresh one"):
        site.ready(ticket)


def test_what_was_interrupted_is_gone_on_with_and_makes_no_second_task(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = site.sent(uploaded(Workspace((main(),))))

    def killed(*_: object, **__: object) -> Ticket:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(site.tickets, "set_ready", killed)
        with pytest.raises(KeyboardInterrupt):
            site.ready(ticket)
    assert site.now(ticket).status is TicketStatus.INIT
    site.ready(ticket)
    site.go_on(site.claim())
    assert site.claims.claim(["default"], HOLDER, 15.0) is None


def test_a_ticket_that_was_deleted_meanwhile_leaves_no_task(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = site.sent(uploaded(Workspace((main(),))))
    set_ready = site.tickets.set_ready

    def too_late(ticket_id: int, caller: Caller, **values: object) -> Ticket:
        site.tickets.delete(ticket_id, caller)
        return set_ready(ticket_id, caller, **values)

    monkeypatch.setattr(site.tickets, "set_ready", too_late)
    with pytest.raises(BadRequest):
        site.ready(ticket)
    assert site.blob_files() == []


def test_progress_and_events_of_the_task_become_the_tickets(site: Site) -> None:
    ticket = running(site)
    assert site.linked.refreshed(ticket).status is TicketStatus.READY
    claim, seen = site.claim(), []
    for number, progress in enumerate((0.25, 0.5, 0.75)):
        assert site.claims.renew(claim, 15.0, progress=progress, events=[("warning", f"event {number}")])
        ticket = site.linked.refreshed(ticket)
        site.another().refreshed(ticket)
        seen.append(site.tickets.detail(ticket.id, ANNA).progress)
    assert (ticket.status, seen) == (TicketStatus.CLAIMED, [0.25, 0.5, 0.75])
    lines = site.tickets.log(ticket.id, ANNA)
    assert [line.message for line in lines[-3:]] == ["event 0", "event 1", "event 2"]
    ids = [line.id for line in lines]
    assert ids == sorted(set(ids))


def test_events_that_two_processes_see_at_once_are_copied_once(site: Site) -> None:
    ticket = running(site)
    claim = site.claim()
    assert site.claims.renew(claim, 15.0, progress=0.5, events=[("info", "once")])
    site.linked.refreshed(ticket)
    site.another().refreshed(ticket)  # from the same, older record
    assert [line for line in site.lines(ticket) if "once" in line] == ["info: once"]


def test_the_result_is_the_workspace_with_its_segmentation_on_exactly_the_images_grid(
    site: Site, tmp_path: Path
) -> None:
    workspace = Workspace((main("MRI"), layer("b.nii.gz")), (SnapLabel(1, "old"), SnapLabel(5, "mine", (1, 2, 3))))
    ticket = running(site, workspace)
    result = Result((labels_like(picture(), tmp_path),))
    site.finish_with(site.claim(), result, notes=["A note."], classifications={"ill": 0.25}, texts={"said": "so\nand"})
    ticket = site.linked.refreshed(ticket)
    assert (ticket.status, site.tickets.detail(ticket.id, ANNA).progress) == (TicketStatus.SUCCESS, 1.0)
    files = site.results(ticket)
    assert set(files) == {"body.nii.gz", "layer_000.nii.gz", "b.nii.gz", "ticket_00000001_results.itksnap"}
    assert files["layer_000.nii.gz"] == picture()
    made = read_workspace(files["ticket_00000001_results.itksnap"])
    assert [(one.path, one.role, one.tags) for one in made.layers] == [
        ("./layer_000.nii.gz", Role.MAIN, ("MRI",)),
        ("./b.nii.gz", Role.OVERLAY, ()),
        ("./body.nii.gz", Role.SEGMENTATION, ("body",)),
    ]
    assert [(one.value, one.name) for one in made.labels] == [(1, "BODY"), (5, "mine")]
    labels, image = gzip.decompress(files["body.nii.gz"]), gzip.decompress(picture())
    assert [labels[part] for part in GEOMETRY_BYTES[1:]] == [image[part] for part in GEOMETRY_BYTES[1:]]
    voxels = np.frombuffer(labels[352:], np.uint8).reshape(ARRAY.shape, order="F")
    np.testing.assert_array_equal(voxels, ARRAY > 30)
    assert site.lines(ticket)[-4:] == [
        "warning: A note.",
        "info: ill: 0.2500",
        "info: said: so and",
        "info: The model 'one', version 2.1.0, has finished: 1 segmentation (body).",
    ]


def test_colours_are_the_models_or_differ(site: Site, tmp_path: Path) -> None:
    labels = {1: LabelName(name="BODY"), 2: LabelName(name="LUNG", color=(9, 8, 7)), 3: LabelName(name="BONE")}
    site.models.known["one"].manifest = ONE.model_copy(update={"labels": labels})
    ticket = running(site)
    segmentation = replace(labels_like(picture(), tmp_path), names=labels)
    site.finish_with(site.claim(), Result((segmentation,)))
    made = read_workspace(site.results(site.linked.refreshed(ticket))["ticket_00000001_results.itksnap"])
    body, lung, bone = (label.color for label in made.labels)
    assert lung == (9, 8, 7)
    assert len({body, lung, bone}) == 3


def test_a_segmentation_that_has_the_name_of_an_image_gets_another(site: Site, tmp_path: Path) -> None:
    ticket = running(site, Workspace((main(name="BODY.nii.gz"),)))
    site.finish_with(site.claim(), Result((labels_like(picture(), tmp_path),)))
    assert set(site.results(site.linked.refreshed(ticket))) >= {"BODY.nii.gz", "body_2.nii.gz"}


def test_a_finished_ticket_has_its_results_once_however_many_look(site: Site, tmp_path: Path) -> None:
    ticket = running(site)
    site.finish_with(site.claim(), Result((labels_like(picture(), tmp_path),)))
    before = len(site.blob_files())
    site.linked.refreshed(ticket)
    after, lines = len(site.blob_files()), site.lines(ticket)
    assert after == before + 2  # labels and workspace; the image is the one that came
    site.another().refreshed(ticket)  # from the same, older record
    site.another().sweep()
    assert (len(site.blob_files()), site.lines(ticket)) == (after, lines)


def test_a_finished_ticket_keeps_its_images_until_it_is_deleted_and_then_leaves_no_byte(
    site: Site, tmp_path: Path
) -> None:
    ticket = running(site)
    site.finish_with(site.claim(), Result((labels_like(picture(), tmp_path),)))
    ticket = site.linked.refreshed(ticket)
    shared = {file.blob for file in site.tickets.files(ticket.id, Area.INPUT, ANNA)}
    assert len(shared & {file.blob for file in site.tickets.files(ticket.id, Area.RESULTS, ANNA)}) == 1
    site.linked.dropped(site.tickets.delete(ticket.id, ANNA), ANNA)
    assert site.blob_files() == []


def test_results_that_go_leave_the_images_that_the_ticket_came_with(site: Site, tmp_path: Path) -> None:
    ticket = running(site)
    site.finish_with(site.claim(), Result((labels_like(picture(), tmp_path),)))
    site.linked.refreshed(ticket)
    with site.database.writing() as connection:
        gone = rows.clear(connection, ticket.id, Area.RESULTS)
    kept = {file.blob for file in site.tickets.files(ticket.id, Area.INPUT, ANNA)}
    assert (len(gone), kept & set(gone)) == (2, set())


def test_results_that_come_too_late_leave_the_images_that_the_ticket_came_with(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = running(site)
    site.finish_with(site.claim(), Result((labels_like(picture(), tmp_path),)))
    before = site.blob_files()
    with monkeypatch.context() as patched:
        patched.setattr(Links, "end", lambda *_: False)
        site.linked.refreshed(ticket)
    assert site.blob_files() == before
    assert site.linked.refreshed(ticket).status is TicketStatus.SUCCESS


def test_a_ticket_that_cannot_be_brought_up_to_date_keeps_no_other_from_it(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = running(site), running(site)
    for _ in range(2):
        site.finish_with(site.claim(), Result((labels_like(picture(), tmp_path),)))
    deleted = running(site)
    site.tickets.delete(deleted.id, ANNA)
    another = site.another()
    refreshed = another.refreshed

    def broken(ticket: Ticket) -> Ticket:
        if ticket.id == first.id:
            raise KeyError("contents")
        return refreshed(ticket)

    monkeypatch.setattr(another, "refreshed", broken)
    another.sweep()
    assert [record.ticket for record in caplog.records if record.exc_info] == [first.id]  # type: ignore[attr-defined]
    assert [site.now(ticket).status for ticket in (first, second)] == [TicketStatus.READY, TicketStatus.SUCCESS]
    assert site.now(deleted).task_uid is None
    away = site.another()
    monkeypatch.setattr(away, "refreshed", lambda _: (_ for _ in ()).throw(StoreUnavailable()))
    with pytest.raises(StoreUnavailable):
        away.sweep()


def test_a_ticket_that_waited_too_long_has_timed_out_and_can_be_tried_again(site: Site) -> None:
    ticket = running(site)
    with site.database.writing() as connection:
        connection.execute(update(tasks).values(queued_at=tasks.c.queued_at - 1000))
    assert site.claims.queue_timed_out(500) == [ticket.task_uid]
    late = site.linked.refreshed(ticket)
    assert (late.status, late.outcome) == (TicketStatus.TIMEOUT, TicketStatus.TIMEOUT)
    assert site.lines(ticket)[-1] == f"error: {QueueTimedOut().message}"
    again = site.linked.restart(late, ANNA)
    assert (again.status, again.task_uid) == (TicketStatus.READY, ticket.task_uid)


def test_housekeeping_brings_tickets_up_to_date_that_nobody_looks_at(site: Site, tmp_path: Path) -> None:
    ticket = running(site)
    site.finish_with(site.claim(), Result((labels_like(picture(), tmp_path),)))
    site.another().sweep()
    assert site.now(ticket).status is TicketStatus.SUCCESS


def test_a_failed_task_fails_its_ticket_with_its_sentence_and_is_retried_as_the_same_one(
    site: Site, tmp_path: Path
) -> None:
    ticket = running(site)
    site.fail(site.claim(), Problem("prediction", "The model failed on this case."))
    failed = site.linked.refreshed(ticket)
    assert (failed.status, site.lines(ticket)[-1]) == (TicketStatus.FAILED, "error: The model failed on this case.")
    again = site.linked.restart(failed, ANNA)
    assert (again.status, again.task_uid, site.results(again)) == (TicketStatus.READY, ticket.task_uid, {})
    site.finish_with(site.claim(), Result((labels_like(picture(), tmp_path),)))
    assert site.linked.refreshed(again).status is TicketStatus.SUCCESS
    with pytest.raises(Conflict):
        site.linked.restart(site.now(again), ANNA)


def test_a_ticket_whose_task_is_gone_fails_and_is_retried_with_another(site: Site) -> None:
    ticket = running(site)
    site.tasks.delete(ticket.task_uid or "", ANNA)
    failed = site.linked.refreshed(ticket)
    assert failed.status is TicketStatus.FAILED
    again = site.linked.restart(failed, ANNA)
    assert again.task_uid not in (None, ticket.task_uid)
    assert site.store.get(again.task_uid or "").status is Status.QUEUED


def test_a_deleted_ticket_leaves_no_byte_also_if_it_was_interrupted(site: Site) -> None:
    ticket = running(site)
    site.claim()
    site.tickets.delete(ticket.id, ANNA)
    site.another().sweep()
    with pytest.raises(UnknownTask):
        site.store.get(ticket.task_uid or "")
    assert site.blob_files() == []
    site.another().sweep()


def test_a_full_server_refuses_and_the_ticket_can_be_made_ready_later(tmp_path: Path) -> None:
    site = Site(tmp_path, ONE, token_task_limit=1)
    first, second = (site.sent(uploaded(Workspace((main(),)))) for _ in range(2))
    site.ready(first)
    with pytest.raises(OverQuota):
        site.ready(second)
    site.fail(site.claim(), Problem("prediction", "No."))
    assert site.ready(site.now(second)).status is TicketStatus.READY
    site.close()


def test_a_model_that_changed_since_is_another_service(site: Site) -> None:
    ticket = site.sent(uploaded(Workspace((main(),))))
    site.models.known["one"].digest = "another"
    with pytest.raises(UnknownModel, match="The service 'one' was changed or is no longer offered"):
        site.linked.start(ticket, ANNA)


def test_results_wait_for_room_on_the_disk(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = running(site)
    claim = site.claim()
    assert site.claims.renew(claim, 15.0, progress=0.5)
    ticket = site.linked.refreshed(ticket)
    site.finish_with(claim, Result((labels_like(picture(), tmp_path),)))
    before = site.blob_files()

    def full(_: Path) -> str:
        raise StorageFull

    with monkeypatch.context() as patched:
        patched.setattr(site.blobs, "put", full)
        assert site.linked.refreshed(ticket).status is TicketStatus.CLAIMED
    assert site.tickets.detail(ticket.id, ANNA).progress == 1.0
    assert site.blob_files() == before
    assert site.linked.refreshed(ticket).status is TicketStatus.SUCCESS


def test_a_damaged_result_fails_its_ticket(site: Site) -> None:
    ticket = running(site)
    contents = [{"kind": "labels", "name": "body", "member": "body.nii.gz"}]
    site.finish(site.claim(), b"PK, but no zip", {"contents": contents})
    before = site.blob_files()
    assert site.linked.refreshed(ticket).status is TicketStatus.FAILED
    assert "damaged" in site.lines(ticket)[-1]
    assert site.blob_files() == before


def test_who_may_only_see_a_ticket_makes_no_task_of_it(site: Site) -> None:
    ticket = site.sent(uploaded(Workspace((main(),))))
    reader = Caller("reader", frozenset({Scope.READ_ALL, Scope.SUBMIT}), "dss")
    for verb in (site.linked.start, site.linked.restart):
        with pytest.raises(Forbidden):
            verb(ticket, reader)
    assert not site.store.page(TaskFilter()).tasks
    assert site.linked.start(ticket, replace(reader, scopes=frozenset({Scope.OPERATE}))).status is TicketStatus.READY
    assert site.store.page(TaskFilter()).tasks[0].token == "anna"
