"""Bad cases are refused at every door: one sentence, the field at fault, nothing stored, nothing queued."""

from __future__ import annotations

import gzip
import io
import json
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from door_support import Doors, case, form, image, part, zipped
from werkzeug.test import TestResponse

IMAGE = "tmp_0000.nii.gz"
CASE, MODEL = "the case", "the model"
"""Fields that each dialect has a name of its own for."""
SECRET = "Doe^John"

LIMITS = {
    "upload_limit_bytes": 200_000,
    "member_limit": 8,
    "unpacked_limit_bytes": 3_000_000,
    "image_limit_bytes": 1_000_000,
    "labels_limit_bytes": 1_000_000,
}


@dataclass(frozen=True)
class Bad:
    """A bad case and what every door says of it."""

    content: bytes
    status: int
    code: str
    field: str | None
    words: str
    model: str = "one"


def patched(offset: int, code: str, *values: float, base: bytes | None = None) -> bytes:
    """Return a NIfTI file with other values in its header."""
    raw = bytearray(gzip.decompress(base or image()))
    struct.pack_into("<" + code, raw, offset, *values)
    return gzip.compress(bytes(raw), mtime=0)


def with_image(content: bytes) -> bytes:
    return zipped({IMAGE: content})


def with_factor(factor: object) -> bytes:
    return zipped({IMAGE: image(), "meta.json": json.dumps({"scaling_factor": factor})})


def special(change: Callable[[zipfile.ZipInfo], None], name: str = IMAGE) -> bytes:
    """Return a zip whose one member says something special of itself."""
    file = io.BytesIO()
    member = zipfile.ZipInfo(name)
    change(member)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(member, image())
    return file.getvalue()


def link(member: zipfile.ZipInfo) -> None:
    member.external_attr = (stat.S_IFLNK | 0o777) << 16


def encrypted() -> bytes:
    content = bytearray(case())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    return bytes(content)


def twice() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(IMAGE, image())
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(IMAGE, image())
    return file.getvalue()


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(IMAGE, image())
        archive.writestr("contour.nii.gz", bytes(4_000_000))
    return file.getvalue()


NAN = float("nan")
BAD: dict[str, Callable[[], Bad]] = {
    "not a zip": lambda: Bad(b"GIF89a" * 50, 400, "malformed_message", CASE, "zip"),
    "empty": lambda: Bad(b"", 400, "malformed_message", CASE, "zip"),
    "truncated zip": lambda: Bad(case()[:-40], 400, "malformed_message", CASE, "zip"),
    "absolute path": lambda: Bad(zipped({"/etc/x.nii.gz": image()}), 400, "bad_request", CASE, "flat zip"),
    "path upwards": lambda: Bad(zipped({"../tmp_0000.nii.gz": image()}), 400, "bad_request", CASE, "flat zip"),
    "link": lambda: Bad(special(link), 400, "bad_request", CASE, "link"),
    "same name twice": lambda: Bad(twice(), 400, "malformed_message", CASE, "same name"),
    "encrypted": lambda: Bad(encrypted(), 400, "bad_request", CASE, "encrypted"),
    "too many members": lambda: Bad(
        zipped({f"{number}.txt": "x" for number in range(9)}), 413, "too_large", CASE, "9 members"
    ),
    "bomb": lambda: Bad(bomb(), 413, "too_large", CASE, "2.9 MiB"),
    "image too large": lambda: Bad(
        with_image(patched(42, "3h", 500, 500, 500)), 413, "too_large", IMAGE, "declares 119.2 MiB"
    ),
    "no image": lambda: Bad(zipped({"meta.json": "{}"}), 400, "bad_request", IMAGE, "The zip has no image."),
    "too many images": lambda: Bad(case(2), 400, "bad_request", "tmp_0001.nii.gz", "takes 1 image (image); 2 came"),
    "too few images": lambda: Bad(
        case(1), 400, "bad_request", "tmp_0001.nii.gz", "takes 2 images (t1, t2); 1 came", "two"
    ),
    "another shape": lambda: Bad(
        zipped({IMAGE: image(), "tmp_0001.nii.gz": image((3, 4, 6))}),
        422,
        "invalid_volume",
        "tmp_0001.nii.gz",
        "shape",
        "two",
    ),
    "2-D": lambda: Bad(with_image(patched(40, "4h", 2, 5, 4, 1)), 422, "invalid_volume", IMAGE, "2-D"),
    "4-D": lambda: Bad(with_image(patched(40, "5h", 4, 5, 4, 3, 2)), 422, "invalid_volume", IMAGE, "time point"),
    "NaN geometry": lambda: Bad(with_image(patched(292, "f", NAN)), 422, "invalid_volume", IMAGE, "finite"),
    "infinite geometry": lambda: Bad(
        with_image(patched(292, "f", float("inf"))), 422, "invalid_volume", IMAGE, "finite"
    ),
    "zero spacing": lambda: Bad(
        with_image(patched(252, "2h", 0, 0, base=patched(80, "3f", 0, 1, 1))), 422, "invalid_volume", IMAGE, "spacing"
    ),
    "not an image": lambda: Bad(with_image(gzip.compress(b"no header")), 400, "malformed_message", IMAGE, "NIfTI"),
    "truncated gzip": lambda: Bad(with_image(image()[:30]), 400, "malformed_message", IMAGE, ""),
    "factor of zero": lambda: Bad(with_factor([1, 0, 2]), 400, "bad_request", "meta.json: scaling_factor", "positive"),
    "factor of a half": lambda: Bad(
        with_factor([1, 0.5, 2]), 400, "bad_request", "meta.json: scaling_factor", "positive"
    ),
    "negative factor": lambda: Bad(
        with_factor([1, -2, 2]), 400, "bad_request", "meta.json: scaling_factor", "positive"
    ),
    "two factors": lambda: Bad(with_factor([2, 2]), 400, "bad_request", "meta.json: scaling_factor", "three"),
    "factor in words": lambda: Bad(
        with_factor(["two", 2, 2]), 400, "bad_request", "meta.json: scaling_factor", "positive"
    ),
    "huge factor": lambda: Bad(with_factor([1, 2000, 2000]), 413, "too_large", "meta.json: scaling_factor", ""),
    "meta that is no JSON": lambda: Bad(
        zipped({IMAGE: image(), "meta.json": "{"}), 400, "malformed_message", "meta.json", "JSON"
    ),
    "unknown model": lambda: Bad(case(), 404, "unknown_model", MODEL, "Known models: one, two.", "lungs"),
    "upload too large": lambda: Bad(bytes(300_000), 413, "too_large", None, "larger than"),
}


