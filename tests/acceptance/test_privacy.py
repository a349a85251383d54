"""A patient's name in every place where one can stand: it is found where it must be, and after deletion nowhere."""

from __future__ import annotations

import base64
import io
import json
import re
import sqlite3
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from apps import write_app
from nifti_files import nifti
from pictures import quarter_picture, write_quarters
from pydicom.uid import ExplicitVRLittleEndian

from inference_server.stack.launch import LaunchedServer, launched_server

pytestmark = pytest.mark.timeout(300)
NAME = "Zzyzxowski"
"""Every place has this name, with a word of its own after it that says from where it leaked."""
PATIENT_NAME = str(0x00100010)
LIMIT_S = 60.0
LIMITS_S = {"ways": 20.0, "hasty": 2.0}
"""Time limits by model; the same app otherwise, and only what hangs goes to the hasty one."""

APP = """
    import ctypes
    import os
    import signal
    import tempfile
    import time
    from pathlib import Path

    import numpy as np

    def app(case, context):
        tags, contour = list(case.dicom_tags.values()), list(case.contours)
        words = f"{tags} {contour} {case.parameters}"
        leave(words)
        getattr(Ways, case.parameters["way"])(words)
        return np.zeros(case.reference.array.shape, np.uint8)

    def leave(words):
        Path(tempfile.mkdtemp(), "left behind").write_text(words)

    class Ways:
        def finish(words):
            pass

        def value_error(words):
            raise ValueError(words)

        def os_error(words):
            Path(words).read_text()

        def chained(words):
            try:
                raise KeyError(words)
            except KeyError as exc:
                raise RuntimeError(words) from exc

        def not_an_exception(words):
            raise SystemExit(words)

        def memory(words):
            food = [bytearray(64 * 2**20) for _ in range(30) if not time.sleep(0.01)]
            time.sleep(600)

        def hang(words):
            time.sleep(600)

        def die(words):
            os.kill(os.getpid(), signal.SIGKILL)

        def crash(words):
            ctypes.string_at(0)
"""
WAYS = ("finish", "value_error", "os_error", "chained", "not_an_exception", "memory", "hang", "die", "crash")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clinic")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[LaunchedServer]:
    parameters = [
        {"name": "way", "type": "choice", "choices": list(WAYS), "default": "finish"},
        {"name": "remark", "type": "text", "default": ""},
        {"name": "level", "type": "number", "default": 0.0},
    ]
    labels = {1: {"name": "NOTHING"}}
    for name, limit_s in LIMITS_S.items():
        resources = {"time_limit_s": limit_s}
        write_app(folder / "models" / name, APP, parameters=parameters, labels=labels, resources=resources)
    write_quarters(folder / "models" / "quarters")
    settings = {
        "ZOO": "false",
        "DISK_LOW_BYTES": "0",
        "MAX_ATTEMPTS": "1",
        "HOUSEKEEPING_S": "0.5",
        "LOG_LEVEL": "DEBUG",
        "TOMAAT_PATIENCE_S": "0",
    }
    settings |= {"CHILD_MEMORY_BYTES": str(1200 * 2**20), "CANCEL_GRACE_S": "0.2"}
    environment = {f"INFERENCE_SERVER_{name}": value for name, value in settings.items()}
    arguments = ["--models", str(folder / "models")]
    with (
        (folder / "server.log").open("w") as log,
        launched_server(folder / "data", arguments=arguments, environment=environment, log=log) as launched,
    ):
        yield launched


@pytest.fixture
def http(server: LaunchedServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=LIMIT_S) as client:
        yield client


def named(place: str) -> str:
    return f"{NAME} {place}"


def image() -> bytes:
    words = {"descrip": named("descrip")[:80], "aux_file": named("aux")[:24], "db_name": NAME, "intent_name": NAME}
    return nifti(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4), **words)


