from __future__ import annotations

import re

import pytest

from inference_server import errors
from inference_server.errors import InferenceServerError, all_errors


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    drawn = set(re.findall(r"(\w+) +([a-z_]+) +(\d{3})$", errors.__doc__ or "", re.MULTILINE))
    real = {(error.__name__, error.code, str(error.status)) for error in all_errors()}
    assert drawn == {row for row in real if row[0] in vars(errors)}


@pytest.mark.parametrize("error", all_errors())
def test_without_a_message_the_docstring_is_shown(error: type[InferenceServerError]) -> None:
    if error.__module__ == errors.__name__:
        assert error().message == (error.__doc__ or "").split("\n\n")[0].strip()


def test_codes_are_unique() -> None:
    codes = [error.code for error in all_errors() if "code" in vars(error)]
    assert len(set(codes)) == len(codes)
