"""Sizes in words, for sentences."""

from __future__ import annotations

_UNITS = ((1024**3, "GiB"), (1024**2, "MiB"))


def size_text(size_bytes: int) -> str:
    """Return a size in GiB or MiB with one decimal, or in bytes below one MiB."""
    for unit_bytes, unit in _UNITS:
        if size_bytes >= unit_bytes:
            return f"{size_bytes / unit_bytes:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size_bytes} bytes"
