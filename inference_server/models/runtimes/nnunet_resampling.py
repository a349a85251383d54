"""How nnU-Net's plans bring scores to the voxels of a case."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

_LINEAR: Mapping[str, Mapping[str, Any]] = {
    "resample_data_or_seg_to_shape": {"is_seg": False, "order": 1, "order_z": 0},
    "resample_torch_fornnunet": {"is_seg": False, "mode": "linear", "aniso_axis_mode": "nearest-exact"},
    "no_resampling_hack": {},
}
"""nnunetv2's functions that bring scores to a case's voxels by linear interpolation, and the arguments with which they
do; where voxels are much longer along one axis, they take the nearest slice along that."""


def interpolates(configuration: ConfigurationManager) -> bool:
    """Whether a configuration interpolates scores linearly."""
    known = _LINEAR.get(configuration.configuration["resampling_fn_probabilities"])
    return known is not None and known.items() <= _arguments(configuration).items()


def nearest_axis(configuration: ConfigurationManager, spacing_mm: Sequence[float]) -> int | None:
    """Return the axis along which a configuration takes the nearest slice instead of interpolating.

    Args:
        configuration: one that interpolates linearly.
        spacing_mm: the case's, along the axes of the scores.
    """
    arguments = _arguments(configuration)
    if "force_separate_z" not in arguments:
        return None
    own = configuration.spacing
    separate, axis = determine_do_sep_z_and_axis(
        arguments["force_separate_z"],
        own if len(own) == len(spacing_mm) else [spacing_mm[0], *own],
        spacing_mm,
        arguments["separate_z_anisotropy_threshold"],
    )
    return int(axis) if separate else None


def _arguments(configuration: ConfigurationManager) -> Mapping[str, Any]:
    """Return the arguments with which a configuration's function is called, its defaults included."""
    function = configuration.resampling_fn_probabilities
    return {name: given.default for name, given in inspect.signature(function).parameters.items()}
