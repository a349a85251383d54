"""MONAI bundles, as far as they can be understood by reading: no code of the bundle runs and torch is not needed."""

from __future__ import annotations

import colorsys
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from inference_server.errors import ModelLoadError

METADATA = Path("configs") / "metadata.json"
WEIGHTS = tuple(Path("models") / name for name in ("model.safetensors", "model.pt", "model.ts"))
Config = Mapping[str, Any]
Activation = Literal["softmax", "sigmoid"]

_HARMLESS = {"Invert", "SaveImage", "EnsureType", "EnsureChannelFirst", "ToTensor", "ToDevice", "DeleteItems"}


@dataclass(frozen=True)
class PostProcessing:
    """What a bundle does with its network's output.

    Attributes:
        restore: as in the manifest; `labels` where the bundle's own transforms have to run.
        activation: what turns scores into probabilities, if anything does.
        threshold: of `restore: threshold`.
    """

    restore: Literal["argmax", "threshold", "labels"]
    activation: Activation | None = None
    threshold: float = 0.5


def is_bundle(folder: Path) -> bool:
    """Whether the folder is laid out as a MONAI bundle."""
    return (folder / METADATA).is_file() or any(folder.glob("configs/inference.*"))


def derive_manifest(folder: Path) -> dict[str, Any]:
    """Return what a bundle's metadata and inference configuration say, in the words of a manifest.

    Raises:
        ModelLoadError: a file is missing or not readable as JSON or YAML.
    """
    metadata = read_mapping(folder / METADATA) if (folder / METADATA).is_file() else {}
    config = read_inference_config(folder)
    try:
        return _declared(metadata, config)
    except (AttributeError, LookupError, TypeError, ValueError) as exc:
        raise ModelLoadError("The bundle's metadata or inference configuration is not laid out as MONAI says.") from exc


def _declared(metadata: Config, config: Config) -> dict[str, Any]:
    data_format = metadata.get("network_data_format", {})
    outputs = _images(data_format.get("outputs", {}))
    channels = int(outputs[0].get("num_channels", 1)) if outputs else 1
    post = post_processing(config, channels)
    return {
        **_classes(data_format.get("outputs", {})),
        "dimensions": _dimensions(data_format.get("inputs", {})),
        "runtime": "monai-bundle",
        "version": str(metadata.get("version", "1.0.0")),
        "title": str(metadata.get("task") or metadata.get("name") or ""),
        "description": str(metadata.get("description", "")),
        "license": str(metadata.get("license") or metadata.get("copyright") or ""),
        "channels": list(_channels(data_format.get("inputs", {}))) or [{"name": "image"}],
        "labels": _labels(outputs, first=1 if post.restore == "threshold" else 0),
        "restore": post.restore,
        "threshold": post.threshold,
    }


def find_weights(folder: Path) -> Path:
    """Return the file of a bundle's weights.

    Raises:
        ModelLoadError: there is none.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise ModelLoadError(f"The bundle has no weights: {', '.join(map(str, WEIGHTS))} was expected.")


def inference_config_path(folder: Path) -> Path:
    """Return the file of a bundle's inference configuration.

    Raises:
        ModelLoadError: there is none.
    """
    for suffix in ("json", "yaml", "yml"):
        path = folder / "configs" / f"inference.{suffix}"
        if path.is_file():
            return path
    raise ModelLoadError("The bundle has no configs/inference.json or configs/inference.yaml.")


def read_inference_config(folder: Path) -> Config:
    """Read a bundle's inference configuration, expressions unevaluated."""
    return read_mapping(inference_config_path(folder))


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON or YAML file that holds a mapping. Of YAML without content, as of comments alone, it is empty.

    Raises:
        ModelLoadError: it holds something else; the message names the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else _yaml(text)
    except OSError as exc:
        raise ModelLoadError(f"{path.name} cannot be read: {exc.strerror}.") from exc
    except (ValueError, RecursionError, yaml.YAMLError) as exc:
        raise ModelLoadError(f"{path.name} is malformed{_line_of(exc)}.") from exc
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path.name} holds no mapping of keys to values.")
    return content


def _yaml(text: str) -> Any:
    content = yaml.safe_load(text)
    return {} if content is None else content


def post_processing(config: Config, channels: int) -> PostProcessing:
    """Tell from an inference configuration what happens to the network's output.

    Args:
        config: the inference configuration, expressions unevaluated.
        channels: how many channels the network gives.
    """
    if "postprocessing" not in config:
        return PostProcessing("argmax", "softmax") if channels > 1 else PostProcessing("threshold", "sigmoid")
    transforms = _transforms(config["postprocessing"])
    if transforms is None:
        return PostProcessing("labels")
    return _replaceable(transforms) or PostProcessing("labels")


