from __future__ import annotations

import subprocess
import sys

import pytest
from door_support import Doors

from inference_server.api.doors import DOORS


def test_the_doors_are_listed_once_each() -> None:
    assert [(door.name, door.prefix) for door in DOORS] == [("native", "/api/v1"), ("mim", "/api/tasks")]


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/api/v1", ["native"]),
        ("/api/v1/tasks", ["native"]),
        ("/api/v10", []),
        ("/api/tasks", ["mim"]),
        ("/api/tasks/x/y", ["mim"]),
        ("/", []),
    ],
)
def test_a_path_belongs_to_one_door_at_most(path: str, names: list[str]) -> None:
    assert [door.name for door in DOORS if door.is_at(path)] == names


def test_every_answer_is_kept_out_of_caches(doors: Doors) -> None:
    for path in ("/api/v1/models", "/api/v1/nothing", f"/api/v1/tasks/{doors.finished()}/result"):
        answer = doors.client.get(path, buffered=True)
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_files_of_the_page_may_be_cached(doors: Doors) -> None:
    assert "max-age=3600" in doors.client.get("/docs/assets/css/swagger-ui.css", buffered=True).headers["Cache-Control"]


@pytest.mark.parametrize("path", ["//api/v1/models", "///healthz/live", "//api/tasks/x"])
def test_an_address_that_ends_in_a_slash_does_no_harm(doors: Doors, path: str) -> None:
    assert doors.client.get("/", environ_overrides={"PATH_INFO": path}).status_code in (200, 554)


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
