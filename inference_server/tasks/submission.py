"""A request to run a model on a case, as a door hands it in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference_server.tasks.record import ANONYMOUS, Priority


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A request to run a model on a case, whose zip is a file that `Tasks.stage` gave."""

    model: str
    staged: Path
    dialect: str
    token: str = ANONYMOUS
    priority: Priority = Priority.NORMAL
    parameters: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None
    outputs: tuple[str, ...] = ()


def fingerprint(submission: Submission) -> str:
    """Return a digest of all that makes two requests the same."""
    words = [submission.model, submission.dialect, dict(submission.parameters), submission.outputs]
    with submission.staged.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps(words, sort_keys=True).encode())
    return digest.hexdigest()
