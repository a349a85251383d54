from __future__ import annotations

import pytest

from inference_server.imaging.sizes import size_text


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 bytes"),
        (2**20 - 1, "1048575 bytes"),
        (2**20, "1 MiB"),
        (3_000_000, "2.9 MiB"),
        (2**31, "2 GiB"),
        (54_000_000_000_000, "50291.4 GiB"),
    ],
)
def test_large_sizes_are_said_in_units_that_people_use(size_bytes: int, words: str) -> None:
    assert size_text(size_bytes) == words
