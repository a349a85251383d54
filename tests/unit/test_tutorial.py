"""The tutorial "Serve your own model" shows the files that are tested, and these are whole."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from inference_server.models.manifest import parse_manifest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "models" / "meshnet"
NAMES = ("brain-tissue", "brain-structures")


@pytest.mark.parametrize(("language", "file"), [("python", "meshnet.py"), ("yaml", "model.yaml")])
def test_the_page_shows_the_files_as_they_are(language: str, file: str) -> None:
    page = (ROOT / "docs" / "serve-your-own-model.md").read_text()
    [shown] = re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert shown == (EXAMPLES / "brain-tissue" / file).read_text()


@pytest.mark.parametrize("name", NAMES)
def test_an_example_folder_declares_every_class_of_its_network(name: str) -> None:
    written = (EXAMPLES / name / "model.yaml").read_text()
    manifest = parse_manifest(yaml.safe_load(written), written=written)
    assert manifest.id == name
    assert manifest.network is not None
    assert list(manifest.labels) == list(range(1, int(str(manifest.network.arguments["classes"]))))


def test_both_folders_have_the_same_architecture() -> None:
    first, second = ((EXAMPLES / name / "meshnet.py").read_text() for name in NAMES)
    assert first == second
    assert ast.parse(first)
