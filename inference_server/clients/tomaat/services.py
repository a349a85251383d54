"""What announcement services know, and where a service has its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from inference_server.clients.native import ServerError
from inference_server.clients.tomaat.connections import parse_url
from inference_server.clients.tomaat.words import plain_text

DISCOVERY_PATHS = ("/discover", "/discovery")


@dataclass(frozen=True)
class Service:
    """A service as it was announced. Of the first generation there is only the URL to send to, as `prediction_url`."""

    name: str
    modality: str
    anatomy: str
    task: str
    description: str
    interface_url: str
    prediction_url: str
    sid: str = ""
    first_generation: bool = False


@dataclass(frozen=True)
class Endpoints:
    """Where a service of the current generation has its parts."""

    interface: httpx.URL
    prediction: httpx.URL

    @property
    def responses(self) -> httpx.URL:
        """Where delayed results are: `/responses` in the place of `/predict`."""
        head, _, rest = str(self.prediction).rpartition("/predict")
        return httpx.URL(f"{head}/responses{rest}")


def endpoints(service: Service | str) -> Endpoints:
    """Return the endpoints of a service that was discovered, or of the one with this base URL (or prediction URL).

    Raises:
        ServerError: an address is no URL, or a prediction URL is none of this protocol.
    """
    if isinstance(service, Service):
        found = Endpoints(parse_url(service.interface_url), parse_url(service.prediction_url))
        if "/predict" not in str(found.prediction):
            raise ServerError("The service was announced with an address for predictions that has no /predict in it.")
        return found
    base = parse_url(service)
    path = base.path.removesuffix("/predict").removesuffix("/interface").rstrip("/")
    return Endpoints(base.copy_with(path=f"{path}/interface"), base.copy_with(path=f"{path}/predict"))


def discovery_url(text: str) -> httpx.URL:
    """Return where to ask an announcement service, given with or without the last part.

    Raises:
        ServerError: the text is no URL.
    """
    url = parse_url(text)
    if url.path.endswith(DISCOVERY_PATHS):
        return url
    return url.copy_with(path=f"{url.path.rstrip('/')}{DISCOVERY_PATHS[0]}")


def parse_services(document: Any) -> list[Service]:
    """Return the services in the answer of an announcement service of either generation.

    Raises:
        ServerError: it is not one.
    """
    try:
        return _first_generation(document) if isinstance(document, dict) else [_service(entry) for entry in document]
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise ServerError("What the server answered is not a list of TOMAAT services.", status=200) from exc


def _service(entry: Mapping[str, Any]) -> Service:
    return Service(
        name=plain_text(entry.get("name", "")),
        modality=plain_text(entry.get("modality", "")),
        anatomy=plain_text(entry.get("anatomy", "")),
        task=plain_text(entry.get("task", "")),
        description=plain_text(entry.get("description", "")),
        interface_url=plain_text(entry["interface_url"]),
        prediction_url=plain_text(entry["prediction_url"]),
        sid=plain_text(entry.get("SID", "")),
    )


def _first_generation(document: Mapping[str, Any]) -> list[Service]:
    lists = (document[name] for name in ("hosts", "modalities", "anatomies", "descriptions"))
    return [
        Service(
            name="",
            modality=plain_text(modality),
            anatomy=plain_text(anatomy),
            task="",
            description=plain_text(description),
            interface_url="",
            prediction_url=plain_text(host),
            first_generation=True,
        )
        for host, modality, anatomy, description in zip(*lists, strict=True)
    ]