def through_mim(doors: Doors, bad: Bad) -> TestResponse:
    address = f"/api/tasks/?model_human_readable_id={bad.model}"
    return doors.client.post(address, **form(part("zip_file", bad.content, f"{SECRET}.zip")))


def through_native(doors: Doors, bad: Bad) -> TestResponse:
    parts = (part("case", bad.content, f"{SECRET}.zip"), part("model", bad.model))
    return doors.client.post("/api/v1/tasks", **form(*parts))


FIELDS = {
    through_mim: {CASE: "zip_file", MODEL: "model_human_readable_id"},
    through_native: {CASE: "case", MODEL: "model"},
}


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Doors]:
    doors = Doors(tmp_path, **LIMITS)
    yield doors
    doors.close()


@pytest.mark.parametrize("send", [through_mim, through_native])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_case_is_refused(limited: Doors, name: str, send: Callable[[Doors, Bad], TestResponse]) -> None:
    bad = BAD[name]()
    answer = send(limited, bad)
    field = FIELDS[send].get(bad.field or "", bad.field)
    said = answer.json["message" if send is through_mim else "detail"]
    assert (answer.status_code, answer.json["code"]) == (bad.status, bad.code), said
    assert answer.json.get("field") == field
    assert bad.words in said
    assert SECRET not in answer.text
    assert limited.blob_files() == []
    assert limited.turns.sent == []
    assert limited.client.get("/api/v1/tasks").json["tasks"] == []


@pytest.mark.parametrize("send", [through_mim, through_native])
def test_a_disk_nearly_full_takes_nothing(tmp_path: Path, send: Callable[[Doors, Bad], TestResponse]) -> None:
    doors = Doors(tmp_path, disk_low_bytes=1 << 60)
    answer = send(doors, Bad(case(), 507, "storage_full", None, ""))
    assert (answer.status_code, answer.json["code"]) == (507, "storage_full")
    assert doors.blob_files() == []
    doors.close()


@pytest.mark.parametrize("send", [through_mim, through_native])
def test_a_full_queue_takes_nothing(tmp_path: Path, send: Callable[[Doors, Bad], TestResponse]) -> None:
    doors = Doors(tmp_path, queue_limit=1)
    doors.submitted()
    kept = doors.blob_files()
    answer = send(doors, Bad(case(), 503, "queue_full", None, ""))
    assert (answer.status_code, answer.json["code"]) == (503, "queue_full")
    assert answer.headers["Retry-After"] == "2"
    assert doors.blob_files() == kept
    doors.close()


def test_plain_images_that_are_too_much_together_are_the_field_at_fault(tmp_path: Path) -> None:
    large = (part("image", gzip.decompress(image((80, 80, 80))), "i") for _ in range(9))
    doors = Doors(tmp_path, **{**LIMITS, "upload_limit_bytes": 10**8, "member_limit": 4})
    answer = doors.client.post("/api/v1/tasks", **form(part("model", "two"), *large))
    assert (answer.status_code, answer.json["code"], answer.json["field"]) == (413, "too_large", "image")
    assert "9 members" in answer.json["detail"]
    doors.close()


def test_a_message_never_repeats_a_members_name(limited: Doors) -> None:
    content = zipped({IMAGE: image(), f"{SECRET}.nii.gz": b"x", f"{SECRET}.json": "{"})
    answer = through_native(limited, Bad(content, 400, "malformed_message", None, ""))
    assert answer.status_code in (400, 422)
    assert SECRET not in answer.text
