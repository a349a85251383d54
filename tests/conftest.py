"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Threads that wait busily would take the cores from the tests beside; read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

settings.register_profile("suite", derandomize=True)
settings.load_profile("suite")  # the same examples every time; `--hypothesis-profile default` looks for new ones

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """No test is named after many bytes: what is packed changes each second, and workers must collect the same."""
    return argname if isinstance(val, bytes) and len(val) > 16 else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, which are not in the repository; INFERENCE_SERVER_TEST_DATA says where it is."""
    folder = Path(os.environ.get("INFERENCE_SERVER_TEST_DATA", DEFAULT_DATA))
    if not (folder / "ct").is_dir():
        pytest.skip("the real images are not here; INFERENCE_SERVER_TEST_DATA names their folder")
    return folder
