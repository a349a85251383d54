"""`make bench`: measure everything, or what is named, and print it as a table."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

NAMES = (
    "latency",
    "upload",
    "responsiveness",
    "throughput",
    "queue",
    "backlog",
    "workers",
    "records",
    "restore",
    "pipeline",
    "whole_body",
    "image_socket",
    "several_hosts",
)


def main() -> None:
    """Run the benchmarks named on the command line, else all of them; exits with status 1 if a target was missed."""
    # In place of this folder, whose modules must not be taken for those of the standard library.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    missed = 0
    for name in sys.argv[1:] or NAMES:
        print(f"\n## {name}\n\n| what | measured | target | met |\n|---|---|---|---|", flush=True)
        for figure in importlib.import_module(f"benchmarks.{name}").measure():
            met = {True: "yes", False: "NO", None: ""}[figure.met]
            missed += figure.met is False
            print(f"| {figure.name} | {figure.value:.3g} {figure.unit} | {figure.target} | {met} |", flush=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
