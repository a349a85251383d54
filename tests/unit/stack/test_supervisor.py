from __future__ import annotations

from pathlib import Path

import pytest

from inference_server.errors import SettingsError
from inference_server.settings import Settings
from inference_server.stack.supervisor import run_up


def test_a_data_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be made: Not a directory"):
        run_up(Settings(data_dir=tmp_path / "file" / "data"), ready=print)


def test_a_data_folder_that_cannot_be_written_to_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "up.lock").mkdir()
    with pytest.raises(SettingsError, match="cannot be written to: Is a directory"):
        run_up(Settings(data_dir=tmp_path), ready=print)