def default_color(value: int) -> tuple[int, int, int]:
    """Return a colour for a label value; neighbouring values differ clearly."""
    hue = (value * 0.618034) % 1.0  # steps of the golden ratio spread over the circle
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def _replaceable(transforms: list[Config]) -> PostProcessing | None:
    activation: Activation | None = None
    decision: PostProcessing | None = None
    for transform in transforms:
        name = kind(transform)
        if name == "Activations" and decision is None and (found := _activation(transform)):
            activation = found
        elif name == "AsDiscrete" and decision is None and (decided := _decision(transform)):
            decision = decided
        elif name not in _HARMLESS:
            return None
    decision = decision or PostProcessing("threshold" if activation == "sigmoid" else "argmax")
    return PostProcessing(decision.restore, activation, decision.threshold)


def _activation(transform: Config) -> Activation | None:
    flags = {name: _first(transform.get(name)) for name in ("softmax", "sigmoid", "other")}
    if flags["other"]:
        return None
    return "softmax" if flags["softmax"] is True else "sigmoid" if flags["sigmoid"] is True else None


def _decision(transform: Config) -> PostProcessing | None:
    if _first(transform.get("rounding")):
        return None
    if _first(transform.get("argmax")) is True:
        return PostProcessing("argmax")
    threshold = _first(transform.get("threshold"))
    if threshold is True:
        return PostProcessing("threshold")
    is_fraction = isinstance(threshold, int | float) and 0 < threshold < 1
    return PostProcessing("threshold", threshold=float(threshold)) if is_fraction else None


def _transforms(config: Any) -> list[Config] | None:
    """Return the enabled transforms of a written-out Compose, or None where it is something else."""
    transforms = config.get("transforms") if isinstance(config, dict) else None
    if not isinstance(transforms, list) or not all(isinstance(item, dict) for item in transforms):
        return None
    return [item for item in transforms if item.get("_disabled_") is not True]


def kind(transform: Config) -> str:
    """Return a configured transform's name, without its module and the ending of those that work on dictionaries."""
    return re.sub(r"(d|D|Dict)$", "", str(transform.get("_target_", "")).rsplit(".", 1)[-1])


def _first(value: Any) -> Any:
    return (value[0] if value else None) if isinstance(value, list) else value


def _images(entries: Config) -> list[Config]:
    return [entry for entry in entries.values() if isinstance(entry, dict) and entry.get("type", "image") == "image"]


def _channels(inputs: Config) -> Iterator[dict[str, Any]]:
    taken: set[str] = set()
    for entry in _images(inputs):
        defined = entry.get("channel_def") or {}
        for index in range(int(entry.get("num_channels", 1))):
            name = str(defined.get(str(index), "image"))
            if name in taken:
                name = f"{name} {len(taken) + 1}"
            taken.add(name)
            yield {"name": name, "modality": entry.get("modality")}


def _classes(outputs: Config) -> dict[str, Any]:
    """Return the kind and the classes of a classification, nothing for others."""
    output = next((entry for entry in outputs.values() if isinstance(entry, dict)), {})
    if output.get("format") != "classes" and output.get("type") not in ("probabilities", "classification"):
        return {}
    defined = output.get("channel_def") or {}
    names = [str(defined.get(str(index), f"class {index}")) for index in range(int(output.get("num_channels", 1)))]
    return {"kind": "classification", "classes": names}


def _dimensions(inputs: Config) -> int:
    shapes = [entry.get("spatial_shape") for entry in _images(inputs)]
    return 2 if shapes and all(isinstance(shape, list) and len(shape) == 2 for shape in shapes) else 3


def _labels(outputs: list[Config], *, first: int) -> dict[int, dict[str, Any]]:
    """Name label values; `first` is the label of channel 0, where 0 is the background."""
    defined = outputs[0].get("channel_def") or {} if outputs else {}
    values = {int(index) + first: str(name) for index, name in defined.items() if str(index).isdigit()}
    return {value: {"name": name, "color": default_color(value)} for value, name in sorted(values.items()) if value > 0}


def _line_of(exc: Exception) -> str:
    mark = getattr(exc, "problem_mark", None)
    line = mark.line + 1 if mark is not None else getattr(exc, "lineno", None)
    return f" at line {line}" if line else ""
