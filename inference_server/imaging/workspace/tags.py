"""Tags: words parted by commas."""

from __future__ import annotations

from collections.abc import Iterable


def split_tags(text: str) -> tuple[str, ...]:
    """Return the tags of a text, each once, without blanks around them."""
    return tuple(dict.fromkeys(tag for word in text.split(",") if (tag := word.strip())))


def join_tags(tags: Iterable[str]) -> str:
    """Return the text of tags."""
    return ",".join(tags)
