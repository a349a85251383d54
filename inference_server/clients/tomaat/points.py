"""Points in files, as 3D Slicer and spreadsheets keep them; here always RAS millimetres, as in the protocol."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from inference_server.errors import BadRequest

Point = tuple[float, float, float]

_LPS = {"lps", "1"}
_AXES = (("x", "y", "z"), ("r", "a", "s"), ("l", "p", "s"))
_FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


def read_points(path: Path) -> list[Point]:
    """Read points in RAS millimetres.

    Args:
        path: `.fcsv` or `.mrk.json` of Slicer, which say whether they are RAS or LPS; a `.csv` whose first line names
            the columns `x,y,z`, `r,a,s` (RAS both) or `l,p,s`, or with three numbers (RAS) a line; a `.json` list of
            `[x, y, z]` (RAS).

    Raises:
        BadRequest: the file cannot be read, or holds something else.
    """
    readers = {".fcsv": _read_fcsv, ".csv": _read_csv, ".tsv": _read_csv, ".json": _read_json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise BadRequest("Points are read from files of type .fcsv, .mrk.json, .csv and .json.")
    try:
        return reader(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise BadRequest(f"The file of points cannot be read: {exc.strerror}.") from exc
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as exc:
        raise BadRequest(
            f"The file of points is not a {path.suffix} file with three coordinates for each point."
        ) from exc


def points_text(points: Iterable[Sequence[float]]) -> str:
    """Return points as the protocol writes them, `x,y,z;x,y,z`."""
    return ";".join(",".join(repr(value) for value in _point(point)) for point in points)


def parse_points(text: str) -> list[Point]:
    """Return the points of a text `x,y,z;x,y,z`.

    Raises:
        ValueError: it is none.
    """
    return [_point(part.split(",")) for part in text.strip().strip(";").split(";") if part.strip()]


def write_fcsv(path: Path, points: Iterable[Point]) -> None:
    """Write points (RAS millimetres) as a fiducial list of Slicer."""
    head = ["# Markups fiducial file version = 4.11", "# CoordinateSystem = RAS", f"# columns = {_FCSV_COLUMNS}"]
    rows = [f"{n},{points_text([point])},0,0,0,1,1,1,0,F-{n},," for n, point in enumerate(points, start=1)]
    path.write_text("\n".join([*head, *rows]) + "\n")


def _point(values: Sequence[Any]) -> Point:
    x, y, z = (float(value) for value in values)
    if not all(map(math.isfinite, (x, y, z))):
        raise ValueError("a coordinate is not a finite number")
    return x, y, z


def _ras(point: Point, system: str) -> Point:
    x, y, z = point
    return (-x, -y, z) if system.strip().lower() in _LPS else point


def _read_fcsv(text: str) -> list[Point]:
    said = dict(line[1:].split("=", 1) for line in text.splitlines() if line.startswith("#") and "=" in line)
    heads = {key.strip().lower(): value.strip() for key, value in said.items()}
    columns = heads.get("columns", _FCSV_COLUMNS).split(",")
    places = [columns.index(axis) for axis in "xyz"]
    rows = csv.reader(line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    system = heads.get("coordinatesystem", "RAS")
    return [_ras(_point([row[place] for place in places]), system) for row in rows]


def _read_csv(text: str) -> list[Point]:
    separator = "\t" if "\t" in text else ","
    rows = [row for row in csv.reader(text.splitlines(), delimiter=separator) if row and not row[0].startswith("#")]
    names = [name.strip().lower() for name in rows[0]] if rows else []
    for axes in _AXES:
        if set(axes) <= set(names):
            places = [names.index(axis) for axis in axes]
            system = "LPS" if "l" in axes else "RAS"
            return [_ras(_point([row[place] for place in places]), system) for row in rows[1:]]
    return [_point(row) for row in rows]


def _read_json(text: str) -> list[Point]:
    document = json.loads(text)
    if isinstance(document, list):
        return [_point(entry) for entry in document]
    return [
        _ras(_point(entry["position"]), str(markup.get("coordinateSystem", "LPS")))
        for markup in document["markups"]
        for entry in markup["controlPoints"]
    ]
