"""What a model needs, as `model.yaml` says it, and which machine has it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from inference_server.errors import ModelLoadError
from inference_server.models.manifest import Manifest, parse_manifest
from inference_server.models.resources import Machine, Resources, shown

GIB = 1024**3
GPU = Machine("cuda:0 (a card)", "cuda", 8 * GIB, 32 * GIB)
CPU = Machine("cpu (x86_64)", "cpu", 32 * GIB, 32 * GIB)


def manifest(written: str) -> Manifest:
    return parse_manifest({"id": "m", **yaml.safe_load(written)}, written=written)


def test_what_a_manifest_does_not_say_is_not_needed() -> None:
    assert manifest("title: T").resources == Resources()
    assert (Resources().device, Resources().queue, Resources().cpu_fallback) == ("any", "default", False)


def test_sizes_have_units() -> None:
    needed = manifest("resources: {memory: 6GiB, host_memory: 1.5 GB, cpu_fallback: true, device: cuda}").resources
    assert (needed.memory_bytes, needed.host_memory_bytes) == (6 * GIB, 1_500_000_000)
    assert (needed.cpu_fallback, needed.device) == (True, "cuda")
    assert manifest("resources: {memory: 4096}").resources.memory_bytes == 4096


def test_queue_and_time_limit_may_stand_at_the_top() -> None:
    assert manifest("resources: {queue: gpu, time_limit_s: 60}") == manifest("queue: gpu\ntime_limit_s: 60")
    assert manifest("queue: gpu\nresources: {device: cuda}").resources == Resources(queue="gpu", device="cuda")


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (
            "title: T\nresources:\n  memory: 6 gibi",
            "line 3, resources.memory: a size such as 6GiB, 500 MB or a number of bytes was expected; '6 gibi' came",
        ),
        ("resources:\n  host_memory: 0", "line 2, resources.host_memory: a size such as 6GiB"),
        ("resources:\n  memory: true", "line 2, resources.memory: a size such as 6GiB"),
        ("resources:\n  device: gpu", "line 2, resources.device: 'any', 'cpu' or 'cuda' was expected; 'gpu' came"),
        ("resources:\n  memroy: 6GiB", "line 2, resources.memroy: this key is unknown, did you mean 'memory'?"),
        ("title: T\nqueue: a b", "line 2, queue: 1 to 50 letters, digits, dots, dashes or underscores were expected"),
        ("title: T\nresources: {device: cpu}\ntime_limit_s: -1", "line 3, time_limit_s: Input should be greater"),
        ("queue: a\nresources: {queue: a}", "`queue` stands both at the top and in `resources`; once was expected"),
        ("queue: a\nresources: many", "line 2, resources: "),
    ],
)
def test_a_fault_is_told_with_its_line(written: str, sentence: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        manifest(written)
    assert sentence in caught.value.message


@pytest.mark.parametrize(
    ("machine", "needed", "lacks"),
    [
        (CPU, {}, None),
        (CPU, {"device": "cpu", "memory": 32 * GIB}, None),
        (CPU, {"device": "cuda"}, "it computes on cuda and this worker on cpu (x86_64)"),
        (CPU, {"device": "cuda", "cpu_fallback": True}, "it computes on cuda and this worker on cpu (x86_64)"),
        (GPU, {"device": "cpu"}, "it computes on cpu and this worker on cuda:0 (a card)"),
        (GPU, {"memory": 8 * GIB, "host_memory": 32 * GIB}, None),
        (GPU, {"memory": 9 * GIB}, "it needs 9 GiB of device memory and cuda:0 (a card) has 8 GiB"),
        (GPU, {"memory": 9 * GIB, "cpu_fallback": True}, None),
        (GPU, {"memory": 33 * GIB, "cpu_fallback": True}, "it needs 33 GiB of main memory and this machine has 32 GiB"),
        (CPU, {"host_memory": 33 * GIB}, "it needs 33 GiB of main memory and this machine has 32 GiB"),
    ],
)
def test_a_machine_says_what_a_model_would_miss(machine: Machine, needed: dict[str, Any], lacks: str | None) -> None:
    assert machine.lacks(Resources.model_validate(needed)) == lacks


def test_sizes_are_shown_as_people_write_them() -> None:
    assert [shown(size) for size in (6 * GIB, 3 * GIB // 2, 512 * 1024**2, 2048, 10)] == [
        "6 GiB", "1.5 GiB", "512 MiB", "2 KiB", "10 B",
    ]  # fmt: skip
