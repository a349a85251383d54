"""Submitting a task through the native API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flask import Request
from pydantic import ValidationError

from inference_server.api.context import Context
from inference_server.api.native.models import SubmitForm
from inference_server.api.problems import Refused, invalid_request
from inference_server.api.upload import Parts, Upload, at_part, received
from inference_server.errors import BadRequest, Forbidden, InferenceServerError
from inference_server.tasks.caller import Caller, Scope
from inference_server.tasks.case_files.names import NEWER_META, POINTS
from inference_server.tasks.case_zip import write_case
from inference_server.tasks.record import Priority, Task
from inference_server.tasks.submission import Submission

DIALECT = "native"

PARTS = Parts(files=frozenset({"case", "image"}), texts=frozenset(SubmitForm.model_fields))


def submit(context: Context, request: Request, caller: Caller, *, idempotency_key: str | None) -> tuple[Task, bool]:
    """Receive a case and make a task of it.

    Returns:
        The task, and whether it is a new one (False: the idempotency key is known, and this is its task).
    """
    with received(request, context.tasks, PARTS, limit_bytes=context.settings.upload_limit_bytes) as upload:
        form = parse_form(upload.texts)
        submission = Submission(
            model=form.model,
            staged=staged_case(upload, form),
            dialect=DIALECT,
            token=caller.name,
            priority=_priority(form, caller),
            parameters=form.parameters,
            outputs=form.outputs,
            idempotency_key=idempotency_key,
        )
        with at_part("image" if upload.files["image"] else "case"), _as_sent(form):
            return context.tasks.submit(submission)


def parse_form(texts: dict[str, str]) -> SubmitForm:
    """Return the texts of a form, checked.

    Raises:
        Refused: one is missing or not valid.
    """
    try:
        return SubmitForm.model_validate(texts)
    except ValidationError as exc:
        raise Refused(invalid_request(exc, noun="form's")) from exc


def staged_case(upload: Upload, form: SubmitForm) -> Path:
    """Return the staged zip of the case: the one that was sent, or one made of the images.

    Raises:
        BadRequest: there is no case, more than one, or something beside a zip that is part of it.
    """
    cases, images = upload.files["case"], upload.files["image"]
    has_parts = bool(images) or (form.points is not None and not cases)
    if len(cases) + has_parts != 1:
        raise BadRequest("Send one zip as 'case', or one or more NIfTI files as 'image'.", field="case")
    if has_parts:
        return _packed(upload, images, form)
    if form.scaling_factor:
        raise BadRequest("The scaling factor of a zip stands in its own meta.json.", field="scaling_factor")
    if form.points is not None:
        raise BadRequest("The points of a zip stand in its own points.json.", field="points")
    return cases[0]


def _priority(form: SubmitForm, caller: Caller) -> Priority:
    priority = Priority[form.priority.upper()]
    if priority is Priority.URGENT and Scope.URGENT not in caller.scopes:
        raise Forbidden(
            "This access token does not allow urgent tasks; one with the scope 'urgent' does.", field="priority"
        )
    return priority


@contextmanager
def _as_sent(form: SubmitForm) -> Iterator[None]:
    """Call what was sent beside plain images by its own name, not by that of its place in the case."""
    try:
        yield
    except InferenceServerError as exc:
        if form.scaling_factor and exc.field == f"{NEWER_META}: scaling_factor":
            exc.field = "scaling_factor"
        if form.points is not None and (exc.field or "").partition(":")[0] in ("points", POINTS):
            exc.field = "points"
        raise


def _packed(upload: Upload, images: list[Path], form: SubmitForm) -> Path:
    packed = upload.stage()
    write_case(packed, images, scaling_factor=form.scaling_factor, points=form.points or {})
    return packed
