"""Which model each code names, and what its answer means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from inference_server.api.image_socket.codec import MODEL_BYTES, NORMAL, PNEUMONIA
from inference_server.errors import PredictionError, SettingsError
from inference_server.models.manifest import Manifest

POSITIVE = "pneumonia"
_ENTRY = re.compile(rf"([!-~]{{{MODEL_BYTES}}})=([^:]+)(?::(.+))?")


@dataclass(frozen=True)
class Choice:
    """The id of a model, and the class that is answered as `P`."""

    model: str
    positive: str = POSITIVE

    def fits(self, manifest: Manifest) -> bool:
        """Whether a model classifies one picture, and knows the class."""
        classifies = manifest.kind == "classification" and _named(manifest.classes, self.positive) is not None
        return classifies and manifest.dimensions == 2 and manifest.required_channels == 1


def parse_models(setting: str) -> Mapping[str, Choice]:
    """Return the choice of each code, as the setting says it.

    Raises:
        SettingsError: it says something else, or a code twice.
    """
    entries = [_ENTRY.fullmatch(entry.strip()) for entry in setting.split(",") if entry.strip()]
    found = {entry[1]: Choice(entry[2], entry[3] or POSITIVE) for entry in entries if entry}
    if len(found) < len(entries) or not found:
        raise SettingsError(
            "The setting INFERENCE_SERVER_IMAGE_SOCKET_MODELS is malformed: codes of 4 characters, each once, were "
            "expected, such as `ENSE=chest-xray-ensemble,MYCN=another-model:consolidation`."
        )
    return found


def letter_of(classes: Mapping[str, float], choice: Choice, manifest: Manifest) -> bytes:
    """Return the answer to a client, `P` or `N`.

    It is `P` where no other class is more probable; where the model's manifest declares a threshold, from that
    probability on.

    Args:
        classes: the probability of each class.
        choice: names the class that means `P`.
        manifest: the model's.

    Raises:
        PredictionError: the class is not among them.
    """
    name = _named(classes, choice.positive)
    if name is None:
        raise PredictionError("The model gave no probability of the class that was asked for.")
    has_threshold = "threshold" in manifest.model_fields_set
    limit = manifest.threshold if has_threshold else max(classes.values())
    return PNEUMONIA if classes[name] >= limit else NORMAL


def _named(classes: Mapping[str, float] | tuple[str, ...], wanted: str) -> str | None:
    return next((name for name in classes if name.casefold() == wanted.casefold()), None)
