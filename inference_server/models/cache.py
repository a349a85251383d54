"""Loaded models that are kept, the least recently used ones going first."""

from __future__ import annotations

from collections import Counter, OrderedDict

from inference_server.models.registry import Model
from inference_server.models.runtimes.base import Runtime
from inference_server.models.warmth import Warmth

Key = tuple[str, str, str]


class WarmCache:
    """Keeps loaded runtimes within a budget of bytes; the newest is kept whatever its size."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._runtimes: OrderedDict[Key, Runtime] = OrderedDict()
        self._hits: Counter[str] = Counter()
        self._loads: Counter[str] = Counter()

    def get(self, model: Model) -> Runtime | None:
        """Return a model's loaded runtime, which becomes the most recently used one."""
        runtime = self._runtimes.get(_key(model))
        if runtime is not None:
            self._runtimes.move_to_end(_key(model))
            self._hits[model.id] += 1
        return runtime

    def peek(self, model: Model) -> Runtime | None:
        """Return a model's loaded runtime for a look at it, which counts as no use."""
        return self._runtimes.get(_key(model))

    def put(self, model: Model, runtime: Runtime) -> bool:
        """Keep a runtime; returns whether others went for it: earlier ones of its model, or those over the budget."""
        self._loads[model.id] += 1
        before = set(self._runtimes)
        for key in [key for key in self._runtimes if key[:2] == _key(model)[:2]]:
            del self._runtimes[key]
        self._runtimes[_key(model)] = runtime
        while len(self._runtimes) > 1 and self.size_bytes > self._budget_bytes:
            self._runtimes.popitem(last=False)
        return not before <= set(self._runtimes)

    def has_others(self, runtime: Runtime) -> bool:
        """Whether more than this runtime is kept."""
        return any(kept is not runtime for kept in self._runtimes.values())

    def keep_only(self, runtime: Runtime) -> None:
        """Drop all others."""
        self._runtimes = OrderedDict((key, kept) for key, kept in self._runtimes.items() if kept is runtime)

    @property
    def size_bytes(self) -> int:
        """Memory of all that is kept."""
        return sum(runtime.size_bytes for runtime in self._runtimes.values())

    def warmth(self) -> Warmth:
        """Return what is kept, and what was asked for so far."""
        models = sorted(f"{model}:{version}" for model, version, _ in self._runtimes)
        return Warmth(tuple(models), dict(self._hits), dict(self._loads))

    def clear(self) -> None:
        """Drop everything."""
        self._runtimes.clear()


def _key(model: Model) -> Key:
    return model.id, model.version, model.digest
