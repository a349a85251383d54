"""What TOMAAT's clients send, forms and JSON with files in base64, and the cases made of it."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from random import Random
from typing import cast

from door_support import form, part
from tomaat_support import VERSION, in_lines, mha, volume_part

from fuzz.noise import json_damage
from fuzz.target import Target, expect
from fuzz.targets import mhas, uploads
from fuzz.targets.uploads import Staging, posted
from inference_server.api.tomaat import first
from inference_server.api.tomaat.form import Sent, parameters_of, parts_of, write_sent_case
from inference_server.api.tomaat.interface import interface_of
from inference_server.api.upload import Upload, received, staging
from inference_server.models.manifest import Channel, Manifest, NamedInput
from inference_server.models.parameter import Parameter
from inference_server.settings import Settings
from inference_server.tasks.case_zip import check_case
from inference_server.tasks.service import Tasks

LIMIT_BYTES = 48 * 1024
SETTINGS = Settings(member_limit=20, image_limit_bytes=64 * 1024, unpacked_limit_bytes=256 * 1024)
LEVEL = Parameter(name="level", type="number", default=0.5, minimum=0, maximum=1)
MANY = Manifest(
    id="many",
    runtime="python-app",
    app="app.py:run",
    channels=(Channel(name="t1"), Channel(name="t2", required=False)),
    points=(NamedInput(name="seeds", required=False),),
    transforms=(NamedInput(name="pose", required=False),),
    parameters=(
        LEVEL,
        Parameter(name="count", type="integer", default=1, minimum=1, maximum=9),
        Parameter(name="smooth", type="flag", default=True),
        Parameter(name="mode", type="choice", choices=("fast", "good"), default="good"),
    ),
)
ONE = Manifest(id="one", parameters=(LEVEL,))
PACKED = re.compile(rb"[A-Za-z0-9+/=\s]{200,}")
FIELDS = (
    part("use_t2", "True"), part("use_t2", ""), part("use_seeds", "no"), part("seeds", "1,2,3;4,5,6;"),
    part("seeds", "nan,1,2"), part("seeds", "1e999,1,2"), part("level", "inf"), part("count", "1e308"),
    part("count", "9" * 5000), part("mode", "other"), part("pose", "h5\nAAAA"), part("pose", "mat\n" + "A" * 400),
    part("t1", b""), part("t1", b"===="), part("other", bytes(300)), VERSION,
)  # fmt: skip


def forms() -> list[bytes]:
    """Return forms of the current generation: one volume, and everything there is."""
    fields = (part("level", "0.25"), part("count", "3.0"), part("smooth", "False"), part("mode", "fast"))
    points = part("seeds", "1.5,2,3;-4,5e-3,6;")
    pose = part("pose", b"mat\n" + in_lines(bytes(90)))
    made = (
        form(VERSION, volume_part("t1")),
        form(VERSION, volume_part("t1"), volume_part("t2"), points, pose, *fields),
    )
    return [found["data"] for found in made]


def messages() -> list[bytes]:
    """Return messages of the first generation."""
    volume = base64.b64encode(mha()).decode()
    said = {"content_mha": volume, "module_version": "Slicer", "level": 0.5, "title": "ü\n"}
    return [json.dumps(said).encode(), json.dumps({"content_mha": in_lines(mha()).decode(), "level": "1"}).encode()]


def receive_form(content: bytes, folder: Path) -> str:
    """Receive a form and make a case of it, which is one that the door takes."""
    interface, sent = interface_of(MANY), Sent()
    tasks = cast(Tasks, Staging(folder))
    with received(posted(content), tasks, parts_of(interface, sent), limit_bytes=LIMIT_BYTES) as upload:
        sent.take(upload)
        return _case_of(sent, upload, MANY)


def receive_message(content: bytes, folder: Path) -> str:
    """Receive a message in small pieces and make a case of it."""
    with staging(cast(Tasks, Staging(folder))) as upload:
        pieces = (content[at : at + 1000] for at in range(0, len(content), 1000))
        return _case_of(first.receive(pieces, upload, interface_of(ONE)), upload, ONE)


def _case_of(sent: Sent, upload: Upload, manifest: Manifest) -> str:
    interface = interface_of(manifest)
    case = upload.stage()
    write_sent_case(case, sent, upload, interface, manifest, SETTINGS)
    given = manifest.check_parameters(parameters_of(interface, manifest, sent.texts))
    expect(set(given) == {parameter.name for parameter in manifest.parameters}, "a parameter has no value")
    check_case(case, manifest, SETTINGS)
    return f"{len(sent.files)} files, {len(sent.texts)} texts"


def form_damage(content: bytes, random: Random) -> bytes:
    """Damage a volume inside, put in a field, or damage the form."""
    kind = random.random()
    if kind < 0.4:
        return _volume_damage(content, random)
    if kind < 0.6:
        edges = [found.start() for found in re.finditer(uploads.EDGE, content)] or [0]
        at = random.choice(edges)
        return content[:at] + random.choice(FIELDS) + content[at:]
    return uploads.mutate(content, random)


def message_damage(content: bytes, random: Random) -> bytes:
    """Damage the volume inside, or the JSON around it."""
    return _volume_damage(content, random) if random.random() < 0.4 else json_damage(content, random)


def _volume_damage(content: bytes, random: Random) -> bytes:
    """Put a damaged MHA file, in base64 or as it is, where one stands in base64."""
    places = list(PACKED.finditer(content))
    if not places:
        return uploads.mutate(content, random)
    place = random.choice(places)
    try:
        volume = base64.b64decode(place[0])
    except ValueError:
        volume = mha()
    changed = mhas.mutate(volume, random)
    text = changed if random.random() < 0.1 else base64.b64encode(changed)
    return content[: place.start()] + text + content[place.end() :]


FORM = Target("tomaat form", forms, receive_form, form_damage)
MESSAGE = Target("tomaat json", messages, receive_message, message_damage)
