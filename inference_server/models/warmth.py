"""What a process has loaded; without the libraries that load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Warmth:
    """What is kept loaded, and how often that was of use.

    Attributes:
        models: as `id:version`.
        hits: by model, how often it was wanted and there.
        loads: by model, how often it was loaded.
    """

    models: tuple[str, ...] = ()
    hits: Mapping[str, int] = field(default_factory=dict)
    loads: Mapping[str, int] = field(default_factory=dict)
