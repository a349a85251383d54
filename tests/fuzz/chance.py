"""Hypothesis as a source of inputs: it chooses, and nobody shrinks, since the shortest input of a fault is kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import FlakyStrategyDefinition, Unsatisfiable
from hypothesis.strategies import SearchStrategy, tuples


def feed(one: Callable[..., None], *strategies: SearchStrategy[Any], count: int, number: int) -> None:
    """Call a function with examples of strategies.

    Args:
        one: takes one of each.
        strategies: of what it takes.
        count: how many examples.
        number: the same number gives the same ones.
    """
    chosen = settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    def positional(arguments: tuple[Any, ...]) -> None:
        one(*arguments)

    # There may be nothing that does not fit a description; and Schemathesis learns from answers what to ask next.
    with suppress(Unsatisfiable, FlakyStrategyDefinition):
        seed(number)(chosen(given(tuples(*strategies))(positional)))()
