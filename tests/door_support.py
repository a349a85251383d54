"""What the tests of the doors share: tiny cases, raw forms, and an application on records of its own."""

from __future__ import annotations

import functools
import io
import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flask.testing import FlaskClient

from inference_server.api.app import create_app
from inference_server.errors import UnknownModel
from inference_server.imaging.nifti import write_labels
from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.manifest import Channel, LabelName, Manifest
from inference_server.models.parameter import Parameter
from inference_server.models.resources import Resources
from inference_server.settings import Settings
from inference_server.tasks.admission import bounds_of
from inference_server.tasks.blobs import LocalBlobs
from inference_server.tasks.caller import LOCAL
from inference_server.tasks.case_zip import check_case
from inference_server.tasks.claims import Claims
from inference_server.tasks.database import open_database
from inference_server.tasks.record import Claim, Holder, Phase, Priority, Problem, Status, Task
from inference_server.tasks.service import Tasks
from inference_server.tasks.store import Store

BOUNDARY = "frontier"
RESULT = b"PK\x05\x06" + bytes(18)
"""An empty zip: doors serve results untouched, so any will do."""

ONE = Manifest(
    id="one",
    version="2.1.0",
    title="Takes one image",
    labels={1: LabelName(name="BODY")},
    parameters=(Parameter(name="level", type="number", default=0.5, minimum=0, maximum=1),),
)
TWO = Manifest(id="two", channels=(Channel(name="t1"), Channel(name="t2")), resources=Resources(queue="large"))


def image(shape: tuple[int, int, int] = (3, 4, 5), *, spacing_mm: tuple[float, float, float] = (1, 1, 2)) -> bytes:
    """Return a gzipped NIfTI file of zeros; its last voxel is one."""
    array = np.zeros(shape, np.uint8)
    array[-1, -1, -1] = 1
    file = io.BytesIO()
    write_labels(file, Volume(array, Geometry(shape, spacing_mm)))
    return file.getvalue()


def zipped(members: Mapping[str, bytes | str]) -> bytes:
    """Return a zip of these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def case(images: int = 1, meta: Mapping[str, Any] | None = None) -> bytes:
    """Return a case as MIM's extension sends it."""
    members: dict[str, bytes | str] = {f"tmp_{number:04d}.nii.gz": image() for number in range(images)}
    return zipped({**members, **({"meta.json": json.dumps(meta)} if meta else {})})


def queued_task() -> Task:
    """Return a task that waits."""
    fixed: dict[str, Any] = {"uid": "0af3", "model": "one", "version": "1", "digest": "d", "queue": "default"}
    more: dict[str, Any] = {
        "dialect": "mim",
        "token": "anonymous",
        "priority": Priority.NORMAL,
        "status": Status.QUEUED,
    }
    numbers: dict[str, Any] = {
        "revision": 1,
        "attempts": 0,
        "created_at": 1.7e9,
        "queued_at": 1.7e9,
        "case_size_bytes": 10,
    }
    return Task(**fixed, **more, **numbers, case_blob="b", parameters={}, outputs=())


def part(name: str, content: bytes | str, file_name: str | None = None) -> bytes:
    """Return a part of a form. Without a file name it says of itself that it is a text."""
    shown = "" if file_name is None else f'; filename="{file_name}"'
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n\r\n'
    return head.encode() + (content.encode() if isinstance(content, str) else content) + b"\r\n"


def form(*parts: bytes) -> dict[str, Any]:
    """Return the arguments of a test client that post a form."""
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    return {"data": body, "content_type": f"multipart/form-data; boundary={BOUNDARY}"}


class FakeTurns:
    """Notes the turns sent. `up` is whether the broker answers."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.up = True

    def send(self, queue: str, priority: Priority = Priority.NORMAL) -> bool:
        self.sent.append(queue)
        return self.up

    def ready(self, queue: str) -> int | None:
        return len(self.sent) if self.up else None


class FakeModel:
    """A model with a manifest only."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.digest = f"sha-{manifest.id}"


