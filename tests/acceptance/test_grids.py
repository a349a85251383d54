"""Labels lie on exactly the image's grid, through every door and whatever it is like; sheared images are refused."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest
from nifti_files import GEOMETRY_BYTES, affine, nifti, oblique, packed
from served import bright_box

from inference_server.clients import Client, ServerError
from inference_server.stack.launch import LaunchedServer

Door = Callable[[bytes], tuple[bytes, np.ndarray]]
NOISE = np.random.default_rng(0).normal(0, 1e-4, (3, 3))


def noisy() -> np.ndarray:
    matrix = oblique(2)
    matrix[:3, :3] *= 1 + NOISE
    return matrix


GRIDS = {
    "oblique": {"affine": oblique(0)},
    "oblique, left-handed": {"affine": oblique(1)},
    "left-handed": {"affine": affine(np.diag([1.0, 1.0, -1.0]))},
    "noisy": {"affine": noisy(), "qform_code": 0},
    "big-endian": {"affine": oblique(4), "big_endian": True},
}
SHEARED = affine(np.array([[1, 0, 0], [0, 1, 0.25], [0, 0, 0.968]]))


@pytest.fixture(params=["mim", "native"])
def door(request: pytest.FixtureRequest, server: LaunchedServer, client: Client, tmp_path: Path) -> Door:
    """Send an image to `bright` and get the labels' first bytes and their array, (x, y, z), as nibabel reads it."""

    def through(image: bytes) -> tuple[bytes, np.ndarray]:
        ask = through_mim if request.param == "mim" else through_native
        content = ask(image)
        (tmp_path / "labels.nii.gz").write_bytes(content)
        read = nibabel.load(tmp_path / "labels.nii.gz")
        return read.header.binaryblock, np.asarray(read.dataobj)

    def through_native(image: bytes) -> bytes:
        (tmp_path / "image.nii.gz").write_bytes(image)
        task = client.wait(client.submit("bright", [tmp_path / "image.nii.gz"]).uid)
        assert task.status == "finished", task.problem
        [labels] = [path for path in client.fetch(task.uid, tmp_path / "out") if path.suffix == ".gz"]
        return labels.read_bytes()

    def through_mim(image: bytes) -> bytes:
        uid = submit_to_mim(server, image).raise_for_status().json()
        client.wait(uid)
        answer = httpx.get(f"{server.url}/api/tasks/{uid}/")
        with zipfile.ZipFile(io.BytesIO(answer.raise_for_status().content)) as archive:
            [labels] = [name for name in archive.namelist() if name.endswith(".nii.gz")]
            return archive.read(labels)

    return through


def submit_to_mim(server: LaunchedServer, image: bytes) -> httpx.Response:
    case = io.BytesIO()
    with zipfile.ZipFile(case, "w") as archive:
        archive.writestr("tmp_0000.nii.gz", image)
    address = f"{server.url}/api/tasks/?model_human_readable_id=bright"
    return httpx.post(address, files={"zip_file": ("case.zip", case.getvalue())})


def image_on(matrix: np.ndarray, **fields: object) -> bytes:
    return packed(nifti(np.ascontiguousarray(bright_box().transpose()), matrix, **fields))


@pytest.mark.parametrize("grid", GRIDS)
def test_labels_lie_on_exactly_the_images_grid(door: Door, grid: str) -> None:
    said = dict(GRIDS[grid])
    image = image_on(said.pop("affine"), **said)
    header, labels = door(image)
    original = gzip.decompress(image)
    assert [header[part] for part in GEOMETRY_BYTES] == [original[part] for part in GEOMETRY_BYTES]
    np.testing.assert_array_equal(labels, bright_box().transpose() > 100)


def test_a_sheared_image_is_refused_with_what_to_do(server: LaunchedServer, client: Client, tmp_path: Path) -> None:
    """At the door, before anything is computed."""
    (tmp_path / "image.nii.gz").write_bytes(image_on(SHEARED))
    with pytest.raises(ServerError, match=r"sheared: .* 14\.5 degrees .* resampled to a rectangular grid") as refused:
        client.submit("bright", [tmp_path / "image.nii.gz"])
    assert (refused.value.http_status, refused.value.problem_code) == (422, "invalid_volume")
    answer = submit_to_mim(server, image_on(SHEARED))
    said = answer.json()
    assert (answer.status_code, said["code"], said["field"]) == (422, "invalid_volume", "tmp_0000.nii.gz")
    assert said["message"] == refused.value.message