def case(**changes: bytes | str) -> bytes:
    contour = f"{NAME} contour"
    members: dict[str, bytes | str] = {
        "tmp_0000.nii": image(),
        "meta.json": json.dumps({"scaling_factor": [1, 1, 1], "patient": named("meta")}),
        "tmp_0000.meta.json": json.dumps({"patient": named("image meta")}),
        "tmp_0000.dicom_info.json": json.dumps({PATIENT_NAME: named("tag")}),
        f"{contour}.nii": nifti(np.ones((3, 4, 5), np.uint8), np.eye(4), descrip=NAME),
        f"{contour}.json": json.dumps({"name": contour}),
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.comment = named("comment").encode()
        for member, content in {**members, **changes}.items():
            archive.writestr(member, content)
    return packed.getvalue()


def dicom(**changes: Any) -> bytes:
    picture = pydicom.Dataset()
    picture.update(pydicom.Dataset())
    picture.PatientName, picture.PatientID, picture.StudyDescription = (
        named(place) for place in ("name", "id", "study")
    )
    picture.SOPClassUID, picture.SOPInstanceUID, picture.Modality = "1.2.840.10008.5.1.4.1.1.7", "1.2.3", "OT"
    picture.Rows, picture.Columns, picture.SamplesPerPixel, picture.PhotometricInterpretation = 8, 16, 1, "MONOCHROME2"
    picture.BitsAllocated, picture.BitsStored, picture.HighBit, picture.PixelRepresentation = 8, 8, 7, 0
    picture.PixelData = quarter_picture().tobytes()
    for name, value in changes.items():
        setattr(picture, name, value)
    content = io.BytesIO()
    picture.file_meta = pydicom.dataset.FileMetaDataset()
    picture.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(content, picture, enforce_file_format=True)
    return content.getvalue()


def send(http: httpx.Client, *, part: str = "case", content: bytes, model: str = "ways", **form: Any) -> httpx.Response:
    files = {part: (f"{NAME} upload.zip", content)}
    return http.post("/api/v1/tasks", data={"model": model, **form}, files=files)


def mha(**words: str) -> bytes:
    """A volume as a TOMAAT client sends it; its header says what no server needs to know."""
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": "1 1 1",
        "DimSize": "5 4 3",
        "ElementType": "MET_SHORT",
        **words,
    }
    lines["ElementDataFile"] = lines.pop("ElementDataFile", "LOCAL")  # the last, whatever it says
    head = "".join(f"{key} = {value}\n" for key, value in lines.items())
    return base64.encodebytes(head.encode() + np.arange(60, dtype="<i2").tobytes())


def predict(http: httpx.Client, volume: bytes = b"", **fields: str) -> list[dict[str, str]]:
    """Ask the TOMAAT door as the fielded extension does."""
    content = volume or mha(Comment=named("comment"), PatientName=named("header"))
    parts = {"image": (f"{NAME}.mha", content), **{name: (None, text) for name, text in fields.items()}}
    answer = http.post("/tomaat/ways/predict", files=parts)
    assert answer.status_code == 200
    return list(answer.json())


def predict_as_json(http: httpx.Client, content: bytes, **fields: Any) -> dict[str, Any]:
    """Ask it as clients of the first generation do."""
    message = {"content_mha": content.decode(), "patient": named("member"), **fields}
    return dict(http.post("/tomaat/ways", content=json.dumps(message)).json())


def tomaat_refusals(http: httpx.Client) -> dict[str, str]:
    """Return what is said of requests that the TOMAAT doors refuse, always with status 200."""
    broken = {
        "no base64": f"{NAME}!".encode(),
        "no MHA": base64.b64encode(NAME.encode() * 20),
        "an odd element": mha(ElementType=NAME),
        "odd sizes": mha(DimSize=NAME),
        "another file": mha(ElementDataFile=f"{NAME}.raw"),
    }
    found = {what: predict(http, volume)[0] for what, volume in broken.items()}
    found["an odd switch"] = predict(http, use=named("switch"), way=named("way"))[0]
    found["an odd number"] = predict(http, level=named("level"))[0]
    found["an odd id"] = http.post("/tomaat/ways/responses", data={"request_id": named("id")}).json()[0]
    assert {what for what, element in found.items() if element["label"] != "Error!"} == set()
    said = {what: element["content"] for what, element in found.items()}
    announcement = {"api_key": named("key"), "name": named("service")}
    said["an announcement"] = http.post("/announce", json=announcement).json()["error"]
    first = {what: predict_as_json(http, volume) for what, volume in broken.items()}
    assert {what for what, answer in first.items() if answer["status"] != 1} == set()
    return {**said, **{f"first: {what}": answer["error"] for what, answer in first.items()}}


