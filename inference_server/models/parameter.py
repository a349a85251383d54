"""A parameter: a value that a model's users may set."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from inference_server.errors import BadRequest
from inference_server.models.declared import Declared


class Parameter(Declared):
    """One value that a user may set: a number, a text, a flag or a choice."""

    name: str = Field(min_length=1)
    type: Literal["number", "integer", "text", "flag", "choice"]
    default: float | int | str | bool | None = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    description: str = ""

    @model_validator(mode="after")
    def _range_fits(self) -> Parameter:
        is_number = self.type in ("number", "integer")
        if not is_number and (self.minimum is not None or self.maximum is not None):
            raise ValueError(f"`minimum` and `maximum` are of numbers; the type is {self.type}")
        if None not in (self.minimum, self.maximum) and self.minimum > self.maximum:  # type: ignore[operator]
            raise ValueError("`minimum` is above `maximum`")
        if (self.type == "choice") != bool(self.choices):
            raise ValueError("`choices` and `type: choice` belong together")
        return self

    @model_validator(mode="after")
    def _default_fits(self) -> Parameter:
        if self.default is not None:
            try:
                self.check(self.default)
            except BadRequest as error:
                raise ValueError(f"the default does not fit: {error.message}") from error
        return self

    def check(self, value: Any) -> float | int | str | bool:
        """Return `value` in this parameter's type.

        Raises:
            BadRequest: it is of another type, out of range or not one of the choices.
        """
        match self.type:
            case "number" | "integer":
                return self._number(value)
            case "flag":
                return self._flag(value)
            case "choice" if value not in self.choices:
                raise self._refusal(f"one of {', '.join(self.choices)}", value)
        if not isinstance(value, str):
            raise self._refusal("a text", value)
        return value

    def _number(self, value: Any) -> float | int:
        number = _as_number(value)
        whole = self.type == "integer"
        low, high = self.minimum, self.maximum
        inside = number is not None and (low is None or number >= low) and (high is None or number <= high)
        if number is None or not inside or (whole and number != int(number)):
            kind = "a whole number" if whole else "a number"
            raise self._refusal(kind + _range(low, high), value)
        return int(number) if whole else number

    def _flag(self, value: Any) -> bool:
        flags = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        flag = flags.get(str(value).lower())
        if flag is None:
            raise self._refusal("true or false", value)
        return flag

    def _refusal(self, expected: str, value: Any) -> BadRequest:
        shown = str(value)[:50]
        return BadRequest(f"The parameter '{self.name}' must be {expected}; '{shown}' came.", field=self.name)


def _range(low: float | None, high: float | None) -> str:
    """Return in words between which values a number has to be."""
    if low is not None and high is not None:
        return f" from {low:.10g} to {high:.10g}"
    return f" not below {low:.10g}" if low is not None else f" not above {high:.10g}" if high is not None else ""


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
