"""What the tests of tickets on models share: workspaces to upload, and a server's records with a worker's hands."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from door_support import FakeModels, FakeTurns, Hands, empty_records
from nifti_files import nifti, oblique

from inference_server.imaging.nifti import read_volume
from inference_server.imaging.workspace import Layer, Role, Workspace, encode_workspace
from inference_server.models.case import Result, Segmentation
from inference_server.models.manifest import LabelName, Manifest
from inference_server.settings import Settings
from inference_server.tasks.admission import bounds_of
from inference_server.tasks.caller import Caller, Scope
from inference_server.tasks.case_zip import check_case
from inference_server.tasks.record import Claim
from inference_server.tasks.result_zip import write_result
from inference_server.tasks.service import Tasks
from inference_server.tasks.store import Store
from inference_server.tasks.tickets.linked import Linked
from inference_server.tasks.tickets.record import Area, Service, Ticket
from inference_server.tasks.tickets.services import model_services
from inference_server.tasks.tickets.tickets import Tickets

ANNA = Caller("anna", frozenset({Scope.SUBMIT, Scope.READ_OWN}), "dss")
WORKSPACE = "ticket_00000001.itksnap"
ARRAY = np.arange(5 * 4 * 3, dtype=np.int16).reshape(5, 4, 3)
"""(x, y, z)."""


def picture(seed: int = 0, array: np.ndarray = ARRAY) -> bytes:
    """Return an oblique, anisotropic image as clients export it: of four dimensions, the last of one time point."""
    return gzip.compress(nifti(array[..., None], oblique(seed)), 1, mtime=0)


def layer(name: str, *tags: str, role: str = Role.OVERLAY) -> Layer:
    return Layer(f"/export/{name}", role, tags)


def main(*tags: str, name: str = "layer_000.nii.gz") -> Layer:
    return layer(name, *tags, role=Role.MAIN)


def uploaded(workspace: Workspace, **images: bytes) -> dict[str, bytes]:
    """Return what a client uploads of a workspace, with an image for every layer that none is given for."""
    names = [one.file_name for one in workspace.layers]
    saved = replace(workspace, save_location="/export")
    return {WORKSPACE: encode_workspace(saved), **{name: picture() for name in names}, **images}


class Site(Hands):
    """Records with tickets, and the hands of a worker."""

    def __init__(self, folder: Path, *manifests: Manifest, **settings: Any) -> None:
        (folder / "records.sqlite").write_bytes(empty_records())
        super().__init__(Settings(**{"data_dir": folder, "disk_low_bytes": 0, **settings}))
        self.store = Store(self.database, bounds=bounds_of(self.settings))
        self.models = FakeModels(*manifests)
        self.turns = FakeTurns()
        self.tasks = Tasks(self.settings, self.store, self.blobs, self.turns, self.models, check_case)
        self.tickets = Tickets(self.database, self.blobs)
        self.linked = self.another()

    def another(self) -> Linked:
        """Return what another process has of the same records."""
        return Linked(self.tasks, self.tickets)

    def service(self, name: str) -> Service:
        return next(service for service in model_services(self.models) if service.name == name)

    def sent(self, files: Mapping[str, bytes], model: str = "one") -> Ticket:
        """Return a fresh ticket with its files."""
        ticket = self.tickets.create(self.service(model), ANNA)
        for name, content in files.items():
            staged = self.blobs.stage()
            staged.write_bytes(content)
            self.tickets.add_file(ticket.id, name, staged, ANNA)
        return ticket

    def ready(self, ticket: Ticket) -> Ticket:
        return self.linked.start(ticket, ANNA)

    def now(self, ticket: Ticket) -> Ticket:
        return self.tickets.get(ticket.id, ANNA)

    def lines(self, ticket: Ticket) -> list[str]:
        return [f"{line.category}: {line.message}" for line in self.tickets.log(ticket.id, ANNA)]

    def results(self, ticket: Ticket) -> dict[str, bytes]:
        """Return the names and bytes of the results."""
        found = self.tickets.files(ticket.id, Area.RESULTS, ANNA)
        return {file.name: self.content(file.blob) for file in found}

    def content(self, key: str) -> bytes:
        with self.blobs.open(key) as file:
            return file.read()

    def finish_with(self, claim: Claim, result: Result, **report: Any) -> None:
        """Store a result as a worker does."""
        staged = self.blobs.stage()
        contents = [content.record for content in write_result(staged, result)]
        key, size_bytes = self.blobs.put(staged), 1
        report = {"contents": contents, **report}
        assert self.claims.finish(claim, blob=key, size_bytes=size_bytes, report=report, device_s=1.0)


def labels_like(content: bytes, folder: Path, value: int = 1) -> Segmentation:
    """Return labels on the grid of an image: the voxels above 30."""
    (folder / "like.nii.gz").write_bytes(content)
    volume = read_volume(folder / "like.nii.gz", max_bytes=2**20)
    array = ((volume.array > 30) * value).astype(np.uint8)
    return Segmentation("body", replace(volume, array=array), {value: LabelName(name="BODY")})