def bad_cases() -> dict[str, bytes]:
    name = f"{NAME} broken"
    return {
        "no zip": NAME.encode() * 100,
        "cut off": case()[:-40],
        "no image": case(**{"tmp_0000.nii": NAME}),
        "an odd image": case(**{"tmp_0000.nii": nifti(np.ones((2, 2), np.float32), descrip=NAME)}),
        "no json": case(**{"tmp_0000.dicom_info.json": NAME}),
        "tags that are none": case(**{"tmp_0000.dicom_info.json": json.dumps({NAME: NAME})}),
        "a factor that is none": case(**{"meta.json": json.dumps({"scaling_factor": NAME})}),
        "a spacing that is none": case(**{"tmp_0000.meta.json": json.dumps({"spacing": [NAME]})}),
        "a contour that is none": case(**{f"{name}.nii": NAME, f"{name}.json": json.dumps({"name": name})}),
        "a contour without a name": case(**{f"{name}.nii": image(), f"{name}.json": json.dumps({NAME: 1})}),
        "a folder": case(**{f"{NAME}/x": NAME}),
    }


def refusals(http: httpx.Client) -> dict[str, httpx.Response]:
    found = {what: send(http, content=content) for what, content in bad_cases().items()}
    for what, content in bad_cases().items():
        address = "/api/tasks/?model_human_readable_id=ways"
        found[f"mim: {what}"] = http.post(address, files={"zip_file": (f"{NAME}.zip", content)})
    broken = {"a picture cut off": dicom()[:-50], "a picture of no size": dicom(Rows=0), "no picture": NAME.encode()}
    for what, content in broken.items():
        found[what] = send(http, content=content, part="image", model="quarters")
    found["an unknown parameter"] = send(http, content=case(), parameters=json.dumps({"level": named("parameter")}))
    found["no JSON"] = send(http, content=case(), parameters=NAME)
    found["an odd factor"] = send(http, content=case(), scaling_factor=NAME)
    found["an odd priority"] = send(http, content=case(), priority=NAME)
    found["an unknown address"] = http.get(f"/api/v1/{NAME}", params={"patient": NAME})
    found["an unknown task"] = http.get(f"/api/v1/tasks/{NAME}", params={"wait": "0"})
    found["an odd query"] = http.get("/api/v1/tasks", params={"limit": NAME})
    return found


def submitted(http: httpx.Client) -> dict[str, str]:
    """Send a case for every way to end, and a picture; return the UIDs."""
    uids = {}
    for way in WAYS:
        parameters = json.dumps({"way": way, "remark": named("parameter")})
        model = "hasty" if way == "hang" else "ways"
        uids[way] = send(http, content=case(), parameters=parameters, model=model).json()["uid"]
    uids["picture"] = send(http, content=dicom(), part="image", model="quarters").json()["uid"]
    cancelled = json.dumps({"way": "hang", "remark": named("parameter")})
    uids["cancelled"] = send(http, content=case(), parameters=cancelled).json()["uid"]
    http.post(f"/api/v1/tasks/{uids['cancelled']}/cancel").raise_for_status()
    return uids


def newest(http: httpx.Client, **filters: str) -> str:
    return str(http.get("/api/v1/tasks", params=filters).json()["tasks"][0]["uid"])


def ended(http: httpx.Client, uid: str) -> dict[str, Any]:
    deadline = time.monotonic() + LIMIT_S
    while True:
        record: dict[str, Any] = http.get(f"/api/v1/tasks/{uid}", params={"wait": 5}).json()
        if record["status"] not in ("queued", "running"):
            return record
        assert time.monotonic() < deadline, record


