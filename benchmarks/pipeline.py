"""One warm case from file to file: MONAI's transforms one after the other, against the engine in each mode.

Every way has a process of its own; they run in turns. The engine's have the environment of a worker.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Figure, at_least, at_most
from inference_server.tasks.allocator import VARIABLE, allocator_environment

THREADS = int(os.environ.get("INFERENCE_SERVER_CPU_THREADS") or len(os.sched_getaffinity(0)))
LARGE = ("plain", "float32/eager", "bfloat16/eager", "bfloat16/traced", "bfloat16/openvino")
SMALL = ("plain", "float32/eager", "float32/openvino", "bfloat16/eager", "bfloat16/openvino")
LARGE_ROUNDS, SMALL_ROUNDS = 3, 40
WARM_UP = 3


@dataclass(frozen=True, order=True)
class Times:
    """Seconds of a case, and of these in the network, by the clock and of the processor in all threads."""

    whole: float
    network: float
    processor: float
    network_processor: float

    @property
    def outside(self) -> float:
        """Seconds outside the network."""
        return self.whole - self.network

    @property
    def outside_processor(self) -> float:
        """The processor's seconds outside the network."""
        return self.processor - self.network_processor


def measure() -> list[Figure]:
    """Return both cases."""
    return [*_large(), *_small()]


def _large() -> list[Figure]:
    best = _best("large", LARGE, LARGE_ROUNDS)
    plain, name = best.pop("plain"), "96×256×256, 18 windows of SegResNet"
    figures = [
        Figure(f"{name}: plain MONAI pipeline", plain.whole, "s"),
        Figure(f"{name}: of which outside the network", plain.outside, "s"),
    ]
    for way, own in best.items():
        figures.append(Figure(f"engine, {way}", own.whole, "s"))
        figures.append(Figure(f"plain / engine, {way}", plain.whole / own.whole, "×"))
        figures.append(Figure(f"plain / engine, {way}, by processor time", plain.processor / own.processor, "×"))
        figures.append(at_most(f"engine, {way}: outside the network", own.outside, 0.5, "s"))
        figures.append(Figure(f"engine, {way}: outside the network, processor time", own.outside_processor, "s"))
    return [*figures, at_least("plain / engine, fastest", plain.whole / min(best.values()).whole, 5, "×")]


def _small() -> list[Figure]:
    best, name = _best("small", SMALL, SMALL_ROUNDS), "36×50×36, whole, UNet"
    figures = [Figure(f"{name}: plain MONAI pipeline", best.pop("plain").whole * 1000, "ms")]
    figures += [Figure(f"{name}: engine, {way}", own.whole * 1000, "ms") for way, own in best.items()]
    return [*figures, at_most(f"{name}: engine, fastest", min(best.values()).whole * 1000, 12, "ms")]


def _best(case: str, ways: Sequence[str], rounds: int) -> dict[str, Times]:
    """Return the fastest of several runs of each way."""
    with ExitStack() as stack:
        runners = {way: stack.enter_context(_runner(case, way)) for way in ways}
        for runner in runners.values():
            for _ in range(WARM_UP if rounds > WARM_UP else 1):
                _run(runner)
        found = [{way: _run(runner) for way, runner in runners.items()} for _ in range(rounds)]
    return {way: min(times[way] for times in found) for way in ways}


def _run(runner: subprocess.Popen[str]) -> Times:
    assert runner.stdin
    assert runner.stdout
    print("again", file=runner.stdin, flush=True)
    return Times(*map(float, runner.stdout.readline().split()))


@contextmanager
def _runner(case: str, way: str) -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if way != "plain":
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", **allocator_environment(environment)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.pipeline_cases", case, way, folder, str(THREADS)]
        with subprocess.Popen(
            command,
            env=environment,
            cwd=Path(__file__).resolve().parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            yield process
