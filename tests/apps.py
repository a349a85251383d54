"""Small Python apps in folders of their own, for tests."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def write_app(folder: Path, code: str, *, files: Mapping[str, str] | None = None, **manifest: Any) -> Path:
    """Write a model folder with `app.py` and further files; the manifest names `app.py:app` unless told otherwise."""
    folder.mkdir(parents=True)
    declared = {"runtime": "python-app", "app": "app.py:app", **manifest}
    (folder / "model.yaml").write_text(yaml.safe_dump(declared))
    for name, text in {"app.py": code, **(files or {})}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return folder


LEVEL_LABELS = {1: {"name": "low"}, 2: {"name": "high"}}
LEVEL_APP = """
    import numpy as np

    def app(case, context):
        values = case.reference.array
        return (values > -0.5).astype(np.uint8) + (values > 0.25)
"""
"""The classes of `bundles.expected_levels`."""