def texts_of(database: Path) -> Iterator[tuple[str, str]]:
    """Yield every text of the records, with its place, apart from what the sender's own request said."""
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            rows = connection.execute(f"SELECT * FROM {table}")
            columns = [column[0] for column in rows.description]
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    if (table, column) != ("tasks", "parameters"):
                        yield f"{table}.{column}", str(value)


def leaks(folder: Path) -> list[str]:
    """Return where the name stands although it must not: logs, names of files, records, files of other kinds."""
    data = folder / "data"
    found = [f"log: {line}" for line in (folder / "server.log").read_text().splitlines() if NAME in line]
    found += [f"file name: {path}" for path in data.rglob("*") if NAME in path.name]
    found += [f"{place}: {text}" for place, text in texts_of(data / "records.sqlite") if NAME in text]
    kept = ("blobs", "scratch")
    others = (path for path in data.rglob("*") if path.is_file() and path.relative_to(data).parts[0] not in kept)
    files = (path for path in others if not path.name.startswith("records.sqlite"))
    return found + [f"content: {path}" for path in files if NAME.encode() in path.read_bytes()]


def remains(folder: Path) -> list[Path]:
    files = (path for path in (folder / "data").rglob("*") if path.is_file())
    return [path for path in files if NAME.encode() in path.read_bytes()]


def test_a_patients_name_stays_where_it_belongs_and_goes_with_its_task(
    http: httpx.Client, folder: Path, server: LaunchedServer
) -> None:
    refused = refusals(http)
    assert {what: answer.status_code for what, answer in refused.items() if answer.status_code < 400} == {}
    told = {what for what, answer in refused.items() if NAME in answer.text}
    assert told == {"an unknown parameter"}  # the sender is told which value was wrong, nobody else is

    said = tomaat_refusals(http)
    assert {what for what, sentence in said.items() if NAME in sentence} == {"an odd switch", "an odd number"}

    uids = submitted(http)
    [slow] = predict(http, way="value_error")
    uids["tomaat"] = slow["request_id"]
    answer = predict_as_json(http, mha(Comment=NAME))
    assert (answer["status"], NAME in json.dumps(answer)) == (0, False)
    uids["first"] = newest(http, status="finished", dialect="tomaat")
    records = {way: ended(http, uid) for way, uid in uids.items()}
    codes = {way: (record["problem"] or {"code": record["status"]})["code"] for way, record in records.items()}
    assert codes == {
        "finish": "finished",
        "value_error": "prediction",
        "os_error": "prediction",
        "chained": "prediction",
        "not_an_exception": codes["not_an_exception"],
        "memory": "out_of_memory",
        "hang": "timed_out",
        "die": "worker_lost",
        "crash": "worker_lost",
        "picture": "finished",
        "tomaat": "prediction",
        "first": "finished",
        "cancelled": "cancelled",
    }
    shown = {way: {**record, "parameters": {}} for way, record in records.items()}
    assert [way for way, record in shown.items() if NAME in json.dumps(record)] == []
    events = {way: http.get(f"/api/v1/tasks/{uid}/events").text for way, uid in uids.items()}
    assert [way for way, text in events.items() if NAME in text] == []
    asked = http.post("/tomaat/ways/responses", data={"request_id": uids["tomaat"]}).json()
    assert (asked[0]["label"], NAME in json.dumps(asked)) == ("Error!", False)
    assert leaks(folder) == []
    assert remains(folder)  # or else this test looks for the wrong thing

    for uid in uids.values():
        assert http.delete(f"/api/v1/tasks/{uid}").status_code == 204
    deadline = time.monotonic() + LIMIT_S
    while left := remains(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert [path for path in (folder / "data" / "blobs").rglob("*") if path.is_file()] == []
    with closing(sqlite3.connect(folder / "data" / "records.sqlite")) as connection:
        deleted = {uid for (uid,) in connection.execute("SELECT uid FROM audit WHERE action = 'deleted'")}
    assert deleted == set(uids.values())
    assert all(re.search(uid, (folder / "server.log").read_text()) for uid in uids.values())
