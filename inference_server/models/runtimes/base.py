"""What every runtime does: four verbs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference_server.errors import ModelLoadError, PredictionError
from inference_server.models.backends import Mode
from inference_server.models.case import Case, Result, Segmentation
from inference_server.models.compiled import Compiled
from inference_server.models.hooks import Hooks
from inference_server.models.manifest import Backend, Precision
from inference_server.models.network import Network
from inference_server.models.registry import Model
from inference_server.models.trouble import Effort


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case as the network takes it.

    Attributes:
        case: where it comes from.
        inputs: ``(C, A, B, C)`` float32 on the CPU.
        affine: 4 x 4 float64 from an index of `inputs` to LPS millimetres.
        context: what else the runtime's own `restore` needs.
    """

    case: Case
    inputs: torch.Tensor
    affine: NDArray[np.float64]
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network gave for a case, on the grid of `Prepared.inputs`.

    Attributes:
        prepared: what it was computed from.
        scores: ``(classes, A, B, C)`` floating, of a classification ``(classes,)``, on the CPU; `restore` may
            overwrite it.
        context: what else the runtime's own `restore` needs.
        segmentations: what has been decided already, where the scores of the whole case would have been too large;
            there are no scores then.
        notes: what was degraded and why, in sentences.
    """

    prepared: Prepared
    scores: torch.Tensor
    context: Mapping[str, Any] = field(default_factory=dict)
    segmentations: tuple[Segmentation, ...] = ()
    notes: tuple[str, ...] = ()


class Runtime(ABC):
    """Executes one model. Making one costs nothing; `load` does the work. Used by one thread at a time."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.precision = Precision.FLOAT32
        self.backend = Backend.EAGER
        self.effort = Effort()
        """How much memory `predict` may take."""
        self._code: Compiled | None = None

    @property
    def size_bytes(self) -> int:
        """Memory that the loaded model takes on its device."""
        return 0

    @property
    def batch(self) -> int | None:
        """How many windows the network is given at a time; None where it sees the case at once."""
        return None

    @property
    def light(self) -> bool:
        """Whether a case takes so little of the device that others may be computed beside it, in fewer threads each."""
        return False

    @property
    def preparation(self) -> str | None:
        """What `prepare` depends on besides the case; models of one text share it. None: it is not shared."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not done as the manifest asks for, and why, in sentences."""
        return self._code.notes if self._code else ()

    def _compiled(self, network: torch.nn.Module) -> torch.nn.Module:
        """Return a loaded network, compiled if the manifest wants it."""
        self._code = Compiled(network) if self.model.manifest.compile else None
        return self._code or network

    @property
    def network(self) -> Network | None:
        """The loaded network, where any backend can compute it."""
        return None

    def compute(self, mode: Mode) -> None:
        """Compute in another way from here on; what a half precision has rounded only `load` undoes.

        Raises:
            ModelLoadError: the backend is not installed.
        """
        if self.network:
            self.network.use(mode.precision, mode.backend)
        else:
            self.use(mode.precision)
        self.precision, self.backend = mode.precision, mode.backend

    @property
    def choosable(self) -> bool:
        """Whether `use` can change the precision."""
        return False

    def use(self, precision: Precision) -> None:
        """Compute in another precision from here on; only `load` leads back to float32.

        Raises:
            ModelLoadError: this runtime knows no other; it is not `choosable`.
        """
        raise ModelLoadError(f"The model '{self.model.id}' can be computed in float32 only.")

    def attend(self, hooks: Hooks) -> None:  # noqa: B027 - most runtimes speak in `predict` only
        """Be told, before a case is prepared, who listens to its run."""

    @abstractmethod
    def load(self, device: torch.device) -> None:
        """Bring the model onto the device, in float32.

        Raises:
            ModelLoadError: its files are not what they should be.
        """

    @abstractmethod
    def prepare(self, case: Case) -> Prepared:
        """Turn a case into what the network takes. The case is not modified."""

    @abstractmethod
    def predict(
        self, prepared: Prepared, *, progress: Callable[[float], None], cancelled: Callable[[], bool]
    ) -> Prediction:
        """Run the network.

        Args:
            prepared: not modified.
            progress: told the done fraction, 0 to 1.
            cancelled: asked before each window.

        Raises:
            Cancelled: `cancelled` said so.
            PredictionError: the network gave something unusable.
        """

    def probabilities(self, prediction: Prediction) -> torch.Tensor:
        """Return a prediction's scores ``(classes, A, B, C)`` as probabilities; the prediction is overwritten.

        Raises:
            PredictionError: the model gives labels only.
        """
        raise PredictionError(f"The model '{self.model.id}' gives labels, of which no mean can be taken.")

    @abstractmethod
    def restore(self, prediction: Prediction) -> Result:
        """Bring a prediction onto the case's contour grid. Returns a result with an empty report."""
