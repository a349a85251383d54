from __future__ import annotations

import pytest
from flask import Request
from werkzeug.test import EnvironBuilder

from inference_server.api import sign_in
from inference_server.api.sign_in import SignInLimit, authorization, network
from inference_server.errors import SignInLimited

ALICE, BOB = ("10.0.0.1", "a"), ("10.0.0.1", "b")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def refused(limit: SignInLimit, key: tuple[str, str]) -> float | None:
    """Return how long a key has to wait, None where it need not."""
    try:
        limit.check(key)
    except SignInLimited as error:
        return error.retry_after_s
    return None


def test_it_is_closed_for_a_minute_from_the_failure_that_is_one_too_many() -> None:
    clock = Clock()
    limit = SignInLimit(3, clock)
    for _ in range(3):
        assert refused(limit, ALICE) is None
        limit.note_failure(ALICE)
        clock.now += 10
    assert refused(limit, ALICE) == 30.0
    clock.now += 29.5
    assert refused(limit, ALICE) == 0.5
    clock.now += 0.5
    assert refused(limit, ALICE) is None
    limit.note_failure(ALICE)
    assert refused(limit, ALICE) == 10.0


def test_one_token_and_one_address_do_not_lock_out_another() -> None:
    limit = SignInLimit(1, Clock())
    limit.note_failure(ALICE)
    assert refused(limit, ALICE) == 60.0
    assert refused(limit, BOB) is None
    assert refused(limit, ("10.0.0.2", "a")) is None


def test_memory_is_bounded_and_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_in, "KNOWN_LIMIT", 2)
    limit = SignInLimit(1, Clock())
    for name in "abc":
        limit.note_failure((name, ""))
    assert [refused(limit, (name, "")) for name in "abc"] == [None, 60.0, 60.0]


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("", ""),
        (None, ""),
        ("unix", ""),
    ],
)
def test_failures_are_counted_by_address_or_by_the_network_of_a_site(address: str | None, counted: str) -> None:
    assert network(address) == counted


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer abc", "abc"),
        ("Basic dXNlcjphYmM=", "abc"),  # user:abc
        ("Basic YWJjOg==", "abc"),  # abc:
        ("Basic Og==", None),  # :
        ("Basic not base64", None),
        ("Digest username=x", None),
        ("Bearer", None),
        ("", None),
        (None, None),
    ],
)
def test_a_token_is_found_in_the_header(header: str | None, token: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    assert (authorization(Request(EnvironBuilder(headers=headers).get_environ())) or None) == token
