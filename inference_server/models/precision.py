"""Which number format a network computes in: the fastest one that gives the same labels, found out once per machine."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from inference_server.errors import PredictionError
from inference_server.models.case import Case, Result
from inference_server.models.device import describe_device
from inference_server.models.example import read_example
from inference_server.models.manifest import Precision
from inference_server.models.runtimes.base import Prediction, Runtime

logger = logging.getLogger(__name__)

AGREEMENT = 0.999
"""Least share of voxels whose label is that of float32."""
GAIN = 1.1
"""How many times faster than float32 a format has to be to be worth anything."""
TIMED_RUNS = 4
TIMED_S = 2.0


@dataclass(frozen=True)
class Verdict:
    """The precision chosen for a model on a device, and what was seen."""

    precision: Precision
    agreement: float = 1.0
    float32_s: float = 0.0
    chosen_s: float = 0.0


@dataclass(frozen=True, eq=False)
class _Trial:
    labels: tuple[np.ndarray, ...]
    seconds: float


def settle(runtime: Runtime, device: torch.device, *, cache_dir: Path | None) -> Verdict:
    """Have a loaded runtime compute in the precision that its manifest asks for.

    `auto` compares the formats that the device is fast in with float32 on the model's example, and remembers the
    outcome in `cache_dir` by the model's digest, the device and the version of torch. A model without an example
    computes in float32.
    """
    wanted = runtime.model.manifest.precision
    verdict = _automatic(runtime, device, cache_dir) if wanted is Precision.AUTO else Verdict(wanted)
    if verdict.precision is not Precision.FLOAT32:
        runtime.use(verdict.precision)
    return verdict


def candidates(device: torch.device) -> tuple[Precision, ...]:
    """Return the formats, apart from float32, for which a device has its own arithmetic."""
    if device.type == "cuda":
        return (Precision.FLOAT16, Precision.BFLOAT16)
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return (Precision.BFLOAT16,) if has_bfloat16 else ()


def _automatic(runtime: Runtime, device: torch.device, cache_dir: Path | None) -> Verdict:
    is_comparable = runtime.choosable and runtime.model.manifest.kind == "segmentation"
    formats = candidates(device) if is_comparable else ()
    if not formats or runtime.model.manifest.example is None:
        return Verdict(Precision.FLOAT32)
    path = cache_dir / f"{_fingerprint(runtime, device)}.json" if cache_dir else None
    verdict = path and _remembered(path)
    if verdict:
        return verdict
    verdict = _compare(runtime, device, formats)
    logger.info("precision chosen", extra={"model": runtime.model.id, **asdict(verdict)})
    if path:
        _remember(path, verdict)
    return verdict


def _compare(runtime: Runtime, device: torch.device, formats: Sequence[Precision]) -> Verdict:
    """Try each format; the runtime computes in float32 afterwards."""
    case = read_example(runtime.model)
    assert case is not None
    exact = _try(runtime, case)
    best = Verdict(Precision.FLOAT32, 1.0, exact.seconds, exact.seconds)
    for precision in formats:
        trial = _try_in(runtime, case, precision)
        runtime.load(device)
        agreement = _agreement(exact, trial) if trial else 0.0
        if trial and agreement >= AGREEMENT and trial.seconds * GAIN < best.chosen_s:
            best = Verdict(precision, agreement, exact.seconds, trial.seconds)
    return best


def _try_in(runtime: Runtime, case: Case, precision: Precision) -> _Trial | None:
    """Run a case in a precision; None where the network cannot be computed in it."""
    try:
        runtime.use(precision)
        return _try(runtime, case)
    except (PredictionError, RuntimeError) as exc:
        logger.info(
            "precision not possible", extra={"model": runtime.model.id, "precision": precision, "why": type(exc)}
        )
        return None


def _try(runtime: Runtime, case: Case) -> _Trial:
    """Run a case for its labels and its duration; a short one again, since the first run of anything is slow."""
    prediction, seconds = _predict(runtime, case)
    labels = _labels(runtime.restore(prediction))
    durations = [seconds]
    while len(durations) < TIMED_RUNS and sum(durations) < TIMED_S:
        durations.append(_predict(runtime, case)[1])
    return _Trial(labels, min(durations))


def _predict(runtime: Runtime, case: Case) -> tuple[Prediction, float]:
    prepared = runtime.prepare(case)
    started = time.perf_counter()
    prediction = runtime.predict(prepared, progress=lambda _: None, cancelled=lambda: False)
    return prediction, time.perf_counter() - started


def _labels(result: Result) -> tuple[np.ndarray, ...]:
    return tuple(segmentation.labels.array for segmentation in result.segmentations)


def _agreement(exact: _Trial, other: _Trial) -> float:
    return min(float(np.mean(a == b)) for a, b in zip(exact.labels, other.labels, strict=True))


def _fingerprint(runtime: Runtime, device: torch.device) -> str:
    facts = (runtime.model.digest, describe_device(device), torch.get_num_threads(), torch.__version__)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _remembered(path: Path) -> Verdict | None:
    try:
        content = json.loads(path.read_text())
        return Verdict(**{**content, "precision": Precision(content["precision"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(path: Path, verdict: Verdict) -> None:
    """Write in one step: several processes may find out the same at a time. Without the note it is found out again."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(asdict(verdict)))
        partial.replace(path)
    except OSError as exc:
        logger.warning("precision not remembered", extra={"why": exc.strerror})
