"""Announcing the models of this server to TOMAAT announcement services, again and again."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import yaml
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from inference_server.errors import InferenceServerError, SettingsError
from inference_server.models.declared import Declared
from inference_server.models.faults import describe_faults
from inference_server.models.manifest import Manifest
from inference_server.settings import Settings
from inference_server.tasks.announcements import Service
from inference_server.tasks.service import Served

log = logging.getLogger(__name__)

EVERY_S = 1600.0
"""How often a service announces itself; an announcement counts for 3600 s."""
RETRY_S = 30.0
LOOK_S = 5.0
ANSWER_LIMIT_S = 10.0
PREDICT = "/predict"
_TEXT_LIMIT = 200
_NAMED_LABELS = 3


class Announced(Declared):
    """How a model is announced; what is not given is taken from its manifest."""

    key: str = Field(min_length=1, repr=False)
    name: str | None = None
    modality: str | None = None
    anatomy: str | None = None
    task: str | None = None
    description: str | None = None


def _key_alone(given: Any) -> Any:
    return {"key": given} if isinstance(given, str) else given


class Announcer(Declared):
    """An announcement service, and the models that are announced to it."""

    url: str = Field(pattern=r"^https?://[^/\s]+")
    certificate: Path | None = None
    models: Mapping[str, Annotated[Announced, BeforeValidator(_key_alone)]]


@dataclass(frozen=True)
class Announcers:
    """All announcement services that this server knows, and the base of the URLs that it announces."""

    services: tuple[Announcer, ...] = ()
    public_url: str = ""

    def first_with(self, model_id: str) -> str:
        """Return the URL of the first service that a model is announced to, or an empty text."""
        return next((service.url for service in self.services if model_id in service.models), "")


def load_announcers(settings: Settings) -> Announcers:
    """Read the file that the setting `tomaat_announcers` names.

    Raises:
        SettingsError: it cannot be read or is malformed, or there is no public URL that clients can use.
    """
    path = settings.tomaat_announcers
    if path is None:
        return Announcers()
    services = _parsed(_read(path))
    public_url = (settings.public_url or "").rstrip("/")
    if not public_url.startswith(("http://", "https://")):
        raise SettingsError("To announce models the server needs to know its own URL: set INFERENCE_SERVER_PUBLIC_URL.")
    if PREDICT in public_url:
        raise SettingsError(
            f"Clients of TOMAAT replace every '{PREDICT}' in a URL, so INFERENCE_SERVER_PUBLIC_URL must not contain it."
        )
    return Announcers(services, public_url)


def service_of(manifest: Manifest, announced: Announced, *, public_url: str) -> Service:
    """Return what is announced of a model.

    Raises:
        SettingsError: a client could not find the results of a model of this name.
    """
    base = f"{public_url}/tomaat/{quote(manifest.id)}"
    if (base + PREDICT).replace(PREDICT, "/responses") != f"{base}/responses":
        raise SettingsError(
            f"The model '{manifest.id}' cannot be announced: clients of TOMAAT replace every '{PREDICT}' in a URL. "
            "Give it another id."
        )
    options = _options(manifest)
    return Service(
        prediction_url=base + PREDICT,
        interface_url=f"{base}/interface",
        name=announced.name or manifest.title or manifest.id,
        modality=announced.modality or options.get("modality") or _modality(manifest),
        anatomy=announced.anatomy or options.get("anatomy") or _anatomy(manifest),
        task=announced.task or options.get("task") or manifest.kind.capitalize(),
        description=announced.description or manifest.description or manifest.title or manifest.id,
    )


class Post:
    """Sends announcements by HTTP."""

    def __init__(self, announcers: Announcers) -> None:
        self._contexts = {service.url: _context(service.certificate) for service in announcers.services}

    def __call__(self, url: str, message: Mapping[str, str]) -> str:
        """Announce a service; return what was wrong, nothing if all went well."""
        import httpx

        try:
            answer = httpx.post(url, json=dict(message), verify=self._contexts[url], timeout=ANSWER_LIMIT_S).json()
        except (httpx.HTTPError, ValueError) as exc:
            return f"no answer that counts: {type(exc).__name__}"
        if not isinstance(answer, dict) or answer.get("status") != 0:
            return str(answer.get("error") if isinstance(answer, dict) else answer)[:_TEXT_LIMIT]
        return ""


class Announcing:
    """Announces the models that are served, each as often as it must be. For one thread.

    Args:
        announcers: where to, and with which keys.
        models: those that are served at the moment.
        post: announces; returns what was wrong.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        announcers: Announcers,
        models: Callable[[], Sequence[Served]],
        post: Callable[[str, Mapping[str, str]], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._announcers = announcers
        self._models = models
        self._post = post
        self._clock = clock
        self._due: dict[tuple[str, str], float] = {}
        self._wrong: dict[tuple[str, str], str] = {}

    def run(self, stop: threading.Event) -> None:
        """Go on until told to stop."""
        while not stop.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Announce whatever is due."""
        for announcer, announced, manifest in self._served():
            place = (announcer.url, manifest.id)
            if self._due.get(place, 0.0) > self._clock():
                continue
            wrong = self._announce(announcer, announced, manifest)
            self._due[place] = self._clock() + (RETRY_S if wrong else EVERY_S)
            self._tell(place, wrong)

    def _served(self) -> Iterator[tuple[Announcer, Announced, Manifest]]:
        try:
            served = {model.manifest.id: model.manifest for model in reversed(self._models())}
        except (InferenceServerError, OSError) as exc:
            log.warning("models to announce not known", extra={"reason": type(exc).__name__})
            return
        for announcer in self._announcers.services:
            for model_id, announced in announcer.models.items():
                if model_id in served:
                    yield announcer, announced, served[model_id]

    def _announce(self, announcer: Announcer, announced: Announced, manifest: Manifest) -> str:
        try:
            service = service_of(manifest, announced, public_url=self._announcers.public_url)
        except SettingsError as error:
            return error.message
        return self._post(announcer.url, {"api_key": announced.key, **asdict(service)})

    def _tell(self, place: tuple[str, str], wrong: str) -> None:
        """Log what has changed: an announcement service that is down for a day is one line, not thousands."""
        if wrong == self._wrong.get(place):
            return
        self._wrong[place] = wrong
        facts = {"announcer": place[0], "model": place[1]}
        if wrong:
            log.warning("model not announced", extra={**facts, "why": wrong})
        else:
            log.info("model announced", extra=facts)


def start_announcing(
    settings: Settings, models: Callable[[], Sequence[Served]], stop: threading.Event
) -> threading.Thread | None:
    """Announce the models in a thread of its own until told to stop; in none where there is nobody to announce to.

    Raises:
        SettingsError: what they name cannot be used.
    """
    announcers = load_announcers(settings)
    if not announcers.services:
        return None
    announcing = Announcing(announcers, models, Post(announcers))
    thread = threading.Thread(target=announcing.run, args=(stop,), name="announcing", daemon=True)
    thread.start()
    return thread


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(
            f"The file of announcement services {path} (INFERENCE_SERVER_TOMAAT_ANNOUNCERS) cannot be read."
        ) from exc


def _parsed(text: str) -> tuple[Announcer, ...]:
    expected = "The file of announcement services (INFERENCE_SERVER_TOMAAT_ANNOUNCERS) is not valid"
    try:
        return TypeAdapter(tuple[Announcer, ...]).validate_python(yaml.safe_load(text) or ())
    except yaml.YAMLError as exc:
        raise SettingsError(f"{expected}: it is not YAML.") from exc
    except ValidationError as exc:
        raise SettingsError(f"{expected}: {describe_faults(exc, text)}.") from None


def _context(certificate: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=certificate)
    except OSError as exc:  # SSLError is one
        raise SettingsError(f"The certificate {certificate} of an announcement service cannot be read.") from exc


def _options(manifest: Manifest) -> Mapping[str, Any]:
    """Return what the manifest of a TOMAAT app says."""
    options = manifest.options.get("tomaat")
    return options if isinstance(options, Mapping) else {}


def _modality(manifest: Manifest) -> str:
    named = [channel.modality for channel in manifest.channels if channel.modality]
    return named[0] if named else "Any"


def _anatomy(manifest: Manifest) -> str:
    names = [label.name for label in manifest.labels.values()]
    return ", ".join(names) if 0 < len(names) <= _NAMED_LABELS else "Any"
