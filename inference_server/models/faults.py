"""What is wrong with a `model.yaml`: the line, the key and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from inference_server.models.declared import known_keys

Place = Sequence[str | int]
PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$": "1 to 100 letters, digits, dots, dashes or underscores were",
    r"^[A-Za-z0-9._-]{1,50}$": "1 to 50 letters, digits, dots, dashes or underscores were",
    r"^(([\w-]+/)*\w+\.py|\w+(\.\w+)*):\w+$": "`file.py:name` or `package.module:name` was",
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(:.+)?$": "`id` or `id:version` was",
    r"^(\w+(\.\w+)+|\w+\.py:\w+)$": "`package.module.Class` or `file.py:Class` was",
    r"^\w+$": "a name of letters, digits and underscores was",
}
"""What the patterns of all keys mean."""


def describe_faults(error: ValidationError, written: str) -> str:
    """Return all faults in one sentence; `written` is the YAML text, as far as there is one."""
    root = yaml.compose(written, Loader=yaml.SafeLoader) if written else None
    return "; ".join(_describe(fault, root) for fault in error.errors(include_url=False))


def line_of(root: yaml.Node | None, place: Place) -> int | None:
    """Return the line, counted from 1, of the innermost key or item on the way to a place; None if there is none."""
    line = None
    for part in place:
        mark, root = _child(root, part) or (None, root)
        line = mark.line + 1 if mark else line
    return line


def _child(node: yaml.Node | None, part: str | int) -> tuple[yaml.Mark, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key.start_mark, value) for key, value in node.value if key.value == str(part)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark, node.value[part]
    return None


def _describe(fault: Any, root: yaml.Node | None) -> str:
    place = _as_written(fault["loc"], root)
    key = ".".join(map(str, place)) or "manifest"
    line = line_of(root, place)
    return f"{f'line {line}, ' if line else ''}{key}: {_expectation(fault)}"


def _as_written(place: Place, root: yaml.Node | None) -> Place:
    """Return the place of a key of `resources` that stands in its short form, at the top."""
    top = [key.value for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
    return place[1:] if place[0:1] == ("resources",) and place[1:] and place[1] in top else place


def _expectation(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return f"this key is unknown{_suggestion(str(fault['loc'][-1]))}"
    if fault["type"] == "missing":
        return "this key is missing"
    found = fault["input"]
    came = f"; {str(found)[:50]!r} came" if isinstance(found, str | int | float | None) else ""
    return _words(fault) + came


def _words(fault: Any) -> str:
    """Return what was expected; of a pattern, what it means."""
    if fault["type"] == "string_pattern_mismatch" and fault["ctx"]["pattern"] in PATTERNS:
        return f"{PATTERNS[fault['ctx']['pattern']]} expected"
    if fault["type"] == "literal_error":
        return f"{fault['ctx']['expected']} was expected"
    return str(fault["msg"]).removeprefix("Value error, ")


def _suggestion(key: str) -> str:
    [near] = difflib.get_close_matches(key, sorted(set(known_keys())), n=1) or [""]
    return f", did you mean '{near}'?" if near and near != key else ""
