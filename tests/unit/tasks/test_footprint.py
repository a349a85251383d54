from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from inference_server.models import memory
from inference_server.settings import MIB, Settings
from inference_server.tasks import footprint

EATER = "import sys; food = bytearray({}); print(flush=True); sys.stdin.read()"
FORKED_EATER = (
    "import os, sys; food = bytearray({}); [os.fork() for _ in range(2)]; print(flush=True); sys.stdin.read()"
)


def _all_bytes() -> int:
    """Return what this process and those that other tests left running take, each shared page once."""
    own, taken = psutil.Process(), 0
    for process in [own, *own.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # what others left running may end meanwhile
            taken += process.memory_full_info().pss
    return taken


@pytest.fixture
def eater(request: pytest.FixtureRequest) -> Iterator[int]:
    """A process of ours that takes 256 MiB; what all took before it came."""
    before = _all_bytes()
    code = request.param.format(256 * MIB)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    process.stdout.readline()
    yield before
    process.communicate()


def test_a_process_is_held_against_its_budget() -> None:
    assert footprint.exceeds(MIB)
    assert not footprint.exceeds(2 * _all_bytes())


@pytest.mark.parametrize("eater", [EATER], indirect=True)
def test_what_it_started_counts_too(eater: int) -> None:
    assert footprint.exceeds(eater + 128 * MIB)
    assert not footprint.exceeds(eater + 384 * MIB)


@pytest.mark.parametrize("eater", [FORKED_EATER], indirect=True)
def test_what_forked_processes_share_counts_once(eater: int) -> None:
    assert footprint.exceeds(eater + 128 * MIB)
    assert not footprint.exceeds(eater + 384 * MIB)


def test_the_budget_is_the_one_that_was_set_or_nine_tenths_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text(f"{100 * MIB}\n")
    monkeypatch.setattr(memory, "CONTAINER_LIMITS", (tmp_path / "memory.max", tmp_path / "none"))
    assert footprint.budget_bytes(Settings(child_memory_bytes=7)) == 7
    assert footprint.budget_bytes(Settings()) == 90 * MIB
