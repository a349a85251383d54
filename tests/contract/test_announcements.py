"""Keys and announced services, in every database that they may be in."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from records import Clock
from sqlalchemy import select

from inference_server.errors import BadRequest, NotAuthorised
from inference_server.tasks.announcements import LIFETIME_S, Announcements, Service
from inference_server.tasks.database import Database
from inference_server.tasks.schema import announced, announcement_keys

LIVER = Service("https://a.example/predict", "https://a.example/interface", "Liver", "CT", "Liver", "Segmentation", "x")
HEART = Service("https://b.example/predict", "https://b.example/interface", "Heart", "MR", "Heart", "Segmentation", "y")


@pytest.fixture
def announcements(database: Database, clock: Clock) -> Announcements:
    return Announcements(database, clock=clock)


def test_a_service_is_listed_under_its_keys_public_identifier(announcements: Announcements, clock: Clock) -> None:
    made, key = announcements.create_key("hospital")
    noted = announcements.announce(key, LIVER)
    assert announcements.services() == [noted]
    assert (noted.sid, noted.service, noted.creation_time) == (made.sid, LIVER, clock.now)


def test_the_records_hold_a_digest_and_the_identifier_nothing_of_the_key(
    announcements: Announcements, database: Database
) -> None:
    made, key = announcements.create_key("hospital")
    with database.reading() as connection:
        [row] = connection.execute(select(announcement_keys))
    assert key not in str(row)
    assert made.sid not in key
    assert len(row.digest) == 64


def test_a_second_announcement_with_the_same_key_replaces_the_first(announcements: Announcements, clock: Clock) -> None:
    _, one = announcements.create_key("one")
    _, two = announcements.create_key("two")
    announcements.announce(one, LIVER)
    announcements.announce(two, LIVER)
    clock.now += 1
    announcements.announce(one, HEART)
    assert [found.service for found in announcements.services()] == [LIVER, HEART]


def test_an_announcement_counts_for_an_hour_and_is_removed_by_the_next(
    announcements: Announcements, clock: Clock, database: Database
) -> None:
    _, one = announcements.create_key("one")
    _, two = announcements.create_key("two")
    announcements.announce(one, LIVER)
    clock.now += LIFETIME_S - 1
    assert len(announcements.services()) == 1
    clock.now += 1
    assert announcements.services() == []
    announcements.announce(two, HEART)
    with database.reading() as connection:
        assert [row.name for row in connection.execute(select(announced))] == ["Heart"]


@pytest.mark.parametrize("key", ["", "isk_nonsense", "isk_" + "a" * 32])
def test_an_unknown_key_is_refused(announcements: Announcements, key: str) -> None:
    announcements.create_key("one")
    with pytest.raises(NotAuthorised, match="api_key"):
        announcements.announce(key, LIVER)
    assert announcements.services() == []


@pytest.mark.parametrize("by", ["name", "sid"])
def test_a_revoked_key_is_refused_and_what_it_announced_is_gone(announcements: Announcements, by: str) -> None:
    made, key = announcements.create_key("one")
    _, other = announcements.create_key("two")
    announcements.announce(key, LIVER)
    announcements.announce(other, HEART)
    assert [revoked.name for revoked in announcements.revoke_key(getattr(made, by))] == ["one"]
    assert [found.service for found in announcements.services()] == [HEART]
    with pytest.raises(NotAuthorised):
        announcements.announce(key, LIVER)
    assert announcements.revoke_key("one") == []
    assert [key.revoked_at is None for key in announcements.all_keys()] == [False, True]


def test_a_name_has_one_valid_key_at_a_time(announcements: Announcements) -> None:
    announcements.create_key("one")
    with pytest.raises(BadRequest, match="'one' already"):
        announcements.create_key("one")
    announcements.revoke_key("one")
    announcements.create_key("one")


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 65, "a\n"])
def test_a_name_is_short_and_plain(announcements: Announcements, name: str) -> None:
    with pytest.raises(BadRequest):
        announcements.create_key(name)
    assert announcements.all_keys() == []


def test_a_service_that_announces_itself_from_several_places_at_once_is_listed_once(
    announcements: Announcements,
) -> None:
    _, key = announcements.create_key("one")
    start = threading.Barrier(4)

    def announce(number: int) -> None:
        start.wait()
        for _ in range(10):
            announcements.announce(key, replace(LIVER, name=f"from {number}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(announce, range(4)))
    assert len(announcements.services()) == 1
