"""Which directions of axes are taken, made perpendicular, or refused."""

from __future__ import annotations

import numpy as np
import pytest

from inference_server.errors import InvalidVolume
from inference_server.imaging.directions import TOLERANCE, perpendicular
from inference_server.imaging.volume import IDENTITY

OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
LEFT_HANDED = (0.8, 0.6, 0.0, 0.6, -0.8, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("direction", [IDENTITY, OBLIQUE, LEFT_HANDED])
def test_perpendicular_directions_stay_as_they_are(direction: tuple[float, ...]) -> None:
    assert perpendicular(direction) is direction  # type: ignore[arg-type]


def test_the_nearest_perpendicular_directions_are_found() -> None:
    """Two axes that lean towards each other by the same angle each turn back by it."""
    lean = TOLERANCE / 2.1
    leaning = (np.cos(lean), np.sin(lean), 0.0, np.sin(lean), np.cos(lean), 0.0, 0.0, 0.0, -1.0)
    np.testing.assert_allclose(perpendicular(leaning), (1, 0, 0, 0, 1, 0, 0, 0, -1), atol=1e-12)


@pytest.mark.parametrize(
    ("direction", "words"),
    [
        ((1.0, 0.002, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), r"sheared: .* 0\.1 degrees off"),
        ((1.0, 0.5, 0.0, 0.0, 0.866, 0.0, 0.0, 0.0, 1.0), r"sheared: .* 30\.0 degrees off"),
        ((2.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 2.0), "vectors of length 1"),
        ((1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0), "do not span three dimensions"),
        ((0.0,) * 9, "do not span three dimensions"),
    ],
)
def test_others_are_refused_with_what_is_wrong(direction: tuple[float, ...], words: str) -> None:
    with pytest.raises(InvalidVolume, match=words):
        perpendicular(direction)  # type: ignore[arg-type]
