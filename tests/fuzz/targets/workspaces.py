"""Workspaces of ITK-SNAP, and what services take of them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from random import Random

from fuzz.noise import damage, number
from fuzz.target import SECRET, Target, expect
from inference_server.imaging.volume import Geometry
from inference_server.imaging.workspace import (
    Folder,
    Landmark,
    Layer,
    Role,
    SnapLabel,
    Workspace,
    encode_workspace,
    read_workspace,
)
from inference_server.imaging.workspace.services import (
    SegmentationFile,
    Wanted,
    landmarks_by_tag,
    layers_by_tag,
    parameters_of,
    with_segmentations,
)

GRID = Geometry((4, 4, 4))
MADE = SegmentationFile("organs", "organs.nii.gz", (SnapLabel(1, "liver"), SnapLabel(300, "spleen")))
VALUE = re.compile(rb'value="[^"]*"')
WORDS = (
    b"MainRole",
    b"OverlayRole",
    b"&#0;",
    b"&amp;",
    b"&xxe;",
    b"a,b,,a",
    b"level=1",
    b"../../x",
    b"1 2 3",
    b"nan inf 1e999",
    b"\xff",
    "\U0001f9e0".encode(),
)
PIECES = (
    b'<!DOCTYPE registry [<!ENTITY xxe SYSTEM "file:///etc/hostname"><!ENTITY l "lol">]>',
    b'<folder key="Layer[000]" >',
    b"</folder>",
    b'<entry key="Role" value="MainRole" />',
    b'<folder key="a" >' * 100,
    b"<![CDATA[x]]>",
    b'<?xml version="1.0" encoding="utf-16"?>',
)


def seeds() -> list[bytes]:
    """Return a workspace with all that there is, a bare one, and one without layers."""
    other = Folder(folders={"Parameters": Folder({"level": "0.5", "name": SECRET})})
    layers = (
        Layer("/w/t1.nii.gz", Role.MAIN, ("T1", "MRI"), SECRET),
        Layer("/w/flair.nii.gz", tags=("FLAIR", "level=0.25")),
        Layer("/w/old.nii.gz", Role.SEGMENTATION),
    )
    labels = (SnapLabel(1, "liver", (9, 8, 7), 128, visible=False), SnapLabel(2, SECRET))
    landmarks = (Landmark("AC", (1.5, 2.5, 3.5), ("seeds",)), Landmark(SECRET, (0.0, 0.0, 0.0)))
    full = Workspace(layers, labels, landmarks, save_location="/w", other=other)
    return [encode_workspace(one) for one in (full, Workspace(layers[:1]), Workspace())]


def use(content: bytes, _folder: Path) -> str:
    """Read a workspace, write it and read it again, and take of it what a service takes."""
    workspace = read_workspace(content)
    again = read_workspace(encode_workspace(workspace))
    expect(_bare(again) == _bare(workspace), "a round trip changed the workspace")
    found = layers_by_tag(workspace, [Wanted("T1"), Wanted("FLAIR", required=False)])
    landmarks_by_tag(workspace, ["seeds"], GRID)
    parameters_of(workspace, {"level"})
    made = read_workspace(encode_workspace(with_segmentations(workspace, [MADE])))
    expect(len(made.layers) == len(workspace.layers) + 1, "the segmentation is not there")
    expect(all("/" not in layer.file_name for layer in made.layers), "a file's name leads elsewhere")
    expect({1, 300} <= {label.value for label in made.labels}, "its labels are not in the table")
    return f"{len(found)} inputs"


def mutate(content: bytes, random: Random) -> bytes:
    """Damage bytes, put another value into an entry, or a piece of XML between two lines."""
    kind = random.random()
    places = list(VALUE.finditer(content))
    if kind < 0.3 or not places:
        return damage(content, random)
    if kind < 0.7:
        place = random.choice(places)
        value = random.choice((*WORDS, str(number(random)).encode(), place[0][7:-1] * 300))
        return content[: place.start()] + b'value="' + value + b'"' + content[place.end() :]
    lines = content.split(b"\n")
    at = random.randrange(len(lines))
    return b"\n".join([*lines[:at], random.choice((*PIECES, *lines)), *lines[at + random.randrange(2) :]])


def _bare(workspace: Workspace) -> Workspace:
    """Return what a workspace says, without how it is written."""
    empty = Folder()
    return replace(
        workspace,
        layers=tuple(replace(one, other=empty) for one in workspace.layers),
        labels=tuple(replace(one, other=empty) for one in workspace.labels),
        landmarks=tuple(replace(one, other=empty) for one in workspace.landmarks),
        other=empty,
    )


WORKSPACE = Target("workspace", seeds, use, mutate)
