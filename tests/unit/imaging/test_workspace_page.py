"""The example of the page about workspaces runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inference_server.imaging.workspace import read_workspace

PAGE = Path(__file__).resolve().parents[3] / "docs" / "workspaces.md"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    [shown] = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t1.nii.gz").touch()
    exec(shown, {})
    assert capsys.readouterr().out == f"[{tmp_path / 't1.nii.gz'!r}]\n"
    made = read_workspace(tmp_path / "segmented.itksnap")
    assert [layer.path for layer in made.layers] == ["./t1.nii.gz", "./labels.nii.gz"]
    assert [label.name for label in made.labels] == ["Liver"]
    assert [mark.text for mark in made.landmarks] == ["AC"]
