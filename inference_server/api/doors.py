"""The doors: every dialect that the API speaks, in one list."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from flask import Blueprint, Request, Response
from flask_openapi3.blueprint import APIBlueprint

from inference_server.api import announcements, dss, metrics, mim, native, tomaat
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
        root_paths: what else it owns, beside what its blueprint's prefix begins; `/` is the root of the server alone.
    """

    name: str
    blueprint: Blueprint | APIBlueprint
    answer_error: Callable[[Refusal], Response] = problem_response
    presented: Callable[[Request], str | None] = authorization
    openable: bool = False
    root_paths: tuple[str, ...] = ()

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What the paths of its routes begin with."""
        prefix = self.blueprint.url_prefix
        return (prefix, *self.root_paths) if prefix else self.root_paths

    def reach(self, path: str) -> int:
        """Return the length of the longest of its prefixes that a path has, known or not; 0 if it is not its path."""
        fitting = (prefix for prefix in self.prefixes if path == prefix or path.startswith(f"{prefix.rstrip('/')}/"))
        return max((len(prefix) for prefix in fitting if prefix != "/" or path == "/"), default=0)


IMAGE_SOCKET = "image-socket"
"""The dialect that speaks no HTTP. Its clients may be admitted without a token, too."""

DOORS = (
    Door("native", native.blueprint, root_paths=(metrics.PATH,)),
    Door("mim", mim.blueprint, mim.answer_error, openable=True),
    Door("tomaat", tomaat.blueprint, tomaat.answer_error, openable=True, root_paths=tomaat.ROOT_PATHS),
    Door("announcements", announcements.blueprint, announcements.answer_error, root_paths=announcements.PATHS),
    Door("dss", dss.blueprint, dss.answer_error, presented=dss.presented, root_paths=dss.PATHS),
)


def door_at(path: str) -> Door | None:
    """Return the door that a path belongs to, or None; of several the one with the longest prefix."""
    nearest = max(DOORS, key=lambda door: door.reach(path))
    return nearest if nearest.reach(path) else None


def error_answerer(path: str) -> Callable[[Refusal], Response]:
    """Return what answers an error at a path: its door, or a problem document where there is none."""
    door = door_at(path)
    return door.answer_error if door else problem_response


def opened_dialects(names: Collection[str]) -> frozenset[str]:
    """Return the dialects that admit clients without a token, as a setting names them.

    Raises:
        SettingsError: one of them does not exist, or always needs a token.
    """
    openable = {door.name for door in DOORS if door.openable} | {IMAGE_SOCKET}
    if unknown := sorted(set(names) - openable):
        known = ", ".join(sorted(openable))
        raise SettingsError(
            f"The dialect '{unknown[0]}' cannot be opened to clients without a token (--open, INFERENCE_SERVER_OPEN). "
            f"These can: {known}."
        )
    return frozenset(names)
