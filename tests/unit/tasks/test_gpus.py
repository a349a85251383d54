from __future__ import annotations

from pathlib import Path

import pytest

from inference_server.tasks import gpus
from inference_server.tasks.gpus import count_gpus, worker_devices


@pytest.fixture
def four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The devices of a machine with four GPUs, on which torch computes."""
    monkeypatch.setattr(gpus, "version", lambda _: "2.13.0+cu130")
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia10", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    return tmp_path


def test_every_gpu_gets_a_worker(four: Path) -> None:
    assert worker_devices("auto", {}, four) == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_a_device_that_is_named_is_the_only_one(device: str, four: Path) -> None:
    assert worker_devices(device, {}, four) == [device]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("1,3", 2), ("0", 1), ("", 0), ("-1", 0), ("GPU-aa, GPU-bb", 2), ("MIG-a,MIG-b,MIG-c", 3), ("0,-1,2", 1)],
)
def test_those_count_that_are_visible(visible: str, expected: int, four: Path) -> None:
    assert count_gpus({"CUDA_VISIBLE_DEVICES": visible}, four) == expected


def test_one_gpu_or_none_is_left_to_torch_to_choose(four: Path, tmp_path: Path) -> None:
    assert worker_devices("auto", {"CUDA_VISIBLE_DEVICES": "2"}, four) == ["auto"]
    assert worker_devices("auto", {}, tmp_path / "none") == ["auto"]


def test_a_torch_for_processors_has_no_gpus(four: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "version", lambda _: "2.13.0+cpu")
    assert worker_devices("auto", {}, four) == ["auto"]
