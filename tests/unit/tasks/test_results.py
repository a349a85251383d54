from __future__ import annotations

from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from door_support import queued_task

from inference_server.models.case import Report, Result
from inference_server.tasks import runner
from inference_server.tasks.results import FINDINGS, without_findings


def test_all_that_a_report_says_of_a_result_is_a_finding() -> None:
    place = np.zeros((1, 3))
    result = Result(
        classifications={"a": 0.5}, texts={"t": "x"}, points={"p": place}, transforms={"m": place}, meshes={"s": None}
    )
    attempt: Any = SimpleNamespace(all_timings_s=dict)
    report = runner._report(result, attempt)
    assert set(report) - set(asdict(Report())) == set(FINDINGS)
    task = replace(queued_task(), report=report)
    assert without_findings(task).report == {**asdict(Report()), "timings_s": {}}
    assert set(task.report) > set(FINDINGS)
