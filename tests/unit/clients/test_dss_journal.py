"""What a bridge has in hand outlives it."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from inference_server.clients.dss.bridge.journal import Journal, new_entry
from inference_server.errors import BadRequest

HASH = "b7392368dc5dcec910bb8b87006ae38fd1f2cb32"


def test_entries_are_there_again_oldest_first_until_they_are_dropped(tmp_path: Path) -> None:
    first, second = new_entry(12, HASH), new_entry(9, HASH)
    assert first.key != second.key
    with Journal.opened(tmp_path / "bridge") as journal:
        journal.write(first)
        journal.write(second)
        second = replace(second, uid="abc", events_seen=4)
        journal.write(second)
    with Journal.opened(tmp_path / "bridge") as journal:
        assert journal.entries() == [second, first]
        (journal.folder(9) / "image").write_bytes(b"of a patient")
        journal.drop(9)
        assert journal.entries() == [first]
    assert sorted(path.name for path in (tmp_path / "bridge").iterdir()) == ["12", "lock"]


def test_what_is_left_of_an_ended_ticket_goes_at_the_next_start(tmp_path: Path) -> None:
    with Journal.opened(tmp_path / "bridge") as journal:
        (journal.folder(3) / "image").write_bytes(b"of a patient")
        (journal.folder(4) / "entry.json.new").write_text("{")
        assert journal.entries() == []
        assert [path.name for path in (tmp_path / "bridge").iterdir()] == ["lock"]


def test_a_folder_is_private_and_has_one_bridge(tmp_path: Path) -> None:
    with Journal.opened(tmp_path / "bridge") as journal:
        journal.write(new_entry(1, HASH))
        with pytest.raises(BadRequest, match="Another bridge"), Journal.opened(tmp_path / "bridge"):
            pass
    for path in (tmp_path / "bridge", tmp_path / "bridge" / "1"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
