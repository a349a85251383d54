"""What an installed copy of the project holds beside its modules."""

from __future__ import annotations

import configparser
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT / "inference_server" / "models" / "zoo"


def packaged() -> set[Path]:
    """Return the data files that setup.cfg names, of folders that are packages; of others setuptools takes none."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    found: set[Path] = set()
    for package, patterns in parser["options.package_data"].items():
        folder = ROOT.joinpath(*package.split("."))
        if (folder / "__init__.py").is_file():
            found.update(path for pattern in patterns.split() for path in folder.glob(pattern) if path.is_file())
    return found


def test_the_models_that_ship_are_packaged_whole() -> None:
    manifests = sorted(ZOO.glob("*/model.yaml"))
    assert {"ct-body", "hippocampus", "chest-xray-ensemble"} <= {path.parent.name for path in manifests}
    for manifest in manifests:
        files = {path for path in manifest.parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        assert files <= packaged(), manifest.parent.name
        assert yaml.safe_load(manifest.read_text())["id"] == manifest.parent.name


def test_the_migrations_are_packaged() -> None:
    folder = ROOT / "inference_server" / "tasks" / "migrations"
    assert folder / "script.py.mako" in packaged()
