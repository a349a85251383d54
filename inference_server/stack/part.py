"""One process of the stack: started, watched for its `ready` line, restarted with back-off, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from inference_server.settings import Settings

STANDARD_ERROR = 2
"""Messages go there; standard output is for results."""
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
STEADY_S = 10.0
"""A part that was up and ran this long is taken to have been well; its next restart is immediate again."""


@dataclass(frozen=True)
class PartSpec:
    """What to start.

    Attributes:
        name: of the part.
        command: program and arguments.
        environment: variables beside those of this process.
        ready_line: whether the part prints a line that begins with `ready` when it is up.
        waits: whether it waits for a line on its standard input before it does anything that others see.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ready_line: bool = True
    waits: bool = False


class Part:
    """A process of the stack. Not thread-safe; the supervisor's thread alone uses it."""

    def __init__(self, spec: PartSpec) -> None:
        self.spec = spec
        self.ready = threading.Event()
        self.announced = ""
        """What followed `ready` on the part's line (the API's URL)."""
        self._process: subprocess.Popen[str] | None = None
        self._spare: subprocess.Popen[str] | None = None
        self._may_spare = False
        self._pause_s = 0.0
        self._started = time.monotonic()
        self._not_before = 0.0

    @property
    def pid(self) -> int | None:
        """Process id while it runs or has just died, None before the first start."""
        return self._process.pid if self._process else None

    def set_environment(self, **variables: str) -> None:
        """Add environment variables for the next start."""
        self.spec = replace(self.spec, environment={**self.spec.environment, **variables})

    def start(self) -> None:
        """Start the process, or let the spare one begin."""
        self.ready.clear()
        self._started = time.monotonic()
        self._may_spare = True
        self._process, self._spare = self._spare or self._spawn(), None
        if self._process.stdin:
            with suppress(BrokenPipeError), self._process.stdin as begin:  # a spare that has died is a part that died
                begin.write("begin\n")
        if self.spec.ready_line:
            threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        else:
            self.ready.set()

    def keep_spare(self) -> None:
        """Have a spare process load what it needs once the part is up, so that its next start takes no time for that.

        One for each start: a spare that dies is not replaced.
        """
        if self.spec.waits and self._may_spare and self.ready.is_set():
            self._may_spare = False
            self._spare = self._spawn()

    def drop_spare(self) -> None:
        """End the spare process, if there is one."""
        if self._spare and self._spare.stdin and self._spare.stdout:
            self._spare.kill()
            self._spare.wait()
            self._spare.stdin.close()
            self._spare.stdout.close()
            self._spare = None

    def died(self) -> int | None:
        """Return the exit status if the process has ended, else None."""
        return self._process.poll() if self._process else None

    def plan_restart(self) -> float:
        """Note that the process died; return the pause in seconds before its next start.

        What is left of its process group ends: it may hold what the next one needs, such as a port.
        """
        self._kill_group()
        steady = self.ready.is_set() and time.monotonic() - self._started > STEADY_S
        self._pause_s = FIRST_PAUSE_S if steady or not self._pause_s else min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._not_before = time.monotonic() + self._pause_s
        self._process = None
        return self._pause_s

    def restart_if_due(self) -> bool:
        """Start the process again if it is down and its pause is over."""
        if self._process is not None or time.monotonic() < self._not_before:
            return False
        self.start()
        return True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; return whether it came in time."""
        if self._process is None:
            return True
        try:
            self._process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End the process and everything in its group."""
        if self._process:
            self._kill_group()
            self._process.wait()

    def _spawn(self) -> subprocess.Popen[str]:
        """Start a process in a group of its own: a Ctrl-C reaches the supervisor alone, which stops in order."""
        return subprocess.Popen(
            (*_leash(), *self.spec.command),
            env={**os.environ, **self.spec.environment},
            stdin=subprocess.PIPE if self.spec.waits else subprocess.DEVNULL,
            stdout=subprocess.PIPE if self.spec.ready_line else STANDARD_ERROR,
            text=True,
            start_new_session=True,
        )

    def _kill_group(self) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        with process.stdout as lines:
            for line in lines:
                if line.startswith("ready"):
                    self.announced = line.removeprefix("ready").strip()
                    self.ready.set()


def own_part(
    name: str, settings: Settings, environment: Mapping[str, str] | None = None, *, waits: bool = False
) -> Part:
    """Return a part that runs one of our own commands.

    Args:
        name: of the command.
        settings: that it gets, as environment variables.
        environment: variables beside those.
        waits: whether it is told to wait for a line first; see `PartSpec`.
    """
    command = (sys.executable, "-m", "inference_server", name, *(["--wait"] if waits else []))
    return Part(PartSpec(name, command, {**settings.environment(), **(environment or {})}, waits=waits))


def _leash() -> tuple[str, ...]:
    return (sys.executable, "-m", "inference_server.stack.leash", str(os.getpid()))
