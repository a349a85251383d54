"""Graphs of OpenVINO, an optional extra."""

from __future__ import annotations

import copy
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from inference_server.errors import ModelLoadError
from inference_server.models.backends import is_installed
from inference_server.models.backends.eager import Eager, given
from inference_server.models.backends.graphs import Graph, NoGraph, Shaped
from inference_server.models.backends.traced import trace
from inference_server.models.manifest import Backend, Precision

_FORMATS = {Precision.FLOAT32: "f32", Precision.BFLOAT16: "bf16", Precision.FLOAT16: "f16"}


def open_openvino(module: torch.nn.Module, precision: Precision) -> Shaped:
    """Return a module that OpenVINO computes; what it has no graph for is computed in the same precision.

    Raises:
        ModelLoadError: OpenVINO is not installed.
    """
    if not is_installed(Backend.OPENVINO):
        raise ModelLoadError(
            "The model asks for the backend openvino, which is not installed here; the extra `openvino` was expected."
        )
    exact = Eager(module)
    half = precision is not Precision.FLOAT32
    eager = Eager(copy.deepcopy(module), precision) if half else exact
    return Shaped(
        eager, lambda window: _make_graph(module, exact.taken(window), precision), copy_bytes=exact.size_bytes
    )


def _make_graph(module: torch.nn.Module, window: torch.Tensor, precision: Precision) -> Graph:
    openvino = _import_openvino()
    request = _compiled(openvino, trace(module, window), window.shape, precision).create_infer_request()

    def graph(window: torch.Tensor) -> torch.Tensor:
        inputs = window.float().contiguous().numpy()
        return given(torch.from_numpy(request.infer(openvino.Tensor(inputs, shared_memory=True), share_inputs=True)[0]))

    return graph


def _compiled(openvino: ModuleType, traced: torch.jit.ScriptModule, shape: torch.Size, precision: Precision) -> Any:
    from openvino.frontend import FrontEndManager, GeneralFailure, OpConversionFailure, OpValidationFailure
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # `openvino.convert_model` would do the same, but reads this process's arguments and changes its log.
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced)  # kept alive until it has been read
    try:
        model = frontend.convert(frontend.load(decoder))
        model.reshape(list(shape))
    except (GeneralFailure, OpConversionFailure, OpValidationFailure) as exc:
        raise NoGraph(f"OpenVINO cannot take it: {type(exc).__name__}") from exc
    options = {
        "INFERENCE_PRECISION_HINT": _FORMATS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # the other child reads and restores meanwhile, on any core
    }
    return openvino.Core().compile_model(model, "CPU", options)


def _import_openvino() -> ModuleType:
    """Import OpenVINO without what tells its makers of every import, over the network."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module("openvino")
