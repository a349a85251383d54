"""Python apps and classifications of pictures, through a running server."""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from apps import write_app
from pictures import expected_quarters, quarter_picture, save_picture, write_quarters
from served import bright_box, write_image

from inference_server.clients import Client
from inference_server.clients.native import ServerError
from inference_server.imaging.nifti import read_volume
from inference_server.stack.launch import LaunchedServer, launched_server

pytestmark = pytest.mark.timeout(300)
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "models" / "threshold_app"
FORMATS = ("png", "jpg", "dcm", "nii.gz")
STEPS = """
    import time
    from multiprocessing import Pool

    def thrice(number):
        return 3 * number

    class Steps:
        def pre(self, case, context):
            with Pool(2) as pool:
                context.log(f"processes say {pool.map(thrice, [1, 2])}")

        def infer(self, data, context):
            context.progress(0.25)
            until = time.monotonic() + context.case.parameters["seconds"]
            while time.monotonic() < until and not context.cancelled():
                time.sleep(0.01)
            context.log("about to end", level="warning")

        def post(self, data, context):
            return {"remark": "done", "tip": [[1.0, 2.0, 3.0]]}
"""


@pytest.fixture(scope="module")
def app_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedServer]:
    """A server with the app of the examples, one of processes and steps, and a model of pictures."""
    folder = tmp_path_factory.mktemp("apps")
    shutil.copytree(EXAMPLE, folder / "models" / "threshold_app")
    seconds = {"name": "seconds", "type": "number", "default": 0.6}
    write_app(folder / "models" / "steps", STEPS, app="app.py:Steps", parameters=[seconds])
    write_quarters(folder / "models" / "quarters")
    environment = {"INFERENCE_SERVER_DISK_LOW_BYTES": "0", "INFERENCE_SERVER_ZOO": "false"}
    with (
        (folder / "log").open("w") as log,
        launched_server(
            folder / "data", arguments=["--models", str(folder / "models")], environment=environment, log=log
        ) as launched,
    ):
        yield launched


@pytest.fixture
def app_client(app_server: LaunchedServer) -> Iterator[Client]:
    with Client(app_server.url) as client:
        yield client


def write_case(folder: Path) -> tuple[Path, np.ndarray]:
    """Write a zipped case with a contour twice as fine along y, and its DICOM tags; return it and the contour."""
    inside = np.zeros((6, 20, 14), np.uint8)
    inside[:2, 5:, :] = 1
    members = {
        "tmp_0000.nii.gz": write_image(folder / "box.nii.gz", bright_box()).read_bytes(),
        "meta.json": json.dumps({"scaling_factor": [1, 2, 1]}),
        "tmp_0000.dicom_info.json": json.dumps({str(0x00080060): "CT"}),
        "liver.nii.gz": write_image(folder / "liver.nii.gz", inside, (1.0, 0.75, 3.0)).read_bytes(),
        "liver.json": json.dumps({"name": "Liver"}),
    }
    path = folder / "case.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path, inside.astype(bool)


def test_an_app_gets_parameters_contours_and_tags(app_client: Client, tmp_path: Path) -> None:
    case, inside = write_case(tmp_path)
    parameters = {"threshold": 150, "within": "Liver"}
    task = app_client.wait(app_client.submit("threshold-app", [case], parameters=parameters).uid, timeout_s=60)
    assert task.status == "finished", task.problem
    written = app_client.fetch(task.uid, tmp_path / "out")
    assert [path.name for path in written] == ["ABOVE.json", "ABOVE.nii.gz"]
    labels = read_volume(written[1], max_bytes=2**20).array
    np.testing.assert_array_equal(labels, np.repeat(bright_box() > 150, 2, axis=1) & inside)
    lines = [(event["level"], event["text"]) for event in app_client.events(task.uid)]
    assert ("info", "modality CT, threshold 150") in lines


