"""Programs of `torch.export`."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import torch
from torch.export.passes import move_to_device_pass

from inference_server.errors import ModelLoadError, PredictionError
from inference_server.models.runtimes.plain import PlainRuntime


class Exported(PlainRuntime):
    """Runs an exported program: architecture and weights in one file.

    It takes the sizes that it was exported for: of windows, of the manifest's `prepare.size`, or dynamic ones.
    """

    def open_module(self, path: Path, device: torch.device) -> torch.nn.Module:
        try:
            program = torch.export.load(path)
        except (RuntimeError, ValueError, LookupError, OSError, BadZipFile) as exc:
            raise ModelLoadError(f"{path.name} is no program of torch.export.") from exc
        return _Guarded(move_to_device_pass(program, device).module()).requires_grad_(False)


class _Guarded(torch.nn.Module):
    """Says in words that the program was exported for other inputs."""

    def __init__(self, program: torch.nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, window: torch.Tensor) -> object:
        try:
            return self.program(window)
        except AssertionError as exc:
            size = " x ".join(map(str, window.shape))
            raise PredictionError(
                f"The exported program does not take an input of {size}. It takes the sizes that it was exported for."
            ) from exc
