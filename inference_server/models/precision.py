"""By which backend and in which number format a network computes: the fastest that gives the same labels."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import torch

from inference_server.models.backends import Mode, is_installed, meant, modes
from inference_server.models.device import describe_device
from inference_server.models.example import read_example
from inference_server.models.manifest import Backend, Manifest, Precision
from inference_server.models.runtimes.base import Runtime
from inference_server.models.trials import SLOW_S, Agreement, Outcome, Trials, enter, warm_up

logger = logging.getLogger(__name__)

CUT_SHORT_LIMIT = 3
"""How many loads try modes again, one after the other, whose time was not enough to try them all."""


def settle(runtime: Runtime, device: torch.device, *, cache_dir: Path | None) -> Outcome:
    """Have a runtime, loaded and in the plain mode, compute as its manifest asks for.

    Where that leaves a choice, the modes that are possible on this device are tried on the model's example, and the
    outcome is remembered in `cache_dir` by the model's digest, the device and the versions of what computes. A model
    without an example computes plainly, in so far as its manifest does not say otherwise.

    Raises:
        ModelLoadError: the manifest asks for a backend that is not installed.
    """
    if not runtime.choosable:
        return Outcome(Mode(runtime.backend, runtime.precision))
    outcome = _chosen(runtime, device, cache_dir)
    enter(runtime, device, outcome.mode)
    if runtime.network and outcome.window and device.type == "cpu" and outcome.plain_s <= SLOW_S:
        warm_up(runtime.network, outcome.window)
    return outcome


def _chosen(runtime: Runtime, device: torch.device, cache_dir: Path | None) -> Outcome:
    manifest, possible = runtime.model.manifest, _possible(runtime, device)
    if len(possible) <= 1 or manifest.kind != "segmentation" or manifest.example is None:
        return Outcome(_declared(manifest, device))
    path = cache_dir / f"{_fingerprint(runtime, device, possible)}.json" if cache_dir else None
    before = (path and _remembered(path)) or None
    if before and not 0 < before.cut_short < CUT_SHORT_LIMIT:
        return before
    outcome = _find(runtime, device, possible)
    if path:
        tried_before = before.cut_short if before else 0
        outcome = replace(outcome, cut_short=outcome.cut_short and tried_before + 1)
        _remember(path, outcome)
    return outcome


def _possible(runtime: Runtime, device: torch.device) -> tuple[Mode, ...]:
    found = modes(device, runtime.model.manifest)
    return found if runtime.network else tuple(mode for mode in found if mode.backend is Backend.EAGER)


def _declared(manifest: Manifest, device: torch.device) -> Mode:
    """Return what a manifest asks for, and the plainest where it leaves a choice."""
    free = manifest.backend is Backend.AUTO or device.type != "cpu"
    precision = Precision.FLOAT32 if manifest.precision is Precision.AUTO else manifest.precision
    return Mode(Backend.EAGER if free else meant(manifest.backend), precision)


def _find(runtime: Runtime, device: torch.device, possible: Sequence[Mode]) -> Outcome:
    case = read_example(runtime.model)
    assert case is not None
    outcome = Trials(runtime, device, case).best(possible)
    logger.info(
        "mode chosen",
        extra={
            "model": runtime.model.id,
            "mode": str(outcome.mode),
            **asdict(outcome.agreement),
            "plain_s": outcome.plain_s,
            "chosen_s": outcome.chosen_s,
        },
    )
    return outcome if outcome.mode in possible else Outcome(_declared(runtime.model.manifest, device))


def _fingerprint(runtime: Runtime, device: torch.device, possible: Sequence[Mode]) -> str:
    openvino = version("openvino") if is_installed(Backend.OPENVINO) else ""
    names = ", ".join(map(str, possible))
    facts = (runtime.model.digest, describe_device(device), torch.get_num_threads(), torch.__version__, openvino, names)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _remembered(path: Path) -> Outcome | None:
    try:
        found = json.loads(path.read_text())
        mode = Mode(Backend(found["mode"]["backend"]), Precision(found["mode"]["precision"]))
        agreement = Agreement(**found["agreement"])
        seconds = found["plain_s"], found["chosen_s"]
        return Outcome(mode, agreement, *seconds, tuple(found["window"]), found["cut_short"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(path: Path, outcome: Outcome) -> None:
    """Write in one step: several processes may find out the same at a time. Without the note it is found out again."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(asdict(outcome)))
        partial.replace(path)
    except OSError as exc:
        logger.warning("mode not remembered", extra={"why": exc.strerror})
