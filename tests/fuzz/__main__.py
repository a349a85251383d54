"""`python -m fuzz`: see the package."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.corpus import CORPUS, Corpus

OF_THE_API = {"openapi": "fuzz.document", "routes": "fuzz.strays"}
"""The targets that are no readers of bytes, each a module."""
GRACE_S = 600.0
HEAD = ("target", "fed by", "inputs", "read", "outcomes", "slowest", "memory", "faults")
WIDTHS = (11, 10, 9, 9, 9, 9, 9, 7)


@dataclass
class Row:
    """What came of a target. `faults` maps each, in a line, to the file of an input, and a traceback if any."""

    target: str
    fed_by: str
    inputs: int = 0
    accepted: int = 0
    outcomes: int = 0
    slowest_s: float = 0.0
    memory_bytes: int = 0
    faults: dict[str, tuple[str, str]] = field(default_factory=dict)

    def shown(self) -> str:
        """Return a line of the table."""
        cells = (
            self.target,
            self.fed_by,
            f"{self.inputs:,}",
            f"{self.accepted:,}",
            str(self.outcomes),
            f"{self.slowest_s * 1000:.0f} ms",
            f"{max(self.memory_bytes, 0) / 1024**2:.0f} MiB",
            str(len(self.faults)),
        )
        return _line(cells)


def main() -> int:
    """Feed every target, print the table and return 0 if no fault was found."""
    options = _options(sys.argv[1:])
    rows = []
    _say(_line(HEAD))
    for target in options.only or _names(options.targets):
        rows.append(_run(target, options))
        _say(rows[-1].shown())
    _say(f"{sum(row.inputs for row in rows):,} inputs tried, {sum(len(row.faults) for row in rows)} faults found")
    for row in rows:
        for fault, (file, detail) in row.faults.items():
            _say(f"\n{row.target}: {fault}\n{options.corpus / row.target.replace(' ', '-') / file}\n{detail}")
    return 1 if any(row.faults for row in rows) else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description="Hostile input; exit status 1 if a fault was found.")
    parser.add_argument("--seed", type=int, default=1, help="what is chosen at random follows from it")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each target is fed")
    parser.add_argument("--examples", type=int, default=0, help="feed so many inputs instead, the same ones every time")
    parser.add_argument("--only", nargs="*", metavar="TARGET", help="these targets alone")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder of inputs that once found a fault")
    parser.add_argument("--targets", default="fuzz.targets", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _names(targets: str) -> list[str]:
    names = list(importlib.import_module(targets).TARGETS)
    return [*names, *OF_THE_API] if targets == "fuzz.targets" else names


def _run(target: str, options: argparse.Namespace) -> Row:
    blind = bool(options.examples) or target in OF_THE_API or importlib.util.find_spec("atheris") is None
    row = Row(target, "hypothesis" if blind else "atheris")
    with tempfile.TemporaryDirectory(prefix="fuzz-report-") as folder:
        report = Path(folder, "report.json")
        ended, said = _ended(_command(target, options, report, blind), options.seconds + GRACE_S)
        found: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {"over": False}
        _fill(row, found)
        if ended or not found["over"]:
            _note_death(row, Corpus(options.corpus, target), report.with_suffix(".input"), ended, said)
    return row


def _command(target: str, options: argparse.Namespace, report: Path, blind: bool) -> list[str]:
    module = OF_THE_API.get(target, "fuzz.feeding")
    chosen = {"--seconds": options.seconds, "--examples": options.examples, "--seed": options.seed}
    places = {"--corpus": options.corpus, "--report": report, "--targets": options.targets}
    flags = [f"{name}={value}" for name, value in {**chosen, **places}.items()]
    return [sys.executable, "-m", module, target, *flags, *(["--blind"] if blind else [])]


def _ended(command: Sequence[str], limit_s: float) -> tuple[int, str]:
    """Run a process; return its exit status, which is that of a kill where it took too long, and its last words."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return -9, f"It did not end within {limit_s:.0f} s."
    return done.returncode, done.stderr[-3000:]


def _fill(row: Row, found: dict[str, Any]) -> None:
    for name in ("inputs", "accepted", "slowest_s", "memory_bytes"):
        setattr(row, name, found.get(name, 0))
    row.outcomes = len(found.get("outcomes", ()))
    row.faults = {fault: (kept["file"], kept["detail"]) for fault, kept in found.get("faults", {}).items()}


def _note_death(row: Row, corpus: Corpus, last: Path, ended: int, said: str) -> None:
    fault = f"ended its process ({ended})"
    kept = corpus.keep(last.read_bytes(), fault).name if last.exists() else "-"
    row.faults[fault] = (kept, said)


def _line(cells: Sequence[str]) -> str:
    words = [cell.ljust(width) for cell, width in zip(cells[:2], WIDTHS, strict=False)]
    numbers = [cell.rjust(width) for cell, width in zip(cells[2:], WIDTHS[2:], strict=True)]
    return "  ".join((*words, *numbers))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
