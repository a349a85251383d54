from __future__ import annotations

from dataclasses import replace

import pytest
from door_support import queued_task

from inference_server.tasks.caller import ANONYMOUS, LOCAL, Caller, Scope

MINE = replace(queued_task(), token="me")
OTHERS = replace(queued_task(), token="somebody")


@pytest.mark.parametrize(
    ("scopes", "mine", "others"),
    [
        # (see, fetch, steer)
        ("submit", (0, 0, 1), (0, 0, 0)),
        ("read-own", (1, 1, 0), (0, 0, 0)),
        ("submit,read-own", (1, 1, 1), (0, 0, 0)),
        ("read-all", (1, 1, 0), (1, 1, 0)),
        ("submit,read-all", (1, 1, 1), (1, 1, 0)),
        ("operate", (1, 0, 1), (1, 0, 1)),
        ("operate,read-own", (1, 1, 1), (1, 0, 1)),
        ("operate,read-all", (1, 1, 1), (1, 1, 1)),
    ],
)
def test_what_each_scope_lets_one_do(scopes: str, mine: tuple[int, ...], others: tuple[int, ...]) -> None:
    caller = Caller("me", frozenset(map(Scope, scopes.split(","))))
    for task, expected in ((MINE, mine), (OTHERS, others)):
        assert (caller.may_see(task), caller.may_fetch(task), caller.may_steer(task)) == tuple(map(bool, expected))


def test_the_local_caller_may_do_everything_and_the_anonymous_one_little() -> None:
    assert LOCAL.scopes == frozenset(Scope)
    assert ANONYMOUS.scopes == {Scope.SUBMIT, Scope.READ_OWN}
