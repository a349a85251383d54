"""What the tests of the models share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import Bundle

from inference_server.models.registry import Model, read_model


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Model]:
    """Write a bundle into a folder of its own and read it."""

    def make(name: str = "levels", **parts: object) -> Model:
        return read_model(Bundle(**parts).write(tmp_path / "models" / name))  # type: ignore[arg-type]

    return make
