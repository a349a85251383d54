"""A worker whose models do as they are told, also the wrong things: `python stand_in.py` with the usual settings."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inference_server.errors import Cancelled, OutOfMemory, SettingsError, UnknownModel
from inference_server.imaging.volume import Volume
from inference_server.logs import configure_logging
from inference_server.models.case import Case, Report, Result, Segmentation
from inference_server.models.hooks import Hooks
from inference_server.models.manifest import LabelName, parse_manifest
from inference_server.models.registry import Model
from inference_server.models.warmth import Warmth
from inference_server.settings import Settings, load_settings
from inference_server.tasks.worker import run_worker

BEHAVIOURS = (
    "threshold", "wait", "ignore", "hold_gil", "die", "fail", "exhaust", "spawn", "fork",
    "gorge", "gorge_elsewhere", "litter", "terminate",
)  # fmt: skip
MANIFEST = parse_manifest(
    {
        "id": "stand-in",
        "labels": {1: {"name": "BRIGHT"}},
        "parameters": [{"name": "do", "type": "choice", "choices": BEHAVIOURS, "default": "threshold"}],
    }
)
MODEL = Model(MANIFEST, Path(), "digest")
FOREVER_S = 600.0
GORGE = "import time; food = [(bytearray(8 * 2**20), time.sleep(0.02)) for _ in range(400)]"
"""Takes 3 GiB in 8 s or so."""


@dataclass(frozen=True)
class Repository:
    """One model."""

    def get(self, id: str, version: str | None = None, digest: str = "") -> Model:  # noqa: A002
        if id != MODEL.id:
            raise UnknownModel
        return MODEL

    def models(self) -> tuple[Model, ...]:
        return (MODEL,)


class StandIn:
    """Looks like an engine; what it does is the task's parameter `do`."""

    registry = Repository()
    device_id = "stand-in"

    def __init__(self, settings: Settings) -> None:
        if settings.device == "missing":
            raise SettingsError("There is no device 'missing'.")
        self._folder = settings.data_dir
        self._runs = 0

    def warmth(self) -> Warmth:
        return Warmth(("stand-in:1.0.0",), hits={"stand-in": self._runs}, loads={"stand-in": 1})

    def load(self, model: Model, hooks: Hooks) -> None:
        pass

    def run(self, model: Model, case: Case, hooks: Hooks) -> Result:
        self._runs += 1
        hooks.phase("predicting")
        with hooks.hold():
            getattr(self, str(case.parameters["do"]))(hooks)
        hooks.phase("restoring")
        volume = case.reference
        labels = Volume((volume.array > 0).astype(np.uint8), volume.geometry, volume.nifti_header)
        report = Report(model.id, model.version, model.digest, "stand-in", timings_s={"predicting": 0.0})
        return Result((Segmentation("labels", labels, {1: LabelName(name="BRIGHT")}),), report=report)

    def threshold(self, hooks: Hooks) -> None:
        hooks.progress(1.0)

    def wait(self, hooks: Hooks) -> None:
        while not (self._folder / "go").exists():
            if hooks.cancelled():
                raise Cancelled
            time.sleep(0.005)

    def ignore(self, hooks: Hooks) -> None:
        time.sleep(FOREVER_S)

    def hold_gil(self, hooks: Hooks) -> None:
        ctypes.PyDLL(None).sleep(int(FOREVER_S))

    def die(self, hooks: Hooks) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fail(self, hooks: Hooks) -> None:
        patient = "DOE^JANE"
        raise ValueError(f"cannot handle {patient}")

    def exhaust(self, hooks: Hooks) -> None:
        raise OutOfMemory

    def spawn(self, hooks: Hooks) -> None:
        started = subprocess.Popen(["sleep", str(FOREVER_S)])
        (self._folder / "grandchild").write_text(str(started.pid))
        time.sleep(FOREVER_S)

    def fork(self, hooks: Hooks) -> None:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(abs, (-3,)) == 3

    def terminate(self, hooks: Hooks) -> None:
        started = subprocess.Popen(["sleep", str(FOREVER_S)])
        started.terminate()
        assert started.wait(10) == -signal.SIGTERM

    def gorge(self, hooks: Hooks) -> None:
        food = []
        for _ in range(400):
            food.append(bytearray(8 * 2**20))
            time.sleep(0.02)

    def gorge_elsewhere(self, hooks: Hooks) -> None:
        subprocess.run([sys.executable, "-c", GORGE], check=False)

    def litter(self, hooks: Hooks) -> None:
        litter = Path(tempfile.mkdtemp()) / "of a patient"
        litter.write_text("DOE^JANE")
        (self._folder / "litter").write_text(str(litter))
        subprocess.run(["mktemp"], check=True, stdout=subprocess.PIPE)
        self.die(hooks)


def announce(name: str) -> None:
    sys.stdout.write(f"ready {name}\n")
    sys.stdout.flush()


def main() -> None:
    settings = load_settings()
    configure_logging(settings)
    run_worker(settings, ready=announce, open_engine=StandIn)


if __name__ == "__main__":
    main()
