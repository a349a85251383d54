"""`python -m chaos`: see the package."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from chaos.arena import Arena
from chaos.cases import make_cases
from chaos.phases import Run, beside_poison, under_faults, undisturbed, without_supervisor
from chaos.plan import make_plan
from chaos.records import Records
from chaos.repository import write_models
from chaos.shortages import DISK_BYTES, LOW_BYTES
from chaos.site import Site, left_behind
from chaos.verdict import Findings
from inference_server.settings import Settings

SECONDS = (0.2, 0.6)
SHORT_SECONDS = (0.1, 0.3)
OUTAGE_S = (2.0, 8.0)
SHORT_OUTAGE_S = (0.5, 2.0)
LONG_OUTAGE_S = 60.0
WORKERS_LOST = 3
EATEN_LIMIT_BYTES = 1 << 30
IN_NAMESPACE = "--in-namespace"
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")


def main() -> int:
    """Run everything, print the figures and return 0 if every promise was kept."""
    options = _options(sys.argv[1:])
    if not options.in_namespace and _may_mount():
        os.execvp(UNSHARE[0], [*UNSHARE, sys.executable, "-m", "chaos", *sys.argv[1:], IN_NAMESPACE])
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        findings = _run(options, Path(name))
    findings.run_s = time.monotonic() - began
    _print(findings)
    if options.json:
        options.json.write_text(findings.as_json())
    return 0 if all(promise.kept for promise in findings.promises()) else 1


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description="Faults under load; exit status 1 if a promise broke.")
    parser.add_argument("--seed", type=int, default=1, help="of inputs, faults and moments")
    parser.add_argument("--tasks", type=int, default=300, help="how many are sent under faults")
    parser.add_argument("--faults", type=int, default=40, help="how many strike under `up`")
    parser.add_argument("--short", action="store_true", help="short outages and leases, `up` alone, times not judged")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--log", type=Path, help="file for the server's messages, for looking closer")
    parser.add_argument(IN_NAMESPACE, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, folder: Path) -> Findings:
    settings = _settings(options)
    generator = random.Random(options.seed)
    findings = Findings(options.tasks, options.faults, settings.max_attempts, options.short)
    seconds = SHORT_SECONDS if options.short else SECONDS
    sents = make_cases(folder / "cases", options.tasks, options.seed, seconds=seconds)
    run = Run(sents, findings, generator, _say)
    models = write_models(folder / "models")
    for place in ("up", "alone"):
        (folder / place).mkdir()
    with _disk(folder / "up" / "data", options.in_namespace):
        site = Site(folder / "up", models, settings.environment())
        try:
            _under_up(run, site, options)
        finally:
            _keep_log(folder / "up" / "server.log", options.log)
    if not options.short:
        places = {"data_dir": folder / "alone" / "data", "models_dirs": str(models), "port": 0}
        without_supervisor(run, settings.model_copy(update=places), times=WORKERS_LOST, outage_s=LONG_OUTAGE_S)
    findings.left_behind = len(left_behind(folder))
    return findings


def _under_up(run: Run, site: Site, options: argparse.Namespace) -> None:
    try:
        site.start()
        records = Records(site.records_url)
        before = undisturbed(run, site, records)
        _say(f"undisturbed: {len(before)} tasks finished")
        if not options.short:
            beside_poison(run, site, records, options.tasks * 2 // 3, before)
        load = run.load(site.url, "chaos", run.sents, held=True)
        outage_s = SHORT_OUTAGE_S if options.short else OUTAGE_S
        arena = Arena(site, records, load, run.generator, run.poison, outage_s, options.in_namespace)
        plan = make_plan(options.faults, options.tasks, run.generator, small_disk=options.in_namespace)
        under_faults(run, arena, plan)
        records.close()
    finally:
        site.stop()


def _settings(options: argparse.Namespace) -> Settings:
    """Return the settings of the run: the defaults, but for what the machine and a short run need."""
    given = {"zoo": False, "disk_low_bytes": LOW_BYTES, "device": "cpu", "child_memory_bytes": EATEN_LIMIT_BYTES}
    short = {"lease_s": 4.0, "beat_s": 1.0, "housekeeping_s": 1.0, "api_processes": 1} if options.short else {}
    return Settings(**given, **short)  # type: ignore[arg-type]


def _may_mount() -> bool:
    """Whether this user may have mounts of their own, so that a disk can be filled."""
    if shutil.which(UNSHARE[0]) is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


@contextmanager
def _disk(folder: Path, in_namespace: bool) -> Iterator[None]:
    """Give a folder on a small disk of its own, seen by this process and its children alone, where that is possible."""
    folder.mkdir()
    if not in_namespace:
        _say("no small disk here: faults that fill it are left out")
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _keep_log(log: Path, target: Path | None) -> None:
    if target and log.exists():
        shutil.copyfile(log, target)


def _print(findings: Findings) -> None:
    for name, value in findings.summary().items():
        if name != "faults":
            sys.stdout.write(f"{name}: {value}\n")
    for promise in findings.promises():
        sys.stdout.write(f"{'kept  ' if promise.kept else 'BROKEN'} {promise.text}: {promise.found}\n")


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def _interrupt(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
