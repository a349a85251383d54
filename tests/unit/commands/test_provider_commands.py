from __future__ import annotations

import json
from pathlib import Path

import pytest

from inference_server import cli
from inference_server.tasks.caller import Scope
from inference_server.tasks.database import open_database
from inference_server.tasks.tokens import Tokens

SERVICE = Path(__file__).resolve().parents[3] / "examples" / "dss" / "service.json"


def test_a_provider_offers_a_service_from_its_file_and_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'records.sqlite'}")
    Tokens(database).create("algorithm-1", [Scope.READ_OWN])
    database.close()

    def told(*words: str, status: int | None = None) -> str:
        monkeypatch.setattr("sys.argv", ["inference-server", *words, "--data", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert (ended.value.code or 0) == (status or 0)
        said = capsys.readouterr()
        return said.err if status else said.out

    told("providers", "add", "penn")
    told("providers", "admit", "penn", "algorithm-1")
    githash = told("services", "add", "penn", str(SERVICE)).strip()
    assert len(githash) == 40
    (record,) = json.loads(told("providers", "list", "--json"))
    (service,) = json.loads(told("services", "list", "--json"))
    assert record == {"provider": "penn", "users": ["algorithm-1"], "services": [service]}
    assert (service["hash"], service["name"]) == (githash, "bright-tissue")
    assert "bright-tissue" in told("services", "list")
    assert "no access token" in told("providers", "admit", "penn", "nobody", status=1)
    told("services", "remove", "penn", githash)
    told("providers", "dismiss", "penn", "algorithm-1")
    assert json.loads(told("services", "list", "--json")) == []
    told("providers", "remove", "penn")
    assert json.loads(told("providers", "list", "--json")) == []
