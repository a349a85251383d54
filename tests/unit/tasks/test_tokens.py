from __future__ import annotations

import re

import pytest
from records import Clock
from sqlalchemy import text

from inference_server.errors import BadRequest, NotAuthorised
from inference_server.tasks.caller import BUILT_IN_NAMES, Caller, Scope
from inference_server.tasks.database import Database
from inference_server.tasks.record import new_uid
from inference_server.tasks.tokens import Tokens

USER = (Scope.SUBMIT, Scope.READ_OWN)
DAY_S = 86_400.0


@pytest.fixture
def tokens(database: Database, clock: Clock) -> Tokens:
    return Tokens(database, clock=clock)


def bearer(tokens: Tokens, text: str) -> Caller:
    return tokens.bearer(text, tokens.find(text))


def test_its_bearer_is_known_by_name_and_scopes(tokens: Tokens) -> None:
    made, token = tokens.create("mim-1", USER)
    assert re.fullmatch(r"ist_[0-9a-f]{10}_[A-Za-z0-9_-]{32}", token)
    assert bearer(tokens, token) == Caller("mim-1", frozenset(USER))
    assert (made.name, made.expires_at, made.revoked_at) == ("mim-1", None, None)


def test_neither_the_token_nor_its_secret_is_stored(tokens: Tokens, database: Database) -> None:
    made, token = tokens.create("mim-1", USER)
    with database.reading() as connection:
        stored = str(connection.execute(text("SELECT * FROM tokens")).one())
    secret = token.split("_", 2)[2]
    assert secret not in stored
    assert secret not in repr(made)
    assert made.digest not in repr(made)


@pytest.mark.parametrize("wrong", ["", "x", "ist_", "ist_0123456789_" + "a" * 32, "ist_0123456789_" + "é" * 32])
def test_what_is_no_token_bears_nothing(tokens: Tokens, wrong: str) -> None:
    with pytest.raises(NotAuthorised, match="not valid"):
        bearer(tokens, wrong)


@pytest.mark.parametrize(
    "change", [lambda token: token[:-1] + "!", lambda token: token + "a", lambda token: token[:-1]]
)
def test_a_token_is_valid_whole_or_not_at_all(tokens: Tokens, change) -> None:  # type: ignore[no-untyped-def]
    _, token = tokens.create("mim-1", USER)
    with pytest.raises(NotAuthorised, match="not valid"):
        bearer(tokens, change(token))


def test_the_secret_of_one_token_does_not_open_another(tokens: Tokens) -> None:
    (_, one), (_, two) = tokens.create("one", USER), tokens.create("two", USER)
    mixed = one[:15] + two[15:]
    assert tokens.find(mixed) is not None
    with pytest.raises(NotAuthorised, match="not valid"):
        bearer(tokens, mixed)


def test_it_is_valid_until_it_expires(tokens: Tokens, clock: Clock) -> None:
    made, token = tokens.create("mim-1", USER, lifetime_s=90 * DAY_S)
    assert made.expires_at == clock.now + 90 * DAY_S
    clock.now = made.expires_at - 1
    assert bearer(tokens, token).name == "mim-1"
    clock.now = made.expires_at
    with pytest.raises(NotAuthorised, match="expired"):
        bearer(tokens, token)


@pytest.mark.parametrize("by", ["name", "id"])
def test_it_is_revoked_by_name_and_by_id(tokens: Tokens, by: str) -> None:
    made, token = tokens.create("mim-1", USER)
    _, other = tokens.create("mim-2", USER)
    assert [revoked.id for revoked in tokens.revoke(getattr(made, by))] == [made.id]
    with pytest.raises(NotAuthorised, match="revoked"):
        bearer(tokens, token)
    assert bearer(tokens, other).name == "mim-2"
    assert tokens.revoke("mim-1") == []


def test_that_it_was_revoked_is_told_to_its_bearer_alone(tokens: Tokens) -> None:
    _, token = tokens.create("mim-1", USER)
    tokens.revoke("mim-1")
    with pytest.raises(NotAuthorised, match="not valid"):
        bearer(tokens, token[:15] + "a" * 32)


def test_a_name_is_one_valid_tokens_at_a_time(tokens: Tokens, clock: Clock) -> None:
    tokens.create("mim-1", USER, lifetime_s=DAY_S)
    with pytest.raises(BadRequest, match="valid token 'mim-1' already"):
        tokens.create("mim-1", USER)
    clock.now += DAY_S
    tokens.create("mim-1", USER)
    tokens.revoke("mim-1")
    _, third = tokens.create("mim-1", USER)
    assert bearer(tokens, third).name == "mim-1"
    assert [token.state(clock.now) for token in tokens.all()] == ["revoked", "revoked", "valid"]


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 65, "Müller", "a/b", "a\n", *sorted(BUILT_IN_NAMES)])
def test_a_name_is_short_plain_and_not_one_of_the_servers_own(tokens: Tokens, name: str) -> None:
    with pytest.raises(BadRequest):
        tokens.create(name, USER)
    assert not tokens.any()


def test_a_token_without_a_scope_is_refused(tokens: Tokens) -> None:
    with pytest.raises(BadRequest, match="at least one scope"):
        tokens.create("mim-1", ())


def test_there_is_one_from_the_first_that_was_made_also_when_it_is_revoked(tokens: Tokens, database: Database) -> None:
    assert not tokens.any()
    tokens.create("mim-1", USER)
    assert tokens.any()
    tokens.revoke("mim-1")
    assert Tokens(database).any()


def test_uids_have_128_random_bits() -> None:
    uids = [new_uid() for _ in range(500)]
    assert all(re.fullmatch("[0-9a-f]{32}", uid) for uid in uids)
    bits = [int(uid, 16) for uid in uids]
    # A bit that were the same in 500 random numbers would be a wonder (2 ** -499): version 4 of UUIDs has six of them.
    assert all(0 < sum(number >> place & 1 for number in bits) < len(bits) for place in range(128))