class FakeModels:
    """A model repository in memory."""

    def __init__(self, *manifests: Manifest) -> None:
        self.known = {manifest.id: FakeModel(manifest) for manifest in manifests}

    def get(self, model_id: str, /) -> FakeModel:
        model_id = model_id.partition(":")[0]
        if model_id not in self.known:
            known = ", ".join(self.known)
            raise UnknownModel(
                f"The server does not know the model '{model_id}'. Known models: {known}.", field="model"
            )
        return self.known[model_id]

    def models(self) -> Sequence[FakeModel]:
        return tuple(self.known.values())

    def problems(self) -> Mapping[Path, str]:
        return {Path("/srv/models/half"): "The bundle has no weights."}


@functools.cache
def empty_records() -> bytes:
    """Return a migrated database without tasks: migrating takes longer than most tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records.sqlite")
        open_database(f"sqlite:///{path}").close()
        return path.read_bytes()


class Hands:
    """A worker's hands, on the records and blobs of a data folder."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = open_database(settings.database)
        self.claims = Claims(self.database)
        self.blobs = LocalBlobs(settings.data_dir / "blobs")

    def close(self) -> None:
        self.database.close()

    def blob_files(self) -> list[Path]:
        """Return every file that blobs or staged uploads have left on the disk."""
        return [path for path in (self.settings.data_dir / "blobs").rglob("*") if path.is_file()]

    def claim(self) -> Claim:
        """Take the next task."""
        claim = self.claims.claim(["default", "large"], Holder("worker", 1), 15.0)
        assert claim is not None
        return claim

    def go_on(self, claim: Claim, phase: Phase = Phase.PREDICTING, progress: float = 0.25) -> None:
        """Say how far the task is."""
        assert self.claims.renew(claim, 15.0, phase=phase, progress=progress)

    def finish(self, claim: Claim, result: bytes = RESULT, report: Mapping[str, Any] | None = None) -> None:
        """Store a result."""
        staged = self.blobs.stage()
        staged.write_bytes(result)
        blob = self.blobs.put(staged)
        assert self.claims.finish(claim, blob=blob, size_bytes=len(result), report=report or {}, device_s=1.0)

    def fail(self, claim: Claim, problem: Problem) -> None:
        """Give up."""
        assert self.claims.fail(claim, problem, {}, 1.0)


class Doors(Hands):
    """An application on a data folder of its own, with a worker's hands to move its tasks on."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        (folder / "records.sqlite").write_bytes(empty_records())
        super().__init__(Settings(**{"data_dir": folder, "disk_low_bytes": 0, **settings}))
        self.store = Store(self.database, bounds=bounds_of(self.settings))
        self.turns = FakeTurns()
        self.models = FakeModels(ONE, TWO)
        self.tasks = Tasks(self.settings, self.store, self.blobs, self.turns, self.models, check_case)
        self.app = create_app(self.settings, self.tasks)

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def submitted(self, model: str = "one") -> str:
        """Return the UID of a fresh task."""
        images = len(self.models.get(model).manifest.channels)
        answer = self.client.post("/api/v1/tasks", **form(part("model", model), part("case", case(images), "c.zip")))
        assert answer.status_code == 202, answer.text
        return str(answer.json["uid"])

    def running(self) -> str:
        """Return the UID of a task that a worker computes."""
        uid = self.submitted()
        self.go_on(self.claim())
        return uid

    def finished(self, result: bytes = RESULT, report: Mapping[str, Any] | None = None) -> str:
        """Return the UID of a task whose result is `result`."""
        uid = self.submitted()
        self.finish(self.claim(), result, report)
        return uid

    def failed(self, problem: Problem) -> str:
        """Return the UID of a task that failed."""
        uid = self.submitted()
        self.fail(self.claim(), problem)
        return uid

    def cancelled(self) -> str:
        """Return the UID of a task that was cancelled."""
        uid = self.submitted()
        self.tasks.cancel(uid, LOCAL)
        return uid

    def expired(self) -> str:
        """Return the UID of a task whose case and result have been removed."""
        uid = self.finished()
        for key in self.claims.expire(-1.0):
            self.blobs.delete(key)
        return uid
