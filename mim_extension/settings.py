"""What a site can set: an access token, a certificate bundle and two time-outs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping

from .errors import SettingsError

VERSION = 1.0
TOKEN_VARIABLE = "MIM_INFERENCE_TOKEN"
BUNDLE_VARIABLE = "MIM_INFERENCE_CA_BUNDLE"
CONNECT_VARIABLE = "MIM_INFERENCE_CONNECT_TIMEOUT_S"
READ_VARIABLE = "MIM_INFERENCE_READ_TIMEOUT_S"
BUNDLE_FILE = "ca_bundle.pem"


@dataclass(frozen=True)
class Settings:
    """How the extension talks to a server.

    ``ca_bundle`` is a PEM file of the certificates to trust; without one the usual authorities are trusted.
    ``connect_timeout_s`` also bounds a stall while the case is being sent. ``token`` is used where the address holds
    no secret of its own.
    """

    ca_bundle: Path | None = None
    connect_timeout_s: float = 30.0
    read_timeout_s: float = 120.0
    token: str = field(default="", repr=False)


def read_settings(environment: Mapping[str, str], folder: Path) -> Settings:
    """Read the settings of this workstation.

    Args:
        environment: the process's environment variables. Not modified.
        folder: the extension's own folder, where ``ca_bundle.pem`` may lie.

    Returns:
        The settings; the bundle named in the environment wins over the file beside the extension.

    Raises:
        SettingsError: a named bundle does not exist, or a time-out is not a positive number.
    """
    return Settings(
        ca_bundle=_bundle(environment.get(BUNDLE_VARIABLE, ""), folder / BUNDLE_FILE),
        connect_timeout_s=_seconds(environment, CONNECT_VARIABLE, Settings.connect_timeout_s),
        read_timeout_s=_seconds(environment, READ_VARIABLE, Settings.read_timeout_s),
        token=environment.get(TOKEN_VARIABLE, "").strip(),
    )


def _bundle(named: str, beside: Path) -> Path | None:
    if not named:
        return beside if beside.is_file() else None
    if not Path(named).is_file():
        raise SettingsError(f"{BUNDLE_VARIABLE} names a certificate file that does not exist on this computer.")
    return Path(named)


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(environment.get(name) or default)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise SettingsError(f"{name} must be a number of seconds above zero.")
    return value
