from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from door_support import Doors


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[Doors]:
    doors = Doors(tmp_path)
    yield doors
    doors.close()
