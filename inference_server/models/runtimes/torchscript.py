"""TorchScript archives."""

from __future__ import annotations

from pathlib import Path

import torch

from inference_server.models.runtimes.plain import PlainRuntime
from inference_server.models.runtimes.weights import load_script


class TorchScript(PlainRuntime):
    """Runs a scripted or traced network: architecture and weights in one file."""

    def open_module(self, path: Path, device: torch.device) -> torch.nn.Module:
        return load_script(path, device)
