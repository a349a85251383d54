from __future__ import annotations

import subprocess
import sys

import pytest
from door_support import Doors
from flask import Blueprint

from inference_server.api import doors as doors_module
from inference_server.api.doors import DOORS, Door, door_at

DSS = ("/api/login", "/api/token", "/api/services", "/api/tickets", "/api/pro", "/api/admin")


def test_the_doors_are_listed_once_each() -> None:
    assert [(door.name, *door.prefixes) for door in DOORS] == [
        ("native", "/api/v1", "/metrics"),
        ("mim", "/api/tasks"),
        ("tomaat", "/tomaat", "/interface", "/announcePoint", "/predict", "/responses", "/"),
        ("announcements", "/announce", "/discover", "/discovery"),
        ("dss", "/token", "/logout", *DSS, "/blobs"),
    ]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/v1", "native"),
        ("/api/v1/tasks", "native"),
        ("/api/v10", None),
        ("/api/tasks", "mim"),
        ("/api/tasks/x/y", "mim"),
        ("/tomaat", "tomaat"),
        ("/tomaat/one/predict", "tomaat"),
        ("/interface", "tomaat"),
        ("/interfaces", None),
        ("/", "tomaat"),
        ("/healthz/live", None),
        ("/discover", "announcements"),
        ("/discovery", "announcements"),
        ("/announcePoint", "tomaat"),
        ("/token", "dss"),
        ("/api/tickets/1/files/input", "dss"),
        ("/api/ticket", None),
    ],
)
def test_a_path_belongs_to_one_door_at_most(path: str, name: str | None) -> None:
    door = door_at(path)
    assert (door.name if door else None) == name


def test_of_two_doors_the_one_with_the_longer_prefix_has_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Door("wide", Blueprint("wide", __name__, url_prefix="/api"))
    narrow = Door("narrow", Blueprint("narrow", __name__), root_paths=("/api/v1/tasks/deep",))
    monkeypatch.setattr(doors_module, "DOORS", (wide, *DOORS, narrow))
    found = {path: door_at(path) for path in ("/api/other", "/api/v1/tasks", "/api/v1/tasks/deep/er", "/apis")}
    assert [door.name if door else None for door in found.values()] == ["wide", "native", "narrow", None]


def test_every_answer_is_kept_out_of_caches(doors: Doors) -> None:
    for path in ("/api/v1/models", "/api/v1/nothing", f"/api/v1/tasks/{doors.finished()}/result"):
        answer = doors.client.get(path, buffered=True)
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_files_of_the_page_may_be_cached(doors: Doors) -> None:
    assert "max-age=3600" in doors.client.get("/docs/assets/css/swagger-ui.css", buffered=True).headers["Cache-Control"]


@pytest.mark.parametrize("path", ["//api/v1/models", "///healthz/live", "//api/tasks/x", "/api/v1//models"])
def test_an_address_that_ends_in_a_slash_does_no_harm(doors: Doors, path: str) -> None:
    assert doors.client.get("/", environ_overrides={"PATH_INFO": path}).status_code in (200, 554)


def test_a_query_of_bytes_that_are_no_text_is_read_as_far_as_it_can_be(doors: Doors) -> None:
    raw = {"QUERY_STRING": "model=\xe9&limit=1"}
    assert doors.client.get("/api/v1/tasks", environ_overrides=raw).json == {"tasks": [], "next_cursor": None}
    raw = {"QUERY_STRING": "model_human_readable_id=\xe9"}
    assert doors.client.post("/api/tasks/", environ_overrides=raw).json["code"] == "unknown_model"


def test_the_application_is_imported_in_two_seconds_and_without_model_libraries() -> None:
    code = (
        "import sys, time; began = time.process_time(); import inference_server.api.app;"
        "print(time.process_time() - began);"
        "print(sorted({'torch', 'monai', 'vtk', 'SimpleITK', 'scipy', 'alembic'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy = done.stdout.split("\n")[:2]
    assert heavy == "[]"
    assert float(seconds) < 2.0
