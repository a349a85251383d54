"""What may come of an input: an answer, or a refusal in words, soon, in little memory, and nothing else."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from pathlib import Path

from fuzz.target import SECRET, Target
from fuzz.watch import Watch
from inference_server.errors import BadRequest, InferenceServerError, TooLarge

CPU_LIMIT_S = 2.0
MEMORY_LIMIT_BYTES = 48 * 1024**2
"""Inputs have at most 64 KiB, and what they may declare is held far below this."""
SENTENCE = re.compile(r"[A-Z].*[.]", re.DOTALL)
UNFIT = re.compile(r"(^|[\s'\"(])/\w+/|Traceback|0x[0-9a-f]{6}|\bNone\b")
"""Paths, traces, addresses and Python's words in what a clinician reads."""


@dataclass(frozen=True)
class Verdict:
    """What came of an input.

    Attributes:
        outcome: what it was, or why it was refused, without numbers: inputs of the same outcome took the same way.
        accepted: whether it was read.
        fault: what is wrong with the server, in a line that is the same for the same fault; empty if nothing is.
        detail: a traceback, if any.
        cpu_s: processor time that it took.
        memory_bytes: memory that it took at most, beyond what there was.
    """

    outcome: str
    accepted: bool = False
    fault: str = ""
    detail: str = ""
    cpu_s: float = 0.0
    memory_bytes: int = 0


def judge(target: Target, content: bytes, watch: Watch) -> Verdict:
    """Feed one input and say what came of it."""
    with watch.look() as seen:
        verdict = tried(target, content, watch.folder)
    faults = [verdict.fault] if verdict.fault else list(dict.fromkeys(seen.deeds))
    if seen.cpu_s > CPU_LIMIT_S:
        faults.append("takes too long")
    if seen.memory_bytes > MEMORY_LIMIT_BYTES:
        faults.append("takes too much memory")
    found = {**vars(verdict), "fault": ", ".join(faults), "cpu_s": seen.cpu_s, "memory_bytes": seen.memory_bytes}
    return Verdict(**found)


def tried(target: Target, content: bytes, folder: Path) -> Verdict:
    """Feed one input, unwatched."""
    try:
        return Verdict(f"read: {target.run(content, folder)}", accepted=True)
    except (BadRequest, TooLarge) as error:
        return Verdict(f"{error.code}: {_without_numbers(error.message)}", fault=_unfit(error))
    except Exception as exc:  # noqa: BLE001 - what else comes out is what is looked for
        return Verdict(f"fault: {type(exc).__name__}", fault=_place(exc), detail=traceback.format_exc())


def _unfit(error: InferenceServerError) -> str:
    said = f"{error.message} {error.field or ''}"
    if SECRET in said:
        return "repeats a patient's data"
    if UNFIT.search(error.message) or not SENTENCE.fullmatch(error.message):
        return f"says what no clinician reads: {_without_numbers(error.message)[:200]}"
    return ""


def _place(exc: Exception) -> str:
    """Say what happened and where, so that the same fault is the same line."""
    frames = traceback.extract_tb(exc.__traceback__)
    ours = [frame for frame in frames if "inference_server" in Path(frame.filename).parts] or frames
    return (
        f"{type(exc).__name__} in {Path(ours[-1].filename).name}, {ours[-1].name}: {_without_numbers(str(exc))[:120]}"
    )


def _without_numbers(text: str) -> str:
    return re.sub(r"-?\d[\d.e+]*|\b(nan|inf)\b", "#", text)
