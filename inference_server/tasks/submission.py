"""A request to run a model on a case, as a door hands it in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from inference_server.errors import BadRequest
from inference_server.tasks.record import ANONYMOUS, Priority


class Output(StrEnum):
    """What is made of a result beyond what the model gives, where it was asked for."""

    MESHES = "meshes"
    """The surface of each label of each segmentation, smoothed."""
    VOLUMES = "volumes"
    """The volume of each label, in millilitres."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A request to run a model on a case, whose zip is a file that `Tasks.stage` gave.

    `outputs` names what of `Output` is made.
    """

    model: str
    staged: Path
    dialect: str
    token: str = ANONYMOUS
    priority: Priority = Priority.NORMAL
    parameters: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None
    outputs: tuple[str, ...] = ()


def check_outputs(asked: Sequence[str]) -> tuple[Output, ...]:
    """Return what is asked for, each once and in the order of `Output`.

    Raises:
        BadRequest: nothing of that name can be made.
    """
    unknown = next((name for name in asked if name not in set(Output)), None)
    if unknown is not None:
        raise BadRequest(
            f"The output '{unknown[:50]}' is not known here. Outputs: {', '.join(Output)}.", field="outputs"
        )
    return tuple(output for output in Output if output in asked)


def fingerprint(submission: Submission) -> str:
    """Return a digest of all that makes two requests the same."""
    words = [submission.model, submission.dialect, dict(submission.parameters), submission.outputs]
    with submission.staged.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps(words, sort_keys=True).encode())
    return digest.hexdigest()
