"""The network that nnU-Net's plans and trainer describe, and how it is watched while nnunetv2 leads it over a case."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import nnunetv2.training.nnUNetTrainer
import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from inference_server.errors import Cancelled, ModelLoadError
from inference_server.models.manifest import Precision
from inference_server.models.network import DTYPES, Network
from inference_server.models.runtimes.nnunet_checkpoint import Weights


def make_network(
    trainer: str, plans: PlansManager, configuration: ConfigurationManager, dataset: dict[str, Any]
) -> torch.nn.Module:
    """Return the network of a trainer and its plans, without weights.

    Raises:
        ModelLoadError: nnunetv2 has no such trainer, or the network cannot be made.
    """
    channels = determine_num_input_channels(plans, configuration, dataset)
    heads = plans.get_label_manager(dataset).num_segmentation_heads
    try:
        network: torch.nn.Module = find_trainer(trainer).build_network_architecture(
            plans, configuration, channels, heads, enable_deep_supervision=False
        )
    except ImportError as exc:
        raise ModelLoadError(f"The network of the plans cannot be made here: {exc}.") from exc
    return network


def find_trainer(name: str) -> Any:
    """Return a trainer's class. Only the module that defines it is imported: others need packages that are not here.

    Raises:
        ModelLoadError: nnunetv2 has none of this name.
    """
    trainers = nnunetv2.training.nnUNetTrainer
    root = Path(next(iter(trainers.__path__)))
    for path in sorted(root.rglob("*.py")):
        if re.search(rf"^class {re.escape(name)}\b", path.read_text(encoding="utf-8"), re.MULTILINE):
            module = ".".join(path.relative_to(root).with_suffix("").parts)
            return getattr(import_module(f"{trainers.__name__}.{module}"), name)
    raise ModelLoadError(
        f"The model was trained by '{name}', which nnunetv2 does not have here. If that changed nothing in the "
        "network, `nnunet: {trainer: nnUNetTrainer}` in model.yaml has it made as the plans say."
    )


class WatchedNetwork:
    """Stands where nnunetv2's predictor expects its network.

    The predictor leaves a thread with the image behind when anything is raised through it. Therefore nothing is: after
    a failure or a cancellation scores are zero without computing, and `finish` raises what happened.
    """

    def __init__(self, module: torch.nn.Module, heads: int, device: torch.device) -> None:
        self._module, self._heads, self._device = module, heads, device
        self._network = Network(module)
        self._precision = Precision.FLOAT32
        self._failure: Exception | None = None
        self._calls, self._done = 1, 0
        self._progress: Callable[[float], None] = lambda _: None
        self._cancelled: Callable[[], bool] = lambda: False

    @property
    def size_bytes(self) -> int:
        """Memory of the parameters and buffers."""
        tensors = chain(self._module.parameters(), self._module.buffers())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def use(self, precision: Precision) -> None:
        """Compute in a precision: on a GPU by torch's autocast, as nnU-Net does, on a CPU by converting the network."""
        self._precision = precision
        if self._device.type == "cpu":
            self._network.use(precision)

    def start(self, progress: Callable[[float], None], cancelled: Callable[[], bool]) -> None:
        """Begin a case."""
        self._failure, self._done, self._calls = None, 0, 1
        self._progress, self._cancelled = progress, cancelled

    def expect(self, calls: int) -> None:
        """Say how many calls the case takes."""
        self._calls = calls

    def finish(self) -> None:
        """End a case.

        Raises:
            Cancelled: the task was cancelled meanwhile.
            RuntimeError: the network failed.
        """
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    @property
    def stopped(self) -> bool:
        """Whether nothing more is computed in this case."""
        return self._failure is not None

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        """Return the scores of a window, or zeros once the case is over."""
        if self._failure is None and self._cancelled():
            self._failure = Cancelled()
        if self._failure is None:
            try:
                scores = self._scores(window)
            except RuntimeError as exc:
                self._failure = exc
            else:
                self._done += 1
                self._progress(min(1.0, self._done / self._calls))
                return scores
        return window.new_zeros(len(window), self._heads, *window.shape[2:])

    def _scores(self, window: torch.Tensor) -> torch.Tensor:
        if self._device.type == "cpu":
            return self._network(window)
        exact = self._precision is Precision.FLOAT32
        with torch.autocast(self._device.type, None if exact else DTYPES[self._precision], enabled=not exact):
            scores: torch.Tensor = self._module(window)
        return scores

    def load_state_dict(self, weights: Weights) -> None:
        """Take a fold's weights, as a module does."""
        self._module.load_state_dict(weights)

    def to(self, device: torch.device) -> WatchedNetwork:
        """Move to a device, as a module does."""
        self._module.to(device)
        return self

    def eval(self) -> None:
        """Be ready to predict, as a module is."""
        self._module.eval()
