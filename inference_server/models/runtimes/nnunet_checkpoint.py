"""Checkpoints as nnU-Net's trainers write them, read without running code of theirs."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inference_server.errors import ModelLoadError

Weights = Mapping[str, torch.Tensor]

_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
_NUMBERS = (np.bool_, np.int32, np.int64, np.float16, np.float32, np.float64)
_KNOWN: list[Any] = [
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # its name before numpy 2
    np.dtype,
    *(type(np.dtype(number)) for number in _NUMBERS),
]
"""What a training's log holds beside what torch reads anyway: numbers of numpy's."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a fold's checkpoint says.

    Attributes:
        weights: of the network, on the CPU.
        trainer: the name of the class that trained it, and that makes its network.
        configuration: which of the plans' configurations it is of.
        mirror_axes: of a window, along which the training mirrored; None where it did not.
    """

    weights: Weights
    trainer: str
    configuration: str
    mirror_axes: tuple[int, ...] | None


def read_checkpoint(path: Path, *, trusted: bool) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: `fold_0/checkpoint_final.pth`, say.
        trusted: whether reading may run code, where the file holds more than numbers and texts.

    Raises:
        ModelLoadError: it holds more than that and is not trusted, or it is no checkpoint of nnU-Net's.
    """
    name = f"{path.parent.name}/{path.name}"
    content = _read(path, name, trusted=trusted)
    try:
        axes = content.get("inference_allowed_mirroring_axes")
        return Checkpoint(
            {_plain(key): value for key, value in content["network_weights"].items()},
            str(content["trainer_name"]),
            str(content["init_args"]["configuration"]),
            tuple(int(axis) for axis in axes) if axes else None,
        )
    except (AttributeError, LookupError, TypeError, ValueError) as exc:
        raise ModelLoadError(f"{name} is no checkpoint that nnU-Net v2 wrote.") from exc


def _read(path: Path, name: str, *, trusted: bool) -> Any:
    try:
        with torch.serialization.safe_globals(_KNOWN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        if trusted:
            return torch.load(path, map_location="cpu", weights_only=False)
        raise ModelLoadError(
            f"{name} holds more than numbers and texts, so that reading it runs code. If you trust whoever made it, "
            "say so with `nnunet: {trust_checkpoint: true}` in model.yaml."
        ) from exc
    except (OSError, EOFError, RuntimeError) as exc:
        raise ModelLoadError(f"{name} is damaged, or no checkpoint of torch's.") from exc


def _plain(key: str) -> str:
    """Return a weight's name without what wrappers for several GPUs and for compiling put before it."""
    return key.removeprefix("module.").removeprefix("_orig_mod.")
