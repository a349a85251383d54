"""Documentation can fail too: what exists is described, and what is described exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.main import get_command

from inference_server.cli import app
from inference_server.errors import all_errors
from inference_server.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")]
)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def test_every_error_code_stands_with_its_status_and_whether_to_retry() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \| (\d+) \| (yes|no) \|", page("errors.md"), re.MULTILINE))
    ours = [error for error in all_errors() if error.__module__ == "inference_server.errors"]
    assert rows == {(error.code, str(error.status), "yes" if error.retryable else "no") for error in ours}


def test_every_setting_is_described_and_no_other() -> None:
    described = set(re.findall(rf"^\| `{PREFIX}(\w+)`", page("operate.md"), re.MULTILINE))
    assert described == {name.upper() for name in Settings.model_fields}


def test_every_command_is_described_and_no_other() -> None:
    described = set(
        re.findall(r"^\| `inference-server ([a-z -]+?)(?: [A-Z.]+)*`", page("command-line.md"), re.MULTILINE)
    )
    assert described == set(commands(get_command(app)))


def commands(command: Any, name: str = "") -> Iterator[str]:
    """Yield what can be called: commands, and groups that do something by themselves."""
    members = getattr(command, "commands", {})
    if not members or (name and command.invoke_without_command):
        yield name
    for member, found in members.items():
        yield from commands(found, f"{name} {member}".strip())


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
    assert not [link for link in links if not (path.parent / link).exists()]


def test_every_route_is_described(tmp_path: Path) -> None:
    from inference_server.api.app import create_app

    application = create_app(Settings(data_dir=tmp_path, broker_url="redis://127.0.0.1:1/0"))
    described = "\n".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    routes = {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule) for rule in application.url_map.iter_rules()}
    ours = {route for route in routes if not route.startswith(("/static", "/docs/", "/openapi/"))}
    assert not [route for route in sorted(ours) if route not in described]


def test_the_manifests_of_the_models_page_are_valid() -> None:
    import yaml

    from inference_server.models.manifest import Manifest, parse_manifest

    of_bundle, of_network = re.findall(r"^```yaml\n(.*?)^```", page("models.md"), re.MULTILINE | re.DOTALL)
    manifest = parse_manifest(yaml.safe_load(of_bundle))
    assert manifest.labels[1].name == "LIVER"
    assert set(manifest.model_fields_set) <= set(Manifest.model_fields)
    assert parse_manifest({"id": "brain", **yaml.safe_load(of_network)}).runtime == "network"


def test_every_key_of_a_preparation_and_every_step_is_described() -> None:
    from inference_server.models.preparation import Clip, Preparation, Quantiles, Scale, ZScore

    written = page("models.md")
    assert set(re.findall(r"^\| `prepare\.(\w+)`", written, re.MULTILINE)) == set(Preparation.model_fields)
    steps = {get_args(step.model_fields["step"].annotation)[0] for step in (Clip, Scale, Quantiles, ZScore)}
    assert steps <= set(re.findall(r"^\| `(\w+)` \|", written, re.MULTILINE))
