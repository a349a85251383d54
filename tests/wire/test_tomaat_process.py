"""TOMAAT through a real server: what only sockets, threads and memory show."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
from api_process import MIB, Api
from door_support import BOUNDARY
from mha_files import HEADER
from records import HOLDER, PROBLEM
from tomaat_support import NAMES, VERSION, finish, volume_part

from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.case import Result, Segmentation

SLICES = 90
LARGE = HEADER.replace("DimSize = 5 4 3", f"DimSize = 1024 1024 {SLICES}").encode()
"""The header of 180 MiB of voxels: 240 MiB as base64."""
TYPE = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("INFERENCE_SERVER_TOMAAT_PATIENCE_S", "0")
        environment.setenv("INFERENCE_SERVER_TASK_TIME_LIMIT_S", "0.01")
        api = Api(tmp_path_factory.mktemp("api"))
    yield api
    api.stop()


def large_volume(line_break: bytes) -> Iterator[bytes]:
    """Yield a volume of zeros as base64 in lines."""
    head = LARGE + b"\0" * (-len(LARGE) % 57)  # so that each slice begins a line of its own
    rest = SLICES * 2 * MIB + len(LARGE) - len(head)
    yield base64.b64encode(head) + line_break
    lines = (b"A" * 76 + line_break) * 10_000
    yield from (lines for _ in range(rest // 570_000))
    left = rest % 570_000
    yield (b"A" * 76 + line_break) * (left // 57) + base64.b64encode(bytes(left % 57))


def as_form() -> Iterator[bytes]:
    yield VERSION + f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"\r\n\r\n'.encode()
    yield from large_volume(b"\n")
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


def as_json() -> Iterator[bytes]:
    yield b'{"threshold": 0.5, "content_mha": "'
    yield from large_volume(b"\\n")
    yield b'", "module_version": 0.01}'


def small(api: Api) -> Any:
    body = volume_part() + VERSION + f"--{BOUNDARY}--\r\n".encode()
    return requests.post(f"{api.url}/tomaat/one/predict", data=body, headers=TYPE)


def test_memory_does_not_grow_with_a_plain_field_or_a_text_of_a_message(api: Api) -> None:
    for _ in range(4):
        assert small(api).json()[0]["type"] == "DelayedResponse"
        requests.post(f"{api.url}/tomaat/one", data=b"{}")
    before = api.peak_bytes()
    answer = requests.post(f"{api.url}/tomaat/one/predict", data=as_form(), headers=TYPE)
    assert answer.json()[0]["type"] == "DelayedResponse"
    answer = requests.post(f"{api.url}/tomaat/one", data=as_json())
    assert "could not finish the case" in answer.json()["error"]
    assert api.peak_bytes() - before <= 30 * MIB


def large_result() -> Result:
    """Return labels that hardly compress."""
    grid = Geometry((60, 512, 512))
    noise = np.random.default_rng(0).integers(0, 3, grid.shape, np.uint8)
    return Result((Segmentation("organs", Volume(noise, grid), NAMES),))


def test_a_large_result_is_answered_in_pieces_and_in_flat_memory(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    given = large_result()
    monkeypatch.setattr("tomaat_support.GRID", given.segmentations[0].labels.geometry)
    while (claim := api.claims.claim(["default"], HOLDER, 15.0)) is not None:
        api.fail(claim, PROBLEM)
    uid = small(api).json()[0]["request_id"]
    finish(api, given)
    before = api.peak_bytes()
    # The limit of the fielded client: to connect, and between any two pieces.
    answer = requests.post(f"{api.url}/tomaat/one/responses", data={"request_id": uid}, timeout=5.0)
    [element] = answer.json()
    assert len(base64.b64decode(element["content"])) > 3 * MIB
    assert api.peak_bytes() - before <= 30 * MIB
