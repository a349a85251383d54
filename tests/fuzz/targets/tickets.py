"""What clients of the DSS door send: forms with a file, and workspaces whose images become a case."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from random import Random
from typing import cast

import numpy as np
from door_support import form, part
from nifti_files import nifti, oblique

from fuzz.images import header_damage
from fuzz.target import Target, expect
from fuzz.targets import uploads, workspaces
from fuzz.targets.uploads import Staging, posted
from inference_server.api.dss.forms import FILE, PARTS
from inference_server.api.upload import received
from inference_server.imaging.nifti_header import HEADER_BYTES
from inference_server.imaging.workspace import Landmark, Layer, Role, Workspace, encode_workspace
from inference_server.models.manifest import Channel, Manifest, NamedInput
from inference_server.models.parameter import Parameter
from inference_server.settings import Settings
from inference_server.tasks.case_files.names import GRID
from inference_server.tasks.case_zip import check_case
from inference_server.tasks.service import Tasks
from inference_server.tasks.tickets.files import NAME_LIMIT_BYTES, refuse_name
from inference_server.tasks.tickets.inputs import read_sent, write_sent_case

LIMIT_BYTES = 48 * 1024
NAME = "ticket_00000001.itksnap"
MAIN, OTHER = "layer_000_d5.nii.gz", "layer_001_d5.nii.gz"
IMAGE = nifti(np.zeros((4, 3, 2, 1), np.int16), oblique(1))
SETTINGS = Settings(member_limit=20, image_limit_bytes=64 * 1024, unpacked_limit_bytes=256 * 1024)
MODEL = Manifest(
    id="one",
    runtime="python-app",
    app="app.py:run",
    channels=(Channel(name="T1"), Channel(name="T2", required=False)),
    points=(NamedInput(name="seeds", required=False),),
    parameters=(Parameter(name="level", type="number", default=0.5, minimum=0, maximum=1),),
    same_grid=False,
)
NAMES = ("../a", "a/b", "..", "C:a", "a\0", "ü.nii.gz", "x" * 300, "", ".", "a\r\nb", "%2e%2e%2f")


def forms() -> list[bytes]:
    """Return forms as `itksnap-wt` and the published package send them."""
    sent = (part("filename", MAIN), part("submit", "send"))
    made = (
        form(part(FILE, IMAGE[:400], MAIN), *sent),
        form(part(FILE, b"PNG", "qc.png"), *sent, part("desc", 'QC, "final"'), part("mime_type", "image/png")),
        form(part(FILE, b"<registry/>", NAME)),
    )
    return [found["data"] for found in made]


def receive_form(content: bytes, folder: Path) -> str:
    """Receive a form with one file; the name that it is kept under leads nowhere."""
    staging = Staging(folder)
    with received(posted(content), cast(Tasks, staging), PARTS, limit_bytes=LIMIT_BYTES) as upload:
        name = upload.texts.get("filename") or upload.file_names.get(FILE, "")
        refuse_name(name)
        expect(not set(name) & set("/\\\0\r\n") and name.strip(".") != "", "a file's name leads elsewhere")
        expect(len(name.encode()) <= NAME_LIMIT_BYTES, "a file's name is too long")
    return f"{len(upload.files[FILE])} files"


def form_damage(content: bytes, random: Random) -> bytes:
    """Put in another name, or damage the form."""
    if random.random() < 0.3:
        return content.replace(random.choice((MAIN, NAME, "qc.png")).encode(), random.choice(NAMES).encode())
    return uploads.mutate(content, random)


def tickets() -> list[bytes]:
    """Return the header of a main image, and a workspace: with the model's image as the main one, and with another."""
    main, other = Layer(f"/w/{MAIN}", Role.MAIN, ("T1", "level=0.25")), Layer(f"/w/{OTHER}", tags=("T2",))
    elsewhere = Layer(f"/w/{MAIN}", Role.MAIN), Layer(f"/w/{OTHER}", tags=("t1",))
    marks = (Landmark("AC", (1.5, 2.5, 1.5), ("seeds",)),)
    found = (Workspace((main, other)), Workspace((main,), landmarks=marks), Workspace(elsewhere))
    return [IMAGE[:HEADER_BYTES] + encode_workspace(workspace) for workspace in found]


def take_ticket(content: bytes, folder: Path) -> str:
    """Make a case of a ticket, which is one that the door takes: images as they came, labels on the main one's grid."""
    files = {NAME: content[HEADER_BYTES:], MAIN: content[:HEADER_BYTES] + IMAGE[HEADER_BYTES:], OTHER: IMAGE}
    paths = {name: folder / f"file-{number}" for number, name in enumerate(files)}
    target = folder / "case.zip"
    try:
        for name, path in paths.items():
            path.write_bytes(files[name])
        parameters = write_sent_case(target, read_sent(paths), MODEL)
        check_case(target, MODEL, SETTINGS)
        MODEL.check_parameters(parameters)
        return _seen(target, files)
    finally:
        for path in (*paths.values(), target):
            path.unlink(missing_ok=True)


def _seen(target: Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(target) as case:
        first, names = case.read(case.namelist()[0]), set(case.namelist())
        expect(first in (files[MAIN], files[OTHER]), "an image was changed")
        if GRID in names:
            expect(case.read(GRID) == files[MAIN][:HEADER_BYTES], "the grid is not the main image's")
        else:
            expect(first == files[MAIN], "the labels would lie on another grid than the main image's")
        if "points.json" in names:
            json.loads(case.read("points.json"))
    return f"{len(names)} members"


def ticket_damage(content: bytes, random: Random) -> bytes:
    """Damage the header of the main image, or the workspace."""
    header, workspace = content[:HEADER_BYTES], content[HEADER_BYTES:]
    if random.random() < 0.25:
        return header_damage(header, random)[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0") + workspace
    return header + workspaces.mutate(workspace, random)


FORM = Target("ticket form", forms, receive_form, form_damage)
TICKET = Target("ticket", tickets, take_ticket, ticket_damage)
