"""The doors: every dialect that the API speaks, in one list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flask import Blueprint, Response
from flask_openapi3.blueprint import APIBlueprint

from inference_server.api import mim, native
from inference_server.api.problems import Refusal, problem_response


@dataclass(frozen=True)
class Door:
    """A dialect: its routes, and how it says that something went wrong."""

    name: str
    blueprint: Blueprint | APIBlueprint
    answer_error: Callable[[Refusal], Response] = problem_response

    @property
    def prefix(self) -> str:
        """What the paths of all its routes begin with."""
        return self.blueprint.url_prefix or "/"

    def is_at(self, path: str) -> bool:
        """Whether a path is one of this door, known or not."""
        return path == self.prefix or path.startswith(f"{self.prefix}/")


DOORS = (
    Door("native", native.blueprint),
    Door("mim", mim.blueprint, mim.answer_error),
)


def error_answerer(path: str) -> Callable[[Refusal], Response]:
    """Return what answers an error at a path: its door, or a problem document where there is none."""
    return next((door.answer_error for door in DOORS if door.is_at(path)), problem_response)
