"""What this machine has, as a worker sees it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from inference_server.errors import SettingsError
from inference_server.models import machine, memory


def test_a_cpu_has_the_memory_of_its_machine() -> None:
    here = machine.this_machine("cpu")
    assert here.kind == "cpu"
    assert here.memory_bytes == here.host_memory_bytes == memory.host_memory_bytes()


def test_a_device_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SettingsError, match="does not exist here"):
        machine.this_machine("cuda:99")


@pytest.mark.parametrize(("limit", "counts"), [("1048576\n", True), ("max\n", False), (str(2**62), False)])
def test_a_container_has_what_its_limit_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, counts: bool
) -> None:
    (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(memory, "CONTAINER_LIMITS", (tmp_path / "memory.max", tmp_path / "none"))
    assert memory.host_memory_bytes() == (1048576 if counts else psutil.virtual_memory().total)
