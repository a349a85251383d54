"""What `models check` says, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from bundles import Bundle
from typer.testing import CliRunner, Result

from inference_server.cli import app
from inference_server.errors import ModelLoadError


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a repository of a model with an example, one without, and two broken ones."""
    folder = tmp_path / "models"
    Bundle(manifest={"example": "e.nii.gz", "precision": "float32", "backend": "eager"}).write(folder / "levels")
    values = np.zeros((8, 8, 8), np.float32)
    values[:2] = 1  # 128 voxels of 1 mm³ above both levels, the others between them
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "levels" / "e.nii.gz")
    Bundle(manifest={"precision": "float32"}).write(folder / "plain")
    Bundle(manifest={"lables": {}}).write(folder / "misspelt")
    (Bundle(weights="pt").write(folder / "unreadable") / "models" / "model.pt").write_bytes(b"no weights")
    return folder


def check(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["models", "check", str(folder), *options])


def test_every_model_has_a_row_and_broken_ones_say_what_was_expected(models: Path) -> None:
    done = check(models)
    rows = {line.split()[0].rpartition("/")[2]: " ".join(line.split()) for line in done.stdout.splitlines()[1:]}
    assert rows["levels"].startswith("levels 2.1.0 works float32 ")
    assert rows["levels"].endswith(" low 0.384 cc, high 0.128 cc")
    assert rows["plain"] == "plain 2.1.0 loads float32 it declares no example to run"
    assert "broken" in rows["misspelt"]
    assert "line 1, lables: this key is unknown, did you mean 'labels'?" in rows["misspelt"]
    assert rows["unreadable"].startswith("unreadable 2.1.0 broken The weights in model.pt cannot be read")
    assert done.exit_code != 0
    assert isinstance(done.exception, ModelLoadError)
    assert done.exception.message == "2 of 4 models do not work."


def test_programs_read_the_same_as_json(models: Path) -> None:
    found = {Path(row["model"]).name.split()[0]: row for row in json.loads(check(models, "--json").stdout)}
    assert found["levels"]["found"] == {"low": pytest.approx(0.384), "high": pytest.approx(0.128)}
    assert (found["levels"]["unit"], found["levels"]["problem"], found["levels"]["computes_in"]) == (
        "cc",
        "",
        "float32",
    )
    assert (found["plain"]["seconds"], found["plain"]["found"]) == (None, {})
    assert "line 1, lables" in found["misspelt"]["problem"]


def test_a_folder_whose_models_work_is_a_success(models: Path) -> None:
    done = check(models / "plain")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[1].startswith("plain 2.1.0")
    assert len(done.stdout.splitlines()) == 2
