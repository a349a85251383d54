"""Coded terms: what a structure is called in a terminology, as DICOM names schemes and values."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

_TURN = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
"""The permutation of Verhoeff's scheme that each further digit is put through once more."""


def _check(code: str) -> str:
    """Return a code that is written as one; of SNOMED CT's also the check digit is looked at."""
    if not re.fullmatch(r"[A-Z][A-Z0-9_-]{0,15}:\S{1,64}", code):
        raise ValueError("`scheme:value` was expected, such as SCT:39607008")
    scheme, _, value = code.partition(":")
    if scheme == "SCT" and not is_sctid(value):
        raise ValueError("the last digit of this SNOMED CT code does not fit the others; it is mistyped")
    return code


Code = Annotated[str, AfterValidator(_check)]


def is_sctid(text: str) -> bool:
    """Whether a text is written like an identifier of SNOMED CT: 6 to 18 digits, the last of which checks the others.

    Source:
        SNOMED CT Release File Specifications, 5.5: Verhoeff's dihedral check.
    """
    if not re.fullmatch(r"[1-9][0-9]{5,17}", text):
        return False
    found = 0
    for position, digit in enumerate(reversed(text)):
        found = _product(found, _turned(int(digit), position % 8))
    return found == 0


def _turned(digit: int, times: int) -> int:
    for _ in range(times):
        digit = _TURN[digit]
    return digit


def _product(left: int, right: int) -> int:
    """Return the product of two elements of the group of a pentagon's rotations (0 to 4) and reflections (5 to 9)."""
    turned = (left + right) % 5 if left < 5 else (left - right) % 5
    return turned + 5 * ((left < 5) != (right < 5))
