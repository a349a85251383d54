"""Sizes in words, for sentences."""

from __future__ import annotations

from inference_server.errors import TooLarge

_UNITS = ((1024**3, "GiB"), (1024**2, "MiB"))


def size_text(size_bytes: int) -> str:
    """Return a size in GiB or MiB with one decimal, or in bytes below one MiB."""
    for unit_bytes, unit in _UNITS:
        if size_bytes >= unit_bytes:
            return f"{size_bytes / unit_bytes:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size_bytes} bytes"


def check_declared(shape: tuple[int, ...], array_bytes: int, limit_bytes: int) -> None:
    """Refuse an image whose header declares too large an array.

    Raises:
        TooLarge: it takes more than `limit_bytes`.
    """
    if array_bytes > limit_bytes:
        lengths = " x ".join(str(length) for length in shape)
        raise TooLarge(
            f"The image declares {lengths} voxels, {size_text(array_bytes)}; "
            f"this server takes {size_text(limit_bytes)} at most."
        )
