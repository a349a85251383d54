"""What the tests of manifests share."""

from __future__ import annotations

import pytest
import yaml

from inference_server.errors import ModelLoadError
from inference_server.models.manifest import parse_manifest


def refusal(written: str) -> str:
    """Return what is said of a `model.yaml` that is not valid."""
    with pytest.raises(ModelLoadError) as caught:
        parse_manifest(yaml.safe_load(written), written=written)
    return caught.value.message
