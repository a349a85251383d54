"""What backends share that make a graph of a network for one shape of window."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from inference_server.errors import PredictionError
from inference_server.models.backends.eager import Eager

logger = logging.getLogger(__name__)

Graph = Callable[[torch.Tensor], torch.Tensor]
"""Takes a window as a backend takes them and gives scores as a backend gives them."""

MOST_GRAPHS = 4
"""Graphs that a network keeps; windows of further shapes are computed eagerly."""
GROSS = 0.2
"""Scores of a graph that differ more from the network's own, as a share of these, are not only rounded differently."""
_REFUSALS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError, PredictionError)
"""What networks and libraries raise while a graph is made or first used."""


class NoGraph(Exception):
    """No graph can be made of a network; the text says why, in a few words for the log."""


class Shaped:
    """Computes windows by graphs, one for each shape, and eagerly where there is none.

    The values that a trace follows may be fixed to the shape that it was made with, so that a graph never sees another
    one. It is made when a shape comes for the second time, since one that never comes again is not worth it, and is
    compared with the network on that window.

    Args:
        eager: computes what has no graph.
        make: returns a graph for windows of the shape of one.
        copy_bytes: memory of the weights that each graph has of its own.

    Attributes:
        refusal: why there is no graph for some shape; empty where none was refused.
    """

    def __init__(self, eager: Eager, make: Callable[[torch.Tensor], Graph], *, copy_bytes: int = 0) -> None:
        self._eager, self._make, self._copy_bytes = eager, make, copy_bytes
        self._graphs: dict[torch.Size, Graph | None] = {}
        self._seen: set[torch.Size] = set()
        self.refusal = ""

    @property
    def size_bytes(self) -> int:
        return self._eager.size_bytes + self._copy_bytes * (1 + len(self._graphs))

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        if graph := self._graphs.get(window.shape):
            return graph(window)
        scores = self._eager(window)
        if window.shape in self._seen and window.shape not in self._graphs and len(self._graphs) < MOST_GRAPHS:
            self._graphs[window.shape] = self._made(window, scores)
        self._seen.add(window.shape)
        return scores

    def _made(self, window: torch.Tensor, scores: torch.Tensor) -> Graph | None:
        try:
            graph = self._make(window)
            _check(graph(window), scores)
        except (NoGraph, *_REFUSALS) as exc:
            self.refusal = str(exc) if isinstance(exc, NoGraph) else type(exc).__name__
            logger.warning("no graph of the network", extra={"why": self.refusal, "shape": tuple(window.shape)})
            return None
        return graph


def _check(found: torch.Tensor, expected: torch.Tensor) -> None:
    if found.shape != expected.shape:
        raise NoGraph("its scores have another shape")
    difference = float((found - expected).norm()) / max(float(expected.norm()), 1e-6)
    if not difference <= GROSS and bool(expected.isfinite().all()):
        raise NoGraph(f"its scores differ by {difference:.2g}")
