"""The suite in short: few inputs, the same ones every time, and everything that ever found a fault."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz.broken import FAULTS
from fuzz.conftest import TRIED

Recorder = Callable[[str, object], None]
TESTS = Path(__file__).resolve().parents[1]
EXAMPLES, REQUESTS, STRAYS = 100, 4, 200
READERS = {
    "header",
    "nifti",
    "meta",
    "case",
    "flat case",
    "picture",
    "result",
    "upload",
    "mha",
    "tomaat form",
    "tomaat json",
    "workspace",
    "ticket",
    "ticket form",
}
OPERATIONS = 14
ROW = re.compile(r"^(\w[\w ]*?)  +hypothesis +([\d,]+) +([\d,]+) .* (\d+)$", re.MULTILINE)
"""A target, how many inputs it was fed, how many of them were read, how many faults they found."""


def fed(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the suite. With a leash: if this test is ended, the suite ends too."""
    leash = [sys.executable, "-m", "inference_server.stack.leash", str(os.getpid())]
    return subprocess.run(
        [*leash, sys.executable, "-m", "fuzz", *options],
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_reader_of_bytes_has_a_fault(record_property: Recorder) -> None:
    done = fed("--only", *sorted(READERS), "--examples", str(EXAMPLES), "--seconds", "60")
    rows = {target: tuple(map(int, counts)) for target, *counts in ROW.findall(done.stdout)}
    record_property(TRIED, f"{sum(inputs for inputs, *_ in rows.values())} to {len(rows)} readers")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(rows) == READERS
    assert all(inputs > EXAMPLES and 0 < read < inputs and not faults for inputs, read, faults in rows.values())


def test_no_operation_of_the_api_has_a_fault(record_property: Recorder) -> None:
    done = fed("--only", "openapi", "--examples", str(REQUESTS), "--seconds", "120")
    record_property(
        TRIED, f"{counted(done, REQUESTS * OPERATIONS)} requests to {OPERATIONS} operations of the document"
    )


def test_no_route_has_a_fault(record_property: Recorder) -> None:
    done = fed("--only", "routes", "--examples", str(STRAYS), "--seconds", "120")
    record_property(TRIED, f"{counted(done, STRAYS)} requests to routes of all doors and beside them")


def counted(done: subprocess.CompletedProcess[str], at_least: int) -> int:
    """Return how many inputs the one target of a run was fed, none of which found a fault."""
    assert done.returncode == 0, done.stdout + done.stderr
    ((_, inputs, read, faults),) = ROW.findall(done.stdout)
    assert int(inputs) >= at_least
    assert 0 < int(read) < int(inputs)
    assert faults == "0"
    return int(inputs)


def test_each_kind_of_fault_is_found_and_its_input_kept(tmp_path: Path) -> None:
    done = fed("--targets", "fuzz.broken", "--examples", "1", "--corpus", str(tmp_path))
    assert done.returncode == 1
    found = dict(re.findall(r"^(\w+): (.*)$", done.stdout, re.MULTILINE))
    assert set(found) == set(FAULTS), done.stdout
    for name, (_, said) in FAULTS.items():
        assert found[name].startswith(said)
        (kept,) = (tmp_path / name).iterdir()
        assert kept.read_bytes() != b"seed"


@pytest.mark.parametrize("name", ["divides", "dies"])
def test_what_once_found_a_fault_is_fed_again(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "kept.bin").write_bytes(b"not the seed")
    # No input but the seed and this one is fed within no time at all.
    done = fed("--targets", "fuzz.broken", "--only", name, "--seconds", "0", "--corpus", str(tmp_path))
    assert done.returncode == 1, done.stdout
    assert FAULTS[name][1] in done.stdout
