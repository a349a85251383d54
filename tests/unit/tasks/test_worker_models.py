from __future__ import annotations

from pathlib import Path

import pytest

from inference_server.models import copies
from inference_server.models.registry import open_registry
from inference_server.settings import Settings
from inference_server.tasks.worker import prune_models

MANIFEST = "id: {id}\nruntime: python-app\napp: app.py:App\nlabels: {{1: {{name: ABOVE}}}}\n"


def test_a_worker_removes_copies_of_models_that_are_gone_and_needed_by_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "GRACE_S", -1.0)
    settings = Settings(data_dir=tmp_path / "data", models_dirs=str(tmp_path / "models"), zoo=False)
    for name in ("kept", "gone"):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "model.yaml").write_text(MANIFEST.format(id=name))
        (folder / "app.py").write_text("class App: ...\n")
    digests = {model.id: model.digest for model in open_registry(settings).models()}
    assert sorted(digests) == ["gone", "kept"]
    for path in (tmp_path / "models" / "gone").iterdir():
        path.unlink()
    (tmp_path / "models" / "gone").rmdir()
    prune_models(settings)
    copied = {path.name for path in (tmp_path / "data" / "models").iterdir()}
    assert digests["kept"] in copied
    assert digests["gone"] not in copied