def test_an_apps_own_sentence_is_why_the_task_failed(app_client: Client, tmp_path: Path) -> None:
    case, _ = write_case(tmp_path)
    task = app_client.wait(app_client.submit("threshold-app", [case], parameters={"within": "lung"}).uid, timeout_s=60)
    assert task.problem == {
        "code": "prediction",
        "message": "There is no contour of that name. Please choose one that was sent along.",
    }


def test_an_app_spawns_processes_tells_its_progress_and_answers_without_labels(
    app_client: Client, tmp_path: Path
) -> None:
    image = write_image(tmp_path / "box.nii.gz", bright_box())
    seen: set[float] = set()
    uid = app_client.submit("steps", [image]).uid
    task = app_client.wait(uid, timeout_s=60, on_change=lambda task: seen.add(task.progress))
    assert task.status == "finished", task.problem
    assert 0.25 in seen
    report = task.raw["report"]
    assert (report["texts"], report["points"]) == ({"remark": "done"}, {"tip": [[1.0, 2.0, 3.0]]})
    lines = [(event["level"], event["text"]) for event in app_client.events(uid)]
    said = [line for line in lines if line[1] in ("processes say [3, 6]", "about to end")]
    assert said == [("info", "processes say [3, 6]"), ("warning", "about to end")]
    assert app_client.fetch(uid, tmp_path / "out") == []


def test_an_app_that_is_cancelled_makes_room_at_once(app_client: Client, tmp_path: Path) -> None:
    image = write_image(tmp_path / "box.nii.gz", bright_box())
    uid = app_client.submit("steps", [image], parameters={"seconds": 100}).uid
    while app_client.status(uid).progress < 0.2:
        time.sleep(0.05)
    began = time.monotonic()
    assert app_client.cancel(uid).status == "cancelled"
    after = app_client.submit("steps", [image], parameters={"seconds": 0}).uid
    assert app_client.wait(after, timeout_s=60).status == "finished"
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("ending", FORMATS)
def test_a_picture_of_any_format_is_classified(app_client: Client, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{ending}"
    pixels = quarter_picture()
    picture = write_image(path, pixels[None]) if ending == "nii.gz" else save_picture(path, pixels)
    task = app_client.wait(app_client.submit("quarters", [picture]).uid, timeout_s=60)
    assert task.status == "finished", task.problem
    close = 0.05 if ending == "jpg" else 1e-6
    assert task.raw["report"]["classifications"] == pytest.approx(expected_quarters(), abs=close)
    [table] = app_client.fetch(task.uid, tmp_path / "out")
    assert (table.name, len(table.read_text().splitlines())) == ("classifications.csv", 5)


def test_an_inverse_dicom_picture_is_classified_as_what_it_shows(app_client: Client, tmp_path: Path) -> None:
    picture = save_picture(tmp_path / "picture.dcm", 255 - quarter_picture(), inverse=True)
    task = app_client.wait(app_client.submit("quarters", [picture]).uid, timeout_s=60)
    assert task.raw["report"]["classifications"] == pytest.approx(expected_quarters(), abs=1e-6)


def test_the_mim_door_takes_a_picture_and_answers_with_a_zip_without_structures(
    app_server: LaunchedServer, tmp_path: Path
) -> None:
    case = tmp_path / "case.zip"
    with zipfile.ZipFile(case, "w") as archive:
        archive.write(save_picture(tmp_path / "picture.png", quarter_picture()), "tmp_0000.png")
    with httpx.Client(base_url=app_server.url) as http, case.open("rb") as file:
        query = {"model_human_readable_id": "quarters"}
        uid = http.post("/api/tasks/", params=query, files={"zip_file": file}).json()
        while (answer := http.get(f"/api/tasks/{uid}/")).status_code == 551:
            time.sleep(0.1)
    assert answer.status_code == 200
    (tmp_path / "result.zip").write_bytes(answer.content)
    with zipfile.ZipFile(tmp_path / "result.zip") as archive:
        assert archive.namelist() == ["classifications.csv"]


def test_a_picture_is_refused_by_a_model_of_volumes(app_client: Client, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="takes 3-D images"):
        app_client.submit("threshold-app", [save_picture(tmp_path / "picture.png", quarter_picture())])
