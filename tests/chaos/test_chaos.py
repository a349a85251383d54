"""The suite in short: a dozen faults of different kinds. `make chaos` is the long one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
TASKS, FAULTS = 24, 12


@pytest.mark.timeout(900)
def test_a_dozen_faults_lose_nothing_and_change_no_result(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    options = ["--short", "--seed", "1", "--tasks", str(TASKS), "--faults", str(FAULTS), "--json", str(figures)]
    # With a leash: if this test is ended, the suite ends too, and stops its server.
    leash = [sys.executable, "-m", "inference_server.stack.leash", str(os.getpid())]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [*leash, sys.executable, "-m", "chaos", *options],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    found = json.loads(figures.read_text())
    assert (found["lost"], found["wrong"]) == ([], [])
    assert len({fault["kind"] for fault in found["faults"]}) == FAULTS
    assert found["accepted"] > 2 * TASKS
