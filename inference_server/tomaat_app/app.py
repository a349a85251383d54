"""A TOMAAT app: three functions that pass a dictionary on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Step = Callable[[Any], Any]


class TomaatApp:
    """Three steps, each a function or something else that can be called: it gets what the one before returned.

    The first gets a dictionary with a one-element list for each `destination` of the input interface; the last returns
    one with a value, or a one-element list, for each `field` of the output interface. Only `inference_fun` has the
    device to itself.
    """

    def __init__(self, preprocess_fun: Step, inference_fun: Step, postprocess_fun: Step) -> None:
        """Take the steps.

        Raises:
            TypeError: one of them cannot be called.
        """
        for step in (preprocess_fun, inference_fun, postprocess_fun):
            if not callable(step):
                raise TypeError(f"A step of an app is something that can be called; a {type(step).__name__} came.")
        self.preprocess_fun = preprocess_fun
        self.inference_fun = inference_fun
        self.postprocess_fun = postprocess_fun

    @property
    def steps(self) -> tuple[Step, Step, Step]:
        """The three, in their order."""
        return self.preprocess_fun, self.inference_fun, self.postprocess_fun

    def __call__(self, data: Any) -> Any:
        """Take all three steps, without a server."""
        for step in self.steps:
            data = step(data)
        return data
