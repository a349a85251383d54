"""Loads a large and a small model by turns and prints what memory the process has: `python warm_child.py FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil

from inference_server.models.engine import Engine
from inference_server.models.registry import Registry

ROUNDS = 5


def main() -> None:
    engine = Engine(Registry([Path(sys.argv[1])]), budget_bytes=1)
    measured = {"small": [], "large": []}
    for _ in range(ROUNDS):
        for name, sizes in measured.items():
            engine.load(engine.registry.get(name))
            sizes.append(psutil.Process().memory_info().rss)
    sys.stdout.write(json.dumps(measured))


if __name__ == "__main__":
    main()
