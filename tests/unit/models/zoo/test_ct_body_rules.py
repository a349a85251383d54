"""The written rules that ct-body learned."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import ndimage

import inference_server.models.zoo

RULES = Path(inference_server.models.zoo.__path__[0]) / "ct-body" / "classical.py"


@pytest.fixture(scope="module")
def rules() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("ct_body_rules", RULES)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("radius_mm", [0.4, 1.0, 2.5, 3.0, 7.0])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 3.0), (0.9766, 0.9766, 3.0), (2.3, 0.7, 1.1)])
def test_a_mask_grows_by_what_is_no_farther_than_the_radius(
    rules: ModuleType, spacing_mm: tuple[float, float, float], radius_mm: float
) -> None:
    generator = np.random.default_rng(0)
    for shape in [(1, 1, 1), (3, 30, 2), (9, 14, 21)]:
        mask = generator.random(shape) > 0.98
        mask[0, 0, 0] = True
        scan = rules.Scan(mask, spacing_mm)
        expected = ndimage.distance_transform_edt(~mask, scan.sampling) <= radius_mm
        np.testing.assert_array_equal(scan.dilate(mask, radius_mm), expected)
    nothing = np.zeros((2, 3, 4), bool)
    assert not rules.Scan(nothing, spacing_mm).dilate(nothing, radius_mm).any()
