"""The doors: every dialect that the API speaks, in one list."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from flask import Blueprint, Request, Response
from flask_openapi3.blueprint import APIBlueprint

from inference_server.api import mim, native
from inference_server.api.problems import Refusal, problem_response
from inference_server.api.sign_in import authorization
from inference_server.errors import SettingsError


@dataclass(frozen=True)
class Door:
    """A dialect.

    Attributes:
        name: its name.
        blueprint: its routes.
        answer_error: how it says that something went wrong.
        presented: finds the token that a request carries; a dialect with sessions looks at its cookie here.
        openable: whether `--open` may admit clients without a token to it.
    """

    name: str
    blueprint: Blueprint | APIBlueprint
    answer_error: Callable[[Refusal], Response] = problem_response
    presented: Callable[[Request], str | None] = authorization
    openable: bool = False

    @property
    def prefix(self) -> str:
        """What the paths of all its routes begin with."""
        return self.blueprint.url_prefix or "/"

    def is_at(self, path: str) -> bool:
        """Whether a path is one of this door, known or not."""
        return path == self.prefix or path.startswith(f"{self.prefix}/")


DOORS = (
    Door("native", native.blueprint),
    Door("mim", mim.blueprint, mim.answer_error, openable=True),
)


def door_at(path: str) -> Door | None:
    """Return the door that a path belongs to, or None."""
    return next((door for door in DOORS if door.is_at(path)), None)


def error_answerer(path: str) -> Callable[[Refusal], Response]:
    """Return what answers an error at a path: its door, or a problem document where there is none."""
    door = door_at(path)
    return door.answer_error if door else problem_response


def opened_dialects(names: Collection[str]) -> frozenset[str]:
    """Return the dialects that admit clients without a token, as a setting names them.

    Raises:
        SettingsError: one of them does not exist, or always needs a token.
    """
    openable = {door.name for door in DOORS if door.openable}
    if unknown := sorted(set(names) - openable):
        known = ", ".join(sorted(openable))
        raise SettingsError(
            f"The dialect '{unknown[0]}' cannot be opened to clients without a token (--open, INFERENCE_SERVER_OPEN). "
            f"These can: {known}."
        )
    return frozenset(names)
