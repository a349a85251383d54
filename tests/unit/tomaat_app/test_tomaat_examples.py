"""The examples of TOMAAT apps: the page shows the one that is tested, and each is a whole service."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from inference_server.models.manifest import parse_manifest
from inference_server.tomaat_app.script import Script, run_script
from inference_server.tomaat_app.service import TomaatService

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = sorted((ROOT / "examples" / "tomaat").glob("*.py"))


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's process stays what a script makes of it; this one does not."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))


def service_of(path: Path) -> TomaatService:
    service = run_script(Script(path, path.read_bytes(), path.parent, arguments=("own",)))
    assert isinstance(service, TomaatService)
    return service


def test_the_page_shows_the_script_as_it_is() -> None:
    page = (ROOT / "docs" / "tomaat-apps.md").read_text()
    [shown] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert shown == (ROOT / "examples" / "tomaat" / "image.py").read_text()


def test_every_example_is_a_service_with_a_name_and_a_port_of_its_own() -> None:
    services = [service_of(path) for path in EXAMPLES]
    assert len(services) == 8
    assert len({service.checked.id for service in services}) == len({service.checked.port for service in services}) == 8
    for service in services:
        assert parse_manifest(service.manifest).id == service.checked.id


def test_a_certificate_of_ones_own_is_named_on_the_command_line() -> None:
    assert service_of(ROOT / "examples" / "tomaat" / "own_certificate.py").checked.cert_path == Path("own")


def test_every_key_of_a_config_and_every_element_is_described() -> None:
    from inference_server.tomaat_app.config import Config
    from inference_server.tomaat_app.interface import Output

    page = (ROOT / "docs" / "tomaat-apps.md").read_text()
    assert not [name for name in Config.model_fields if f"`{name}`" not in page]
    assert not [kind for kind in Output.model_fields["type"].annotation.__args__ if f'"{kind}"' not in page]  # type: ignore[union-attr]
