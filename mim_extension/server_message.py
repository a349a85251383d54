"""The sentence in an answer of a server, whatever shape the answer has."""

from __future__ import annotations

import json
from typing import Any

LONGEST = 600
_KEYS = ("message", "error", "detail", "title", "msg")


def server_message(body: bytes) -> str:
    """Find the sentence in the body of an answer.

    Args:
        body: a JSON string, or an object with ``message``, ``error``, ``detail`` or ``title``, or plain text.

    Returns:
        One line of at most 600 characters; empty where nothing readable was found, as in a proxy's HTML page.
    """
    text = body.decode("utf-8", errors="replace").strip()
    try:
        found = _sentence(json.loads(text))
    except (ValueError, RecursionError):
        found = "" if text.startswith("<") else text
    line = " ".join("".join(char if char.isprintable() else " " for char in found).split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _sentence(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return _sentence(value[0]) if value else ""
    if not isinstance(value, dict):
        return ""
    found = [_sentence(value[key]) for key in _KEYS if value.get(key)]
    return _with_detail(found[0], _sentence(value.get("detail"))) if found else ""


def _with_detail(sentence: str, detail: str) -> str:
    return sentence if detail in sentence else f"{sentence} {detail}"
