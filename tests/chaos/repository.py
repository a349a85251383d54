"""The models served: two that behave, and one for each way not to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from apps import write_app

STEADY = ("steady-one", "steady-two")
HANG_LIMIT_S = 2.0
EATEN_BYTES = 3 << 29
"""A model that eats memory ends at this by itself, as the kernel would end it, so that no machine is brought down."""
SLEEPER_S = "86399.5"
"""Argument of the processes that a model forks; nothing else sleeps as long."""

_LABELS = {1: {"name": "BRIGHT"}}
_PARAMETERS = [{"name": name, "type": "number", "default": 0} for name in ("seconds", "level")]
_STEADY = """
    import time
    import numpy as np

    def app(case, context):
        time.sleep(case.parameters["seconds"])
        return (case.reference.array > case.parameters["level"]).astype(np.uint8)
"""
POISONS: Mapping[str, str] = {
    "segfaults": """
        import ctypes

        def app(case, context):
            ctypes.string_at(0)
    """,
    "hangs": """
        import time

        def app(case, context):
            time.sleep(86400)
    """,
    "hangs-in-c": """
        import ctypes

        def app(case, context):
            ctypes.PyDLL(None).sleep(86400)
    """,
    "eats-memory": f"""
        import os, signal

        def app(case, context):
            eaten = []
            while len(eaten) < {EATEN_BYTES} // (1 << 24):
                eaten.append(b"x" * (1 << 24))
            os.kill(os.getpid(), signal.SIGKILL)
    """,
    "forks": f"""
        import os, subprocess, time

        def app(case, context):
            for _ in range(3):
                subprocess.Popen(["sleep", "{SLEEPER_S}"])
            if os.fork() == 0:
                os.execvp("sleep", ["sleep", "{SLEEPER_S}"])
            os.abort()
    """,
}
"""By model id. Those that do not hang kill the process that runs them."""


def write_models(folder: Path) -> Path:
    """Write all models and return their folder."""
    for model in STEADY:
        write_app(folder / model, _STEADY, id=model, labels=_LABELS, parameters=_PARAMETERS)
    for model, code in POISONS.items():
        limit = {"resources": {"time_limit_s": HANG_LIMIT_S}} if model == "hangs" else {}
        write_app(folder / model, code, id=model, labels=_LABELS, parameters=_PARAMETERS, **limit)
    return folder
