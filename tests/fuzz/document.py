"""Every operation of the OpenAPI document, fed by Schemathesis with what fits it and what does not.

Most requests are about tasks that there are, in every state, with the token and with cases, whole and damaged.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import schemathesis
from door_support import case
from hypothesis import strategies as st
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from werkzeug.test import EnvironBuilder, TestResponse

from fuzz.application import STATES, TOKEN, Application, Asked, judged
from fuzz.chance import feed
from fuzz.noise import json_damage
from fuzz.report import Report, options, report_of
from fuzz.zips import zip_damage

CONFORMANCE = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
BATCH = 20
PARAMETERS = b'{"number": 1.5, "count": 2, "flag": true, "note": "a", "side": "left"}'


class Document:
    """The operations of an application's document.

    Args:
        application: answers.
        report: what comes of it is noted there.
    """

    def __init__(self, application: Application, report: Report) -> None:
        self._application = application
        self._report = report
        self._schema = schemathesis.openapi.from_wsgi("/openapi.json", application.doors.app)

    def operations(self) -> list[Any]:
        """Return all of them."""
        return [found.ok() for found in self._schema.get_all_operations()]

    def feed(self, operation: Any, fitting: bool, count: int, number: int) -> None:
        """Send a number of requests to an operation: such as its description allows, or such as it does not."""
        mode = schemathesis.GenerationMode.POSITIVE if fitting else schemathesis.GenerationMode.NEGATIVE

        def one(made: Any, random: Random) -> None:
            if not self._report.over:
                self._send(made, asked_by(made, random))

        requests = operation.as_strategy(generation_mode=mode)
        feed(one, requests, st.randoms(use_true_random=False), count=count, number=number)

    def replay(self, content: bytes) -> None:
        """Send a request of the corpus."""
        self._send(None, Asked.restored(content))

    def _send(self, made: Any, asked: Asked) -> None:
        content = asked.stored()
        self._report.expect(content)
        verdict, answer = judged(self._application, asked, made.operation.label if made else asked.path)
        if made and not verdict.fault:
            fault, detail = _nonconformance(made, answer)
            verdict = replace(verdict, fault=fault and f"{verdict.outcome}: {fault}", detail=detail)
        self._report.note(content, verdict)


def asked_by(made: Any, random: Random) -> Asked:
    """Return the request of a case of Schemathesis, in most of which something is put that leads further in."""
    wanted = made.as_transport_kwargs()
    if made.path_parameters and random.random() < 0.8:
        known = {"uid": "{" + random.choice(STATES) + "}", "model": random.choice(("one", "two"))}
        for name in set(known) & set(made.path_parameters):
            wanted["path"] = made.path.replace(f"{{{name}}}", known[name])
    if made.method == "POST" and made.path.endswith("/tasks") and random.random() < 0.7:
        wanted["data"] = _form(wanted.get("data"), random)
        wanted["headers"].pop("Content-Type", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        request = EnvironBuilder(**wanted).get_request()
    kept = {name: value for name, value in request.headers.items() if name not in ("Content-Length", "Host")}
    headers = {**kept, **TOKEN} if random.random() < 0.9 else kept
    query = request.query_string.decode("latin-1")
    return Asked(made.method, wanted["path"], query, headers, request.get_data())


def _form(said: Any, random: Random) -> dict[str, Any]:
    content = case(random.choice((1, 1, 2)), {"scaling_factor": [1, 1, 2]} if random.random() < 0.3 else None)
    for _ in range(random.choice((0, 0, 1, 2))):
        content = zip_damage(content, random)
    rest = {name: value for name, value in said.items() if isinstance(value, str)} if isinstance(said, dict) else {}
    if random.random() < 0.5:
        rest["parameters"] = json_damage(PARAMETERS, random).decode(errors="replace")
    return {**rest, "model": random.choice(("one", "all", "all", "two")), "case": (io.BytesIO(content), "c.zip")}


def _nonconformance(made: Any, answer: TestResponse) -> tuple[str, str]:
    try:
        made.validate_response(answer, checks=CONFORMANCE)
    except FailureGroup as failures:
        return ", ".join(sorted({failure.title for failure in failures.exceptions})), str(failures)
    return "", ""


def _rounds(document: Document, report: Report, count: int, number: int) -> Iterator[tuple[Any, bool, int, int]]:
    """Yield what to feed: each operation once in both ways, or again and again until the time is up."""
    while True:
        for operation in document.operations():
            for fitting in (True, False):
                number += 1
                yield operation, fitting, count or BATCH, number
        if count or report.over:
            return


def main() -> None:
    """Feed all operations."""
    asked = options()
    report, corpus = report_of(asked)
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        application = Application(Path(folder))
        document = Document(application, report)
        for content in corpus.inputs():
            document.replay(content)
        for operation, fitting, count, number in _rounds(document, report, asked.examples, asked.seed * 1_000_000):
            document.feed(operation, fitting, count, number)
        application.close()
    report.write(over=True)


if __name__ == "__main__":
    main()
