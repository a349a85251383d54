from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from inference_server.errors import Cancelled
from inference_server.tasks.device import DeviceLock


def test_whoever_waits_gets_the_device_when_it_is_free(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with DeviceLock(tmp_path, "cuda:0").hold():
            order.append("second")

    with DeviceLock(tmp_path, "cuda:0").hold():
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.05)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]


def test_devices_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with DeviceLock(tmp_path, "cuda:0").hold(), DeviceLock(tmp_path, "cuda:1").hold():
        assert {path.stem for path in tmp_path.iterdir()} == {"cuda-0", "cuda-1"}


def test_those_who_share_a_device_wait_for_one_who_wants_it_alone_and_not_for_each_other(tmp_path: Path) -> None:
    lock = DeviceLock(tmp_path, "cpu")
    with lock.hold(shared=True), lock.hold(lambda: True, shared=True):
        refused(lock, shared=False)
    with lock.hold():
        refused(lock, shared=True)


def refused(lock: DeviceLock, *, shared: bool) -> None:
    with pytest.raises(Cancelled), lock.hold(lambda: True, shared=shared):
        pytest.fail("the device is held")


def test_nobody_who_shares_goes_before_one_who_came_first(tmp_path: Path) -> None:
    lock = DeviceLock(tmp_path, "cpu")
    waits, got_it = threading.Event(), threading.Event()

    def alone() -> None:
        with lock.hold(lambda: bool(waits.set())):
            got_it.set()

    with lock.hold(shared=True):
        waiting = threading.Thread(target=alone)
        waiting.start()
        assert waits.wait(10)
        refused(lock, shared=True)
        assert not got_it.is_set()
    waiting.join(10)
    assert got_it.is_set()


def test_a_cancelled_task_waits_no_longer(tmp_path: Path) -> None:
    with DeviceLock(tmp_path, "cpu").hold(), pytest.raises(Cancelled), DeviceLock(tmp_path, "cpu").hold(lambda: True):
        pytest.fail("the device is held")


def test_the_device_is_free_after_an_error(tmp_path: Path) -> None:
    lock = DeviceLock(tmp_path, "cpu")
    with pytest.raises(ValueError, match="inside"), lock.hold():
        raise ValueError("inside")
    with lock.hold(lambda: True):
        pass


def test_death_frees_the_device(tmp_path: Path) -> None:
    lock = DeviceLock(tmp_path, "cpu")
    held, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with lock.hold():
            os.write(tell, b"!")
            signal.pause()
    assert os.read(held, 1) == b"!"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with lock.hold(lambda: True):
        pass
    os.close(held)
    os.close(tell)
