from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from inference_server.errors import StorageFull, StoreUnavailable
from inference_server.tasks import room
from inference_server.tasks.room import when_there_is_room


class Keeper:
    """Notes what it is told; cancelled at the nth question."""

    def __init__(self, cancelled_at: int = 1000) -> None:
        self.events: list[str] = []
        self.excused_s: list[float] = []
        self._left = cancelled_at

    def cancelled(self) -> bool:
        self._left -= 1
        return self._left <= 0

    def event(self, level: str, text: str) -> None:
        self.events.append(f"{level}: {text}")

    def excuse(self, seconds: float) -> None:
        self.excused_s.append(seconds)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    return now


def refused(times: int, error: type[Exception] = StorageFull) -> Callable[[], str]:
    left = [times]

    def write() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return "written"

    return write


def test_where_there_is_room_nothing_waits() -> None:
    keeper = Keeper()
    assert when_there_is_room(refused(0), keeper, limit_s=0.0) == "written"
    assert (keeper.events, keeper.excused_s) == ([], [])


@pytest.mark.parametrize("error", [StorageFull, StoreUnavailable])
def test_it_waits_longer_and_longer_says_so_once_and_charges_nobody(clock: list[float], error: type[Exception]) -> None:
    keeper = Keeper()
    assert when_there_is_room(refused(6, error), keeper, limit_s=600.0) == "written"
    assert keeper.excused_s == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert clock == [15.5]
    assert keeper.events == [f"warning: {room.WRITING.waiting}"]


@pytest.mark.parametrize(("error", "told"), [(StorageFull, room.WRITING.full), (StoreUnavailable, room.WRITING.away)])
def test_after_its_limit_it_gives_up_and_says_what_to_do(clock: list[float], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        when_there_is_room(refused(1000, error), Keeper(), limit_s=60.0)
    assert 55.0 < clock[0] <= 60.0


def test_a_task_that_is_cancelled_waits_no_more(clock: list[float]) -> None:
    with pytest.raises(StorageFull):
        when_there_is_room(refused(1000), Keeper(cancelled_at=3), limit_s=600.0)
    assert clock == [1.5]


@pytest.mark.parametrize(("error", "told"), [(StorageFull, room.READING.full), (StoreUnavailable, room.READING.away)])
def test_a_case_that_cannot_be_read_is_waited_for_too_and_called_so(error: type[Exception], told: str) -> None:
    keeper = Keeper()
    assert when_there_is_room(refused(2, error), keeper, limit_s=60.0, words=room.READING) == "written"
    assert keeper.events == [f"warning: {room.READING.waiting}"]
    with pytest.raises(error, match=told):
        when_there_is_room(refused(1000, error), Keeper(), limit_s=60.0, words=room.READING)
