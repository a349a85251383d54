"""A script's app in a worker, as a Python app of the server."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from inference_server.errors import PredictionError
from inference_server.models.app import Context
from inference_server.models.case import Case, Result
from inference_server.settings import load_settings
from inference_server.tomaat_app.answers import result_of
from inference_server.tomaat_app.current import working_on
from inference_server.tomaat_app.given import data_of
from inference_server.tomaat_app.inference import Inference
from inference_server.tomaat_app.named import names_understood
from inference_server.tomaat_app.script import read_script, run_script
from inference_server.tomaat_app.service import TomaatService

PRECISIONS = "precision"
"""Folder of the data folder in which workers note what computes a network best."""


class ScriptApp:
    """Runs the app that a script would have served.

    Args:
        folder: of the model, which `write_folder` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._service: TomaatService
        self._files: TemporaryDirectory[str] | None = None

    @property
    def size_bytes(self) -> int:
        """Memory of what is loaded."""
        return sum(step.size_bytes for step in self._service.app.steps if isinstance(step, Inference))

    def load(self, device: object) -> None:
        """Run the script up to `run()`, and load what its steps need."""
        with working_on(None), names_understood():
            self._service = cast(TomaatService, run_script(read_script(self._folder)))
            for step in self._service.app.steps:
                if isinstance(step, Inference):
                    step.prepare_for(str(device), load_settings().data_dir / PRECISIONS)

    def pre(self, case: Case, context: Context) -> Any:
        """Return what the app's first step makes of a case."""
        with working_on(context), names_understood(), ExitStack() as unless_done:
            unless_done.callback(self._remove_files)
            data = data_of(case, self._service.inputs, self._files_in, as_files=self._service.checked.as_files)
            prepared = self._service.app.preprocess_fun(data)
            unless_done.pop_all()
            return prepared

    def infer(self, data: Any, context: Context) -> Any:
        """Return what its second step makes of that."""
        with working_on(context), names_understood(), ExitStack() as unless_done:
            unless_done.callback(self._remove_files)
            inferred = self._service.app.inference_fun(data)
            unless_done.pop_all()
            return inferred

    def post(self, data: Any, context: Context) -> Result:
        """Return its answer as a result."""
        with working_on(context), names_understood(), ExitStack() as finally_:
            finally_.callback(self._remove_files)
            answer = self._service.app.postprocess_fun(data)
            if not isinstance(answer, dict):
                raise PredictionError("The app's last step is expected to return a dictionary.")
            return result_of(answer, self._service.outputs, context.case)

    def _files_in(self) -> Path:
        """Return the folder of the case, which is made once a file is wanted."""
        self._files = self._files or TemporaryDirectory()
        return Path(self._files.name)

    def _remove_files(self) -> None:
        if self._files:
            self._files.cleanup()
        self._files = None
