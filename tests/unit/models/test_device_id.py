from __future__ import annotations

import pytest

from inference_server.models.device_id import device_id

FIRST, SECOND = "8d1b0a9e-0000-0000-0000-000000000001", "8d1b0a9e-0000-0000-0000-000000000002"


def test_two_containers_that_call_different_gpus_the_same_do_not_share_an_identity() -> None:
    assert device_id("cuda:0", uuid=FIRST) != device_id("cuda:0", uuid=SECOND)


def test_who_sees_all_gpus_and_who_sees_one_of_them_name_it_alike() -> None:
    of_all = device_id("cuda:1", uuid=SECOND, visible=None)
    assert device_id("cuda:0", uuid=SECOND, visible="1") == of_all == f"GPU-{SECOND}"


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("cuda:0", None, "cuda:0"),
        ("cuda", None, "cuda:0"),
        ("cuda:1", None, "cuda:1"),
        ("cuda:0", "3", "cuda:3"),
        ("cuda:1", "2, 3", "cuda:3"),
        ("cuda:0", "GPU-8d1b", "GPU-8d1b"),
        ("cuda:2", "0,1", "cuda:2"),
        ("cuda:0", "", "cuda:0"),
        ("cpu", "3", "cpu"),
    ],
)
def test_without_a_uuid_the_list_of_visible_devices_tells(device: str, visible: str | None, expected: str) -> None:
    assert device_id(device, visible=visible) == expected


def test_a_part_of_a_gpu_goes_by_its_own_name() -> None:
    assert device_id("cuda:1", uuid=FIRST, visible="MIG-aa,MIG-bb") == "MIG-bb"


def test_a_uuid_that_is_whole_stays_as_it_is() -> None:
    assert device_id("cuda:0", uuid=f"GPU-{FIRST}") == f"GPU-{FIRST}"
