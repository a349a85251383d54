"""What the announcement service takes and tells."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any
from urllib.parse import urlsplit

from inference_server.errors import BadRequest, MalformedMessage
from inference_server.tasks.announcements import Announced, Service

KEY = "api_key"
URLS = ("prediction_url", "interface_url")
TEXT_LIMIT = 5000
URL_LIMIT = 500
REFUSED = 1


def decode_announcement(content: bytes) -> tuple[str, Service]:
    """Return the key and the service of an announcement; what else it holds is passed over.

    Raises:
        MalformedMessage: it is no JSON object.
        BadRequest: fields are missing or not what they should be; the message names all of them.
    """
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise MalformedMessage("An announcement must be a JSON object.")
    names = (KEY, *(field.name for field in fields(Service)))
    faults = [fault for name in names if (fault := _fault(name, said))]
    if faults:
        raise BadRequest(" ".join(faults))
    return said[KEY], Service(**{name: said[name] for name in names if name != KEY})


def encode_accepted() -> bytes:
    """Return the answer to an announcement that was taken."""
    return json.dumps({"status": 0, "error": ""}).encode()


def encode_refused(message: str) -> bytes:
    """Return the answer to one that was not."""
    return json.dumps({"status": REFUSED, "error": message}).encode()


def encode_services(services: Sequence[Announced]) -> bytes:
    """Return the list of services."""
    return json.dumps([_entry(announced) for announced in services]).encode()


def encode_lists(services: Sequence[Announced]) -> bytes:
    """Return the services as four lists, for clients of the first generation; they post to the service itself."""
    listed = [announced.service for announced in services]
    lists = {
        "hosts": [service.prediction_url.removesuffix("/predict") for service in listed],
        "modalities": [service.modality for service in listed],
        "anatomies": [service.anatomy for service in listed],
        "descriptions": [service.description for service in listed],
    }
    return json.dumps(lists).encode()


def _entry(announced: Announced) -> dict[str, Any]:
    return {
        **asdict(announced.service),
        "SID": announced.sid,
        "creation_time": announced.creation_time,
        KEY: "",
    }


def _fault(name: str, said: Mapping[str, Any]) -> str:
    if name not in said:
        return f"The field {name} is missing."
    value = said[name]
    if not isinstance(value, str) or len(value) > TEXT_LIMIT:
        return f"The field {name} must be a text of {TEXT_LIMIT} characters at most."
    if name in URLS and not _is_url(value):
        return f"The field {name} must be a URL that begins with http:// or https://."
    return ""


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and len(text) <= URL_LIMIT
