"""MIM's Python is 3.8 with numpy, SimpleITK and requests: the extension must not need more."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import mim_extension

PACKAGE = Path(mim_extension.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed in this Python")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_python_3_8(path):
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))


def test_vermin_finds_nothing_that_python_3_8_lacks():
    need("vermin")
    start = "from vermin.main import main; main()"
    done = run("-c", start, "-t=3.8-", "--no-tips", "--violations", str(PACKAGE))
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing_wrong_for_python_3_8():
    need("ruff")
    options = ["--isolated", "--target-version", "py38", "--line-length", "120", "--select", "E,F,W,UP"]
    done = run("-m", "ruff", "check", *options, str(PACKAGE))
    assert done.returncode == 0, done.stdout + done.stderr


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level and node.module]
    return {name.split(".")[0] for name in plain + named}


@pytest.mark.skipif(sys.version_info < (3, 10), reason="this Python has no list of its own modules")
def test_only_what_mim_has_is_imported():
    allowed = {"numpy", "SimpleITK", "requests", "MIMPython"}
    foreign = {
        f"{path.name}: {name}" for path in FILES for name in imported(path) - allowed - set(sys.stdlib_module_names)
    }
    assert foreign == set()


def test_the_extension_never_imports_its_stand_ins():
    inside = [path for path in FILES if path.parent == PACKAGE]
    assert [path.name for path in inside if "testing" in path.read_text(encoding="utf-8")] == []


def test_the_readme_names_every_setting_and_entry_point():
    text = (PACKAGE / "readme").read_text(encoding="utf-8")
    settings = importlib.import_module("mim_extension.settings")
    names = [value for key, value in vars(settings).items() if key.endswith(("_VARIABLE", "_FILE"))]
    assert len(names) == 5
    assert [name for name in [*names, "InferenceServer1images", "InferenceServerGetFromUid"] if name not in text] == []
