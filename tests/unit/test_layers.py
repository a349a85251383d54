"""Who may import whom, and where everything may be caught: the architecture, kept by tests."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "inference_server"

ALLOWED = {
    "imaging": {"errors"},
    "models": {"errors", "imaging", "settings"},
    "tasks": {"errors", "imaging", "settings", "models"},
    "api": {"errors", "imaging", "settings", "models", "tasks", "logs"},
    "clients": {"errors", "imaging"},
    "stack": {"errors", "settings", "tasks", "logs"},
    "tomaat_app": {"errors", "imaging", "settings", "models", "stack", "logs", "tomaat_app"},
}
FORBIDDEN_ANYWHERE_IN = {
    "imaging": {"flask", "celery", "kombu", "redis", "torch", "monai"},
    "models": {"flask", "celery", "kombu", "redis"},
    "api": {"torch", "monai", "nnunetv2", "vtk", "celery", "kombu", "redis"},
    "clients": {"flask", "celery", "kombu", "redis", "torch", "monai"},
    "tomaat_app": {"flask", "celery", "kombu", "redis"},
}
BOUNDARIES = {
    # module: the outermost boundary at which every exception may be caught
    "mim_extension/entry.py": "a call of MIM",
    "api/app.py": "a request",
    "api/image_socket/server.py": "a connection",
    "models/predictor.py": "a model's own code",
    "tasks/housekeeping.py": "a sweep",
    "tasks/runner.py": "a task",
    "tasks/tickets/linked.py": "a ticket in a sweep",
}


def modules(folder: str) -> Iterator[Path]:
    return (path for path in (PACKAGE / folder).rglob("*.py") if "zoo" not in path.parts)


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("layer", sorted(ALLOWED))
def test_a_layer_imports_only_the_layers_below_it(layer: str) -> None:
    wrong = {
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in modules(layer)
        for name in imported(path)
        if name.startswith("inference_server.") and name.split(".")[1] not in ALLOWED[layer] | {layer}
    }
    assert not wrong


@pytest.mark.parametrize("layer", sorted(FORBIDDEN_ANYWHERE_IN))
def test_a_layer_does_not_know_the_libraries_of_others(layer: str) -> None:
    wrong = {
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in modules(layer)
        for name in imported(path)
        if name.split(".")[0] in FORBIDDEN_ANYWHERE_IN[layer]
    }
    assert not wrong


def test_only_the_queue_and_the_worker_talk_to_the_broker() -> None:
    talkers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for name in imported(path)
        if name.split(".")[0] in {"celery", "kombu", "redis", "billiard"}
    }
    assert talkers <= {"tasks/queue.py", "tasks/worker.py", "tasks/children.py"}


def test_the_mim_extension_knows_nothing_of_the_server() -> None:
    names = {name for path in (ROOT / "mim_extension").rglob("*.py") for name in imported(path)}
    assert not {name for name in names if name.startswith("inference_server")}


def test_dialects_do_not_import_each_other() -> None:
    dialects = {path.name for path in (PACKAGE / "api").iterdir() if (path / "__init__.py").is_file()}
    wrong = {
        f"{path.relative_to(PACKAGE)} imports {name}"
        for dialect in dialects
        for path in modules(f"api/{dialect}")
        for name in imported(path)
        for other in dialects - {dialect}
        if name.startswith(f"inference_server.api.{other}")
    }
    assert dialects
    assert not wrong


def catches_everything(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "register_error_handler":
        return getattr(node.args[0], "id", "") == "Exception"
    if not isinstance(node, ast.ExceptHandler):
        return False
    return node.type is None or getattr(node.type, "id", "") in {"Exception", "BaseException"}


def test_everything_is_caught_only_at_the_listed_boundaries() -> None:
    places = [
        *((PACKAGE, path) for path in modules(".")),
        *((ROOT, path) for path in (ROOT / "mim_extension").rglob("*.py")),
    ]
    found = {
        str(path.relative_to(base))
        for base, path in places
        for node in ast.walk(ast.parse(path.read_text()))
        if catches_everything(node)
    }
    assert found == set(BOUNDARIES)


@pytest.mark.parametrize("module", ["inference_server.api.app", "inference_server.models.registry"])
def test_the_api_loads_no_model_library(module: str) -> None:
    heavy = "{'torch', 'monai', 'nnunetv2', 'vtk', 'SimpleITK', 'scipy'}"
    code = f"import sys, {module}; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
