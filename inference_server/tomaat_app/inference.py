"""Base of inference that is ready-made: it is told once where to compute."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from inference_server.errors import PredictionError
from inference_server.tomaat_app.current import context

Data = dict[str, Any]


class Inference(ABC):
    """A step that computes on a device. A worker calls `load` once; without a server the first call does.

    Derive from it where an app of yours has something to load: `context()` tells the rest.
    """

    is_loaded = False

    @property
    def size_bytes(self) -> int:
        """Memory that it takes on its device, as far as it is known."""
        return 0

    @abstractmethod
    def load(self, device: str, cache_dir: Path | None = None) -> None:
        """Bring what it needs onto a device.

        Args:
            device: as torch names it: `cpu`, `cuda:0`.
            cache_dir: a folder that stays, for what need not be found out twice.
        """

    @abstractmethod
    def infer(self, data: Data) -> Data:
        """Return what is added to the data."""

    def __call__(self, data: Data) -> Data:
        """Return the data and what was inferred from it; the given dictionary is not modified."""
        if not self.is_loaded:
            self.prepare_for(context().device)
        return {**data, **self.infer(data)}

    def prepare_for(self, device: str, cache_dir: Path | None = None) -> None:
        """Load once."""
        self.load(device, cache_dir)
        self.is_loaded = True


def only(data: Data, field: str) -> Any:
    """Return the value of a field: the one of its list, or itself where it is none.

    Raises:
        PredictionError: there is no such field, or its list has another length.
    """
    if field not in data:
        raise PredictionError(f"The app gave no '{field[:50]}', which its inference or output interface names.")
    value = data[field]
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        raise PredictionError(f"The app's '{field[:50]}' has {len(value)} values; one was expected.")
    return value[0]
