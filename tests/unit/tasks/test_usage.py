from __future__ import annotations

import pytest
from records import Clock
from sqlalchemy import select

from inference_server.tasks import usage
from inference_server.tasks.database import Database
from inference_server.tasks.record import Priority
from inference_server.tasks.schema import usage as table

NOW = 1_700_000_000.0


def test_an_unused_token_has_used_nothing() -> None:
    assert usage.amount_s(usage.UNUSED, NOW) == 0.0


def test_what_was_used_halves_every_ten_minutes() -> None:
    score = usage.raised(usage.UNUSED, 80.0, NOW)
    amounts = [usage.amount_s(score, NOW + minutes * 60) for minutes in (0, 10, 20, 30)]
    assert amounts == pytest.approx([80.0, 40.0, 20.0, 10.0], rel=1e-6)


def test_use_adds_up_with_what_is_left_of_earlier_use() -> None:
    score = usage.raised(usage.raised(usage.UNUSED, 80.0, NOW), 5.0, NOW + 600)
    assert usage.amount_s(score, NOW + 600) == pytest.approx(45.0, rel=1e-6)


def test_the_order_of_scores_is_the_order_of_amounts_at_any_time() -> None:
    early, late = usage.raised(usage.UNUSED, 100.0, NOW), usage.raised(usage.UNUSED, 30.0, NOW + 1200)
    assert early < late
    for later in (NOW + 1200, NOW + 7200):
        assert usage.amount_s(early, later) < usage.amount_s(late, later)


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_use_leaves_the_score(seconds: float) -> None:
    assert usage.raised(12.5, seconds, NOW) == 12.5


def test_a_token_becomes_known_once_and_keeps_its_score(database: Database, clock: Clock) -> None:
    with database.writing() as connection:
        usage.join(connection, "a", "default", Priority.NORMAL, clock.now)
        usage.charge(connection, "a", 8.0, clock.now)
        usage.join(connection, "a", "default", Priority.NORMAL, clock.now)
        usage.charge(connection, "unknown", 8.0, clock.now)
        rows = connection.execute(select(table)).all()
    assert [(row.token, usage.amount_s(row.score, clock.now)) for row in rows] == [("a", pytest.approx(8.0))]


def test_a_start_costs_something_however_quick_it_was(database: Database, clock: Clock) -> None:
    with database.writing() as connection:
        usage.join(connection, "a", "default", Priority.NORMAL, clock.now)
        usage.charge(connection, "a", 0.0, clock.now)
        score = connection.scalar(select(table.c.score))
    assert usage.amount_s(score, clock.now) == pytest.approx(usage.TASK_S)


@pytest.mark.parametrize(
    ("own_s", "after_s"),
    [(100.0, 5.05), (5.05, 5.05), (5.03, 5.03), (5.0, 5.0), (1.0, 5.0), (0.0, 5.0)],
)
def test_who_joins_those_who_wait_is_neither_far_ahead_of_them_nor_far_behind(own_s: float, after_s: float) -> None:
    own = usage.raised(usage.UNUSED, own_s, NOW)
    others = usage.raised(usage.UNUSED, 5.0, NOW)
    assert usage.amount_s(usage.joined(own, others, NOW), NOW) == pytest.approx(after_s, rel=1e-6)
