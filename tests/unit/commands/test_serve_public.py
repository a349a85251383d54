"""Whether `up` and `api` listen beyond this machine while there is no token."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_server.commands.serve import _public_settings
from inference_server.errors import SettingsError


@pytest.mark.parametrize(("host", "opened"), [("0.0.0.0", None), ("0.0.0.0", "tomaat"), ("::", "tomaat,mim")])
def test_without_a_token_only_this_machine_is_served_whatever_is_open(
    tmp_path: Path, host: str, opened: str | None
) -> None:
    with pytest.raises(SettingsError, match=f"open to everybody who reaches {host}: there is no access token"):
        _public_settings({"data_dir": tmp_path, "models_dirs": None, "host": host, "open": opened})


def test_on_this_machine_dialects_are_opened_without_a_token(tmp_path: Path) -> None:
    found = _public_settings({"data_dir": tmp_path, "models_dirs": None, "open": "tomaat"})
    assert found.opened == ("tomaat",)


def test_a_server_of_opened_dialects_alone_is_asked_for_by_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFERENCE_SERVER_OPEN_ALONE", "true")
    beyond = {"data_dir": tmp_path, "host": "0.0.0.0"}
    assert _public_settings({**beyond, "models_dirs": None, "open": "tomaat"}).host == "0.0.0.0"
    with pytest.raises(SettingsError, match="there is no access token"):
        _public_settings({**beyond, "models_dirs": None})
