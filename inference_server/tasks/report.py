"""What a finished task's report says of its result, as JSON."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from inference_server.imaging.volume import Geometry
from inference_server.models.case import Result
from inference_server.models.labels import volumes_cc
from inference_server.tasks.result_zip import Content
from inference_server.tasks.submission import Output


@dataclass(frozen=True)
class Written:
    """A result as it was stored: its blob, and what the members of its zip are."""

    key: str
    size_bytes: int
    contents: tuple[Content, ...] = ()


def report_of(
    result: Result,
    grid: Geometry | None,
    contents: Iterable[Content],
    outputs: Collection[str],
    timings_s: Mapping[str, float],
) -> dict[str, Any]:
    """Return a report. What the result does not have is left out; see `results.FINDINGS`.

    Args:
        result: what the model gave.
        grid: the result's, exactly; None for a case without images.
        contents: what the members of its zip are.
        outputs: what was asked for.
        timings_s: seconds by phase.
    """
    volumes = {one.name: volumes_cc(one) for one in result.segmentations if Output.VOLUMES in outputs}
    findings: dict[str, Any] = {
        "classifications": dict(result.classifications),
        "members": {name: dict(classes) for name, classes in result.members.items()},
        "texts": dict(result.texts),
        "points": {name: array.tolist() for name, array in result.points.items()},
        "volumes_cc": volumes,
        "contents": [content.record for content in contents],
    }
    found = {name: value for name, value in findings.items() if value}
    return {**asdict(result.report), "timings_s": timings_s, **({"grid": grid_record(grid)} if grid else {}), **found}


def grid_record(grid: Geometry) -> dict[str, Any]:
    """Return a grid as a report has it: all in (x, y, z), LPS mm, every float as it is."""
    return {
        "size": list(grid.shape[::-1]),
        "spacing": list(grid.spacing_mm),
        "origin": list(grid.origin_mm),
        "direction": list(grid.direction),
    }
