"""The C library's settings for workers."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from inference_server.tasks.allocator import VARIABLE, allocator_environment

CODE = """
import resource, numpy
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        numpy.empty(64 * 2**20, numpy.uint8)[::4096] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def test_settings_that_are_there_already_win() -> None:
    assert allocator_environment({VARIABLE: "glibc.malloc.arena_max=1"}) == {}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is no glibc")
def test_memory_that_is_freed_and_taken_again_is_not_cleared_anew() -> None:
    def faults(environment: dict[str, str]) -> int:
        run = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
        return int(run.stdout)

    assert faults({VARIABLE: ""}) > 20
    assert faults(allocator_environment({})) < 20
