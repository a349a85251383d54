"""Python apps: a function, or an object with `pre`, `infer` and `post`, that gets the case as it is."""

from __future__ import annotations

import importlib
import sys
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch

from inference_server.errors import ModelLoadError
from inference_server.models.answer import as_result
from inference_server.models.app import Context, Verb
from inference_server.models.case import Case, Result
from inference_server.models.hooks import NO_HOOKS, Hooks
from inference_server.models.registry import Model
from inference_server.models.runtimes.base import Prediction, Prepared, Runtime

_NAMES = {"prepare": ("prepare", "pre"), "predict": ("predict", "infer"), "restore": ("restore", "post")}
"""The runtime's verbs, and what an app may call them."""


class PythonApp(Runtime):
    """Runs an app of the operator's own repository; from `load` on its code runs. See `inference_server.models.app`."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._device = "cpu"
        self._hooks: Hooks = NO_HOOKS
        self._app: object = None
        self._verbs: dict[str, Verb] = {}

    @property
    def size_bytes(self) -> int:
        """What the app says of itself, if it does."""
        return int(getattr(self._app, "size_bytes", 0))

    def load(self, device: torch.device) -> None:
        self._device = str(device)
        self._app = self._find()
        self._verbs = find_verbs(self._app)
        if not isinstance(self._app, ModuleType) and callable(load := getattr(self._app, "load", None)):
            load(device)

    def attend(self, hooks: Hooks) -> None:
        self._hooks = hooks

    def prepare(self, case: Case) -> Prepared:
        context = Context(case, self.model.folder.absolute(), self._device, self._hooks)
        data = self._verbs["prepare"](case, context)
        return Prepared(case, torch.empty(0), np.eye(4), {"data": data, "context": context})

    def predict(
        self, prepared: Prepared, *, progress: Callable[[float], None], cancelled: Callable[[], bool]
    ) -> Prediction:
        answer = self._verbs["predict"](prepared.context["data"], prepared.context["context"])
        return Prediction(prepared, torch.empty(0), {"answer": answer})

    def restore(self, prediction: Prediction) -> Result:
        context = prediction.prepared.context["context"]
        answer = self._verbs["restore"](prediction.context["answer"], context)
        return as_result(answer, prediction.prepared.case, self.model.manifest)

    def _find(self) -> object:
        declared = self.model.manifest.app or ""
        place, _, name = declared.partition(":")
        file = self.model.manifest.app_file
        try:
            module = self._import_file(file) if file else importlib.import_module(place)
            found = getattr(module, name)
            return found() if isinstance(found, type) else found
        except (ImportError, SyntaxError, AttributeError, TypeError) as exc:
            why = str(exc).partition(" (/")[0]  # what follows is a path
            raise ModelLoadError(f"The app {declared} cannot be made: {type(exc).__name__}: {why}.") from exc

    def _import_file(self, file: str) -> ModuleType:
        """Import the app as a module of a package of this folder alone, so that it stays importable: pickle needs that.

        The modules are forgotten with the runtime.
        """
        package = ModuleType(f"model_{uuid.uuid4().hex}")
        package.__path__ = [str(self.model.folder.absolute())]
        sys.modules[package.__name__] = package
        weakref.finalize(self, forget, package.__name__)
        importlib.invalidate_caches()
        return importlib.import_module(".".join([package.__name__, *Path(file).with_suffix("").parts]))


def find_verbs(app: object) -> dict[str, Verb]:
    """Return what an app does for each verb of a runtime.

    Raises:
        ModelLoadError: it is no function and has neither `infer` nor `predict`.
    """
    verbs: dict[str, Any] = {
        verb: next((found for name in names if callable(found := getattr(app, name, None))), None)
        for verb, names in _NAMES.items()
    }
    verbs["predict"] = verbs["predict"] or (app if callable(app) else None)
    if verbs["predict"] is None:
        raise ModelLoadError("The app is expected to be a function, or to have `infer` or `predict`.")
    return {verb: cast(Verb, found or _unchanged) for verb, found in verbs.items()}


def forget(package: str) -> None:
    """Drop a package and its modules."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]


def _unchanged(data: object, _: Context) -> object:
    return data
