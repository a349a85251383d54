from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from inference_server.models import device_use as module
from inference_server.models.device_use import DeviceUse, device_use


class NVMLError(Exception):
    pass


class Library(SimpleNamespace):
    """Stands in for NVIDIA's, on a machine with one GPU, `GPU-1`, and one part of it, `MIG-1`."""

    NVMLError = NVMLError
    has_driver = True

    def nvmlInit(self) -> None:
        if not self.has_driver:
            raise NVMLError("no driver")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid not in ("GPU-1", "MIG-1"):
            raise NVMLError("not found")
        return uuid

    def nvmlDeviceGetMemoryInfo(self, _handle: str) -> SimpleNamespace:
        return SimpleNamespace(used=6 * 2**30)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        if handle.startswith("MIG"):
            raise NVMLError("not supported")
        return SimpleNamespace(gpu=37)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    library = Library()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    module._library.cache_clear()
    yield library
    module._library.cache_clear()


def test_a_gpu_says_its_memory_and_how_busy_it_is(library: Library) -> None:
    assert device_use("GPU-1") == DeviceUse(6 * 2**30, 0.37)


def test_a_part_of_a_gpu_says_its_memory_alone(library: Library) -> None:
    assert device_use("MIG-1") == DeviceUse(6 * 2**30, None)


@pytest.mark.parametrize("uuid", ["cpu", "cuda:0", "GPU-2", ""])
def test_of_what_is_not_known_nothing_is_said(library: Library, uuid: str) -> None:
    assert device_use(uuid) is None


def test_without_a_driver_nothing_is_said(library: Library) -> None:
    library.has_driver = False
    assert device_use("GPU-1") is None


def test_without_the_library_nothing_is_said(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert device_use("GPU-1") is None
