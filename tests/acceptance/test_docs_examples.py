"""The examples of README and docs, run as they stand against a running server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inference_server.stack.launch import LaunchedServer

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED_URL = "http://127.0.0.1:8000"
PAGES = ("docs/native-api.md", "docs/protocols/mim.md", "docs/protocols/tomaat.md")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like the repository's root, where examples may leave files."""
    (tmp_path / "inference_server").symlink_to(ROOT / "inference_server")
    shutil.copy(ROOT / "inference_server/models/zoo/ct-body/example.nii.gz", tmp_path / "ct.nii.gz")
    return tmp_path


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def environment() -> dict[str, str]:
    """Commands of the server's own Python come first, as after `source .venv/bin/activate`."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run_script(script: str, folder: Path) -> str:
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_and_no_answer_is_an_error(page: str, server: LaunchedServer, folder: Path) -> None:
    script = "\n".join(blocks(page, "console")).replace(DOCUMENTED_URL, server.url)
    output = run_script(script, folder)
    expected_refusals = {"not_finished", "conflict"}  # what comes before the end, and cancelling after it
    assert set(re.findall(r'"code": ?"(\w+)"', output)) <= expected_refusals


def test_the_python_of_the_readme_fetches_contours(server: LaunchedServer, folder: Path) -> None:
    [code] = blocks("README.md", "python")
    done = subprocess.run(
        [sys.executable, "-c", code.replace(DOCUMENTED_URL, server.url)], cwd=folder, timeout=120, check=False
    )
    assert done.returncode == 0
    assert (folder / "contours" / "BODY.nii.gz").is_file()


def test_the_submit_command_of_the_readme_fetches_contours(server: LaunchedServer, folder: Path) -> None:
    [command] = [block for block in blocks("README.md", "console") if "submit" in block]
    run_script(f"export INFERENCE_SERVER_SERVER={server.url}\n{command.replace('.venv/bin/', '')}", folder)
    assert (folder / "contours" / "BODY.nii.gz").is_file()
