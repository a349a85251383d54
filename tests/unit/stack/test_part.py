from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from inference_server.stack.part import FIRST_PAUSE_S, LONGEST_PAUSE_S, Part, PartSpec


def spec(code: str) -> PartSpec:
    return PartSpec("part", (sys.executable, "-c", code), {})


def test_the_ready_line_says_what_the_part_announces() -> None:
    part = Part(spec("print('ready http://127.0.0.1:1', flush=True); input_ = __import__('time').sleep(60)"))
    part.start()
    assert part.ready.wait(20)
    assert part.announced == "http://127.0.0.1:1"
    part.kill()
    assert part.died() is not None


WAITER = """
import os, sys, time
if sys.stdin.readline():
    print("ready", os.getpid(), flush=True)
    time.sleep(60)
"""


def waiter() -> Part:
    return Part(PartSpec("part", (sys.executable, "-c", WAITER), {}, waits=True))


def test_a_spare_process_begins_only_when_the_part_is_started_again() -> None:
    part = waiter()
    part.keep_spare()  # not up yet: nothing
    part.start()
    assert part.ready.wait(20)
    first = part.announced
    part.keep_spare()
    assert part._spare is not None
    spare = part._spare.pid
    part.keep_spare()
    assert part._spare.pid == spare
    part.kill()
    part.plan_restart()
    part.start()
    assert part.ready.wait(20)
    assert part.announced == str(spare) != first
    part.kill()


def test_a_spare_that_has_died_is_not_replaced_and_its_turn_is_a_death_of_the_part() -> None:
    part = waiter()
    part.start()
    assert part.ready.wait(20)
    part.keep_spare()
    assert part._spare is not None
    part._spare.kill()
    part._spare.wait()
    part.keep_spare()
    part.kill()
    part.plan_restart()
    part.start()
    assert part.wait(20)
    assert part.died()
    part.plan_restart()
    part.start()
    assert part.ready.wait(20)
    part.kill()


def test_a_spare_is_dropped_and_leaves_nothing() -> None:
    part = waiter()
    part.start()
    assert part.ready.wait(20)
    part.drop_spare()  # there is none
    part.keep_spare()
    assert part._spare is not None
    spare = psutil.Process(part._spare.pid)
    part.drop_spare()
    assert not spare.is_running()
    part.kill()


def test_pauses_before_restarts_grow_up_to_a_bound() -> None:
    part = Part(spec("pass"))
    pauses = [part.plan_restart() for _ in range(12)]
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S


def test_a_part_that_was_well_is_started_again_almost_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part(spec("print('ready', flush=True); __import__('time').sleep(60)"))
    for _ in range(3):
        part.plan_restart()
    part.start()
    assert part.ready.wait(20)
    monkeypatch.setattr("inference_server.stack.part.STEADY_S", 0.0)
    part.kill()
    assert part.plan_restart() == FIRST_PAUSE_S


def test_what_a_dead_part_has_started_ends_before_its_next_start() -> None:
    part = Part(spec("import subprocess as s; print('ready', s.Popen(['sleep', '60']).pid, flush=True)"))
    part.start()
    assert part.ready.wait(20)
    assert part.wait(20)
    left = psutil.Process(int(part.announced))
    part.plan_restart()
    psutil.wait_procs([left], timeout=20)
    assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE


PARENT = """
import sys, time
from inference_server.stack.part import Part, PartSpec
child = Part(PartSpec("child", (sys.executable, "-c", "print('ready', flush=True); import time; time.sleep(60)"), {}))
child.start()
child.ready.wait(20)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_part_dies_with_the_process_that_started_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running()


TALKER = """
import sys
from inference_server.stack.part import Part, PartSpec
child = Part(PartSpec("child", (sys.executable, "-c", "print('a message')"), {}, ready_line=False))
child.start()
child.wait(20)
print("ready", flush=True)
"""


def test_what_a_part_says_goes_to_standard_error() -> None:
    done = subprocess.run([sys.executable, "-c", TALKER], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "ready\n"
    assert "a message" in done.stderr


def test_a_part_is_started_again_with_what_was_added_to_its_environment() -> None:
    part = Part(spec("import os; print('ready', os.environ['PORT_FOUND'], flush=True)"))
    part.set_environment(PORT_FOUND="4711")
    part.start()
    assert part.ready.wait(20)
    assert part.announced == "4711"
    part.kill()
