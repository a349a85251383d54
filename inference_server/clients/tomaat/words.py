"""Words that came from a server, made harmless for a terminal and a file name."""

from __future__ import annotations

import re
from typing import Any

_NAME_LIMIT = 80


def plain_text(said: Any, *, lines: bool = False) -> str:
    """Return a text without characters that a terminal would obey; with `lines` it may have several."""
    kept = {"\n", "\t"} if lines else set()
    return "".join(sign if sign.isprintable() or sign in kept else " " for sign in str(said))


def file_stem(label: str, otherwise: str) -> str:
    """Return a label as the first part of a file name: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.-]+", "_", label).strip("._")[:_NAME_LIMIT] or otherwise
