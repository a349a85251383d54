from __future__ import annotations

from pathlib import Path

import pytest

from inference_server.commands.doctor import CHECKS, Finding
from inference_server.settings import Settings
from inference_server.stack.certificates import Pair, make_pair
from inference_server.tasks.caller import Scope
from inference_server.tasks.database import open_database
from inference_server.tasks.tokens import Tokens


def looked(tmp_path: Path, name: str, **settings: object) -> Finding:
    return CHECKS[name](Settings(data_dir=tmp_path / "data", **settings))  # type: ignore[arg-type]


def test_tokens_are_counted_and_that_none_is_valid_is_not_well(tmp_path: Path) -> None:
    assert looked(tmp_path, "tokens").seen.startswith("none yet; whoever is at this machine")
    tokens = Tokens(open_database(Settings(data_dir=tmp_path / "data").database))
    assert looked(tmp_path, "tokens").seen.startswith("none yet")
    tokens.create("one", [Scope.SUBMIT])
    tokens.create("two", [Scope.SUBMIT], lifetime_s=-1.0)
    assert looked(tmp_path, "tokens") == Finding("tokens", True, "1 valid, 1 expired or revoked")
    tokens.revoke("one")
    found = looked(tmp_path, "tokens")
    assert (found.well, found.seen) == (False, "0 valid, 2 expired or revoked")
    assert "tokens create" in found.mend


@pytest.mark.parametrize(
    ("days", "well", "seen"),
    [(31, True, "valid for 30 more days"), (29, False, "valid for 28 more days"), (-1, False, "expired")],
)
def test_a_certificate_that_ends_soon_is_not_well(tmp_path: Path, days: int, well: bool, seen: str) -> None:
    folder = tmp_path / "data" / "tls"
    assert looked(tmp_path, "certificate").seen == "none; HTTPS is off"
    make_pair(Pair(folder / "certificate.pem", folder / "key.pem"), days=days)
    found = looked(tmp_path, "certificate")
    assert (found.well, found.seen, bool(found.mend)) == (well, seen, not well)
