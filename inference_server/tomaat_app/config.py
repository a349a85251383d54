"""What a script says of its service: the `config` of a `TomaatService`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from inference_server.errors import SettingsError
from inference_server.models.faults import describe_faults


class Config(BaseModel):
    """The keys of a `config`; others are the script's own and left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    name: str = Field(min_length=1, max_length=200)
    port: int = Field(ge=0, le=65535)
    """Of HTTPS; 0 takes a free one."""
    modality: str = ""
    task: str = ""
    anatomy: str = ""
    description: str = ""
    announce: bool = False
    api_key: str = Field("", repr=False)
    host: str = ""
    """Under which clients reach it: a name or address, or the base of its URLs."""
    announcement: str = ""
    """URL of the announcement service."""
    cert_path: Path | None = None
    as_files: bool = False
    """Whether volumes and transforms are given to the app as names of files."""

    @field_validator("announcement")
    @classmethod
    def _is_url(cls, url: str) -> str:
        if not re.fullmatch(r"(https?://\S+)?", url):
            raise ValueError("a URL was expected")
        return url

    @field_validator("host")
    @classmethod
    def _is_host(cls, host: str) -> str:
        if not re.fullmatch(r"(https?://)?[^\s/]*/*", host):
            raise ValueError("a host's name or address was expected, or a URL without a path")
        return host

    @model_validator(mode="after")
    def _announces_somewhere(self) -> Config:
        missing = [key for key in ("api_key", "announcement") if self.announce and not getattr(self, key)]
        if missing:
            raise ValueError(f"with `announce` the key `{missing[0]}` is needed too")
        return self

    @property
    def id(self) -> str:
        """The model's id: the name in letters, digits, dots, dashes and underscores."""
        return re.sub(r"[^a-z0-9._]+", "-", self.name.lower()).strip("-._")[:100] or "app"


def read_config(given: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """Return a config as it is given: a mapping, or the path of a JSON file.

    Raises:
        SettingsError: it is neither, or the file cannot be read.
    """
    if isinstance(given, Mapping):
        return dict(given)
    if not isinstance(given, str | Path):
        raise SettingsError(f"A config is a dictionary or the path of a JSON file; a {type(given).__name__} came.")
    try:
        found = json.loads(Path(given).read_bytes())
    except OSError as exc:
        raise SettingsError(f"The config {given} cannot be read: {exc.strerror}.") from exc
    except ValueError as exc:
        raise SettingsError(f"The config {given} is no JSON: {exc}.") from exc
    if not isinstance(found, dict):
        raise SettingsError(f"The config {given} is other JSON than an object of keys and values.")
    return found


def check_config(given: Mapping[str, Any]) -> Config:
    """Return what a config says.

    Raises:
        SettingsError: a key is missing, or its value is not what it should be; the message names it.
    """
    try:
        return Config.model_validate(given)
    except ValidationError as exc:
        faults = describe_faults(exc, "").replace("manifest: ", "")
        raise SettingsError(f"The config is not valid: {faults}.") from exc
