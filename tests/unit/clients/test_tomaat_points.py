from __future__ import annotations

from pathlib import Path

import pytest

from inference_server.clients.tomaat.points import parse_points, points_text, read_points, write_fcsv
from inference_server.errors import BadRequest

POINTS = [(1.5, -2.0, 3.0), (0.1, 1e-7, -4.0)]
MARKUPS = """{"markups": [{"type": "Fiducial", "coordinateSystem": "%s", "controlPoints":
    [{"id": "1", "position": [%s]}, {"id": "2", "position": [%s]}]}]}"""
FILES = {
    "lps.mrk.json": MARKUPS % ("LPS", "-1.5, 2.0, 3.0", "-0.1, -1e-7, -4"),
    "ras.mrk.json": MARKUPS % ("RAS", "1.5, -2.0, 3.0", "0.1, 1e-7, -4"),
    "list.json": "[[1.5, -2, 3], [0.1, 1e-7, -4]]",
    "plain.csv": "1.5,-2,3\n0.1,1e-7,-4\n",
    "named.csv": "label,z,y,x\nA,3,-2,1.5\nB,-4,1e-7,0.1\n",
    "lps.csv": "label,l,p,s,defined\nF-1,-1.5,2,3,1\nF-2,-0.1,-1e-7,-4,1\n",
    "slicer.fcsv": "# Markups fiducial file version = 4.9\n# CoordinateSystem = 0\n"
    "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    "a,1.5,-2,3,0,0,0,1,1,1,0,F-1,,\nb,0.1,1e-7,-4,0,0,0,1,1,1,0,F-2,,\n",
    "lps.fcsv": "# CoordinateSystem = LPS\na,-1.5,2,3\nb,-0.1,-1e-7,-4\n",
}


@pytest.mark.parametrize("name", FILES)
def test_points_are_read_in_ras_whatever_the_file_is_in(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name])
    assert read_points(tmp_path / name) == POINTS


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "1,2\n"),
        ("a.csv", "1,2,nan\n"),
        ("a.json", "{"),
        ("a.json", '{"markups": [{}]}'),
        ("a.json", '[["a", 1, 2]]'),
        ("a.fcsv", "a,1,2\n"),
        ("a.fcsv", "# columns = id,x,y\na,1,2\n"),
    ],
)
def test_a_file_without_points_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadRequest, match="with three coordinates for each point"):
        read_points(tmp_path / name)


def test_a_file_of_another_kind_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"files of type \.fcsv"):
        read_points(tmp_path / "points.xlsx")
    with pytest.raises(BadRequest, match="cannot be read: No such file"):
        read_points(tmp_path / "points.csv")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_fcsv(tmp_path / "points.fcsv", POINTS)
    assert read_points(tmp_path / "points.fcsv") == POINTS
    assert parse_points(points_text(POINTS)) == POINTS
    assert (points_text([]), parse_points("")) == ("", [])
