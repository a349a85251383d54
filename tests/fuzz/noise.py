"""Damage to bytes, numbers and JSON. Every choice is the `Random`'s, so that a fuzzer can steer and repeat it."""

from __future__ import annotations

import json
import math
import struct
from random import Random
from typing import Any

INTEGERS = (0, 1, 2, 3, 7, 255, 256, 32_767, 32_768, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-30, 1e30, 3.4e38, float("inf"), -float("inf"), float("nan"))
WIDTHS = "<B", "<H", ">H", "<I", ">I", "<Q", ">Q", "<f", ">f"
ODD: tuple[Any, ...] = (
    None, True, "", "a\0b", "\ud800", "1", [], {}, [[]], -1, 0, 1.5, 1e308, -1e308, 10**30, 10**400, *FLOATS,
    [1, 1, 1], [2, 2, 2], [1, 0, 0, 0, 1, 0, 0, 0, 1], [32_767, 1, 1],
)  # fmt: skip
"""Values that readers of JSON may not have thought of."""
HOLE = "hole"


def damage(content: bytes, random: Random) -> bytes:
    """Return bytes with one thing changed: a bit, a number, a piece that is gone, twice there or moved."""
    kinds = (_flip, _number, _cut, _remove, _repeat, _insert, _shuffle)
    return random.choice(kinds)(bytearray(content or b"\0"), random)


def json_damage(content: bytes, random: Random) -> bytes:
    """Return JSON with a value replaced, removed, nested or added; bytes that are no JSON are damaged as such."""
    if random.random() < 0.15:
        return damage(content, random)
    try:
        changed = _changed(json.loads(content), random)
        text = json.dumps(changed, ensure_ascii=random.random() < 0.5).encode(errors="surrogatepass")
    except (ValueError, RecursionError):  # what can just be read may be too deep to be written
        return damage(content, random)
    return text.replace(f'"{HOLE}"'.encode(), _nested(random))


def number(random: Random) -> int | float:
    """Return a number at some border, or a small one."""
    return random.choice((*INTEGERS, *FLOATS, random.randrange(300), -random.randrange(300)))


def number_bytes(layout: str, value: int | float) -> bytes:
    """Return a number as `struct` packs it, the nearest that is possible, or what is left of a whole one."""
    if layout[1] == "f":
        return struct.pack(layout, value if not math.isfinite(value) or abs(value) < 3e38 else math.inf)
    whole = int(value) if math.isfinite(value) else 0
    return struct.pack(layout[0] + layout[1].upper(), whole % 256 ** struct.calcsize(layout))


def _changed(said: Any, random: Random, depth: int = 0) -> Any:
    if isinstance(said, dict) and said and random.random() < 0.9:
        key = random.choice(sorted(said))
        other = random.choice((key, "scaling_factor", "spacing", "direction", "name", "1", "\ud800"))
        rest = {name: value for name, value in said.items() if name != key}
        return {**rest, **({other: _changed(said[key], random, depth + 1)} if random.random() < 0.9 else {})}
    if isinstance(said, list) and said and depth < 5 and random.random() < 0.8:
        place = random.randrange(len(said))
        return [*said[:place], _changed(said[place], random, depth + 1), *said[place + random.randrange(2) :]]
    return HOLE if random.random() < 0.1 else random.choice(ODD)


def _nested(random: Random) -> bytes:
    """Return what goes into the hole: lists in lists, deeper than code that calls itself may go."""
    depth = random.choice((2, 50, 150, 300, 450, 600, 900, 2000))
    return b"[" * depth + b"]" * depth


def _flip(content: bytearray, random: Random) -> bytes:
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return bytes(content)


def _number(content: bytearray, random: Random) -> bytes:
    layout = random.choice(WIDTHS)
    size = struct.calcsize(layout)
    if len(content) < size:
        return _flip(content, random)
    packed = number_bytes(layout, number(random))
    at = random.randrange(len(content) - size + 1)
    content[at : at + size] = packed
    return bytes(content)


def _cut(content: bytearray, random: Random) -> bytes:
    return bytes(content[: random.randrange(len(content))])


def _span(content: bytearray, random: Random) -> slice:
    start = random.randrange(len(content))
    return slice(start, start + random.choice((1, 2, 4, 16, 128, 4096)))


def _remove(content: bytearray, random: Random) -> bytes:
    del content[_span(content, random)]
    return bytes(content)


def _repeat(content: bytearray, random: Random) -> bytes:
    span = _span(content, random)
    content[span] = content[span] * random.choice((2, 3, 64))
    return bytes(content)


def _insert(content: bytearray, random: Random) -> bytes:
    at = random.randrange(len(content) + 1)
    content[at:at] = bytes((random.choice((0, 255, 10, 45, 91, 123)),)) * random.choice((1, 2, 8, 500, 5000))
    return bytes(content)


def _shuffle(content: bytearray, random: Random) -> bytes:
    piece = content[_span(content, random)]
    at = random.randrange(len(content))
    content[at : at + len(piece)] = piece
    return bytes(content)
