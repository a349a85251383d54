"""nnU-Net v2's folders of trained models, as far as they can be understood by reading: nothing of them runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from inference_server.errors import ModelLoadError
from inference_server.models.bundle import default_color, read_mapping
from inference_server.models.declared import Declared
from inference_server.models.preparation import AxisCodes

DATASET, PLANS = Path("dataset.json"), Path("plans.json")
NNUNET = "nnunet"
NEEDS_EXTRA = "nnU-Net folders need the extra `nnunet`, which is not installed here; docs/models.md says how it is."

_MODALITIES = (("CT", r"CT\b|CTA\b|CBCT"), ("MR", r"MRI?\b|T1|T2|FLAIR|ADC\b|DWI\b|DCE\b"), ("PT", r"PET\b|PT\b|SUV"))


def _fold(value: Any) -> Any:
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError("a fold's number, or `all`, was expected")


class NnUNet(Declared):
    """What a manifest chooses of an nnU-Net folder: its section `nnunet`."""

    folds: tuple[Annotated[int | str, BeforeValidator(_fold)], ...] | None = Field(
        None, min_length=1, description="the folds whose scores are averaged; by default all that are there"
    )
    checkpoint: Literal["final", "best", "latest"] | None = Field(
        None, description="which of a fold's checkpoints; by default `final`, or `best` where there is no such"
    )
    mirroring: bool = Field(True, description="average over mirrored windows too, along the axes of the training")
    step: float = Field(0.5, gt=0, le=1, description="how far windows are apart, as a share of their size")
    orientation: AxisCodes | None = Field(
        None, description="where the x, y and z axes of the training's images point; by default images stay as they are"
    )
    trainer: Annotated[str, Field(pattern=r"^\w+$")] | None = Field(
        None, description="the class of nnunetv2 that makes the network, instead of the one that the checkpoint names"
    )
    trust_checkpoint: bool = Field(False, description="read checkpoints that run code when they are read")


def is_nnunet(folder: Path) -> bool:
    """Whether the folder is laid out as nnU-Net's trained models are."""
    return (folder / DATASET).is_file() and (folder / PLANS).is_file()


def derive_nnunet(folder: Path, written: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an nnU-Net folder says, in the words of a manifest.

    Structures that overlap (regions) are numbered from 1, in the order in which the network gives them; where `written`
    has `restore: labels`, by the values of `regions_class_order`, with which nnU-Net paints them over each other.

    Args:
        folder: holds `dataset.json` and `plans.json`.
        written: what the folder's `model.yaml` says.

    Raises:
        ModelLoadError: a file is not readable, or not laid out as nnU-Net writes it.
    """
    dataset, plans = read_mapping(folder / DATASET), read_mapping(folder / PLANS)
    try:
        return _declared(dataset, plans, as_labels=written.get("restore") == "labels")
    except (AttributeError, LookupError, TypeError, ValueError) as exc:
        raise ModelLoadError(f"{DATASET} or {PLANS} is not laid out as nnU-Net v2 writes it.") from exc


def find_checkpoints(folder: Path, chosen: NnUNet) -> tuple[Path, ...]:
    """Return the files of the folds to run, one each.

    Raises:
        ModelLoadError: one is missing; the message says which.
    """
    kinds = [chosen.checkpoint] if chosen.checkpoint else ["final", "best"]
    for name in (f"checkpoint_{kind}.pth" for kind in kinds):
        found = sorted(folder.glob(f"fold_*/{name}"), key=_place)
        if found:
            return _chosen(found, chosen) if chosen.folds else _default(found)
    expected = " or ".join(f"checkpoint_{kind}.pth" for kind in kinds)
    raise ModelLoadError(f"The nnU-Net folder has no weights: {expected} was expected in fold_0, say.")


def check_nnunet(folder: Path, chosen: NnUNet) -> None:
    """Check that a folder's checkpoints are there, and nnunetv2 too where models run.

    Raises:
        ModelLoadError: something is missing.
    """
    find_checkpoints(folder, chosen)
    if find_spec("torch") and not find_spec("nnunetv2"):  # without torch nothing runs here, in an API alone, say
        raise ModelLoadError(NEEDS_EXTRA)


def _declared(dataset: Mapping[str, Any], plans: Mapping[str, Any], *, as_labels: bool) -> dict[str, Any]:
    regions, labels = _labels(dataset, as_labels=as_labels)
    name = str(dataset.get("name") or plans.get("dataset_name") or "")
    return {
        "runtime": NNUNET,
        "version": (str(dataset.get("release") or "").split() or ["1.0.0"])[0],
        "title": re.sub(r"^Dataset\d+_", "", name).replace("_", " "),
        "description": str(dataset.get("description") or ""),
        "license": str(dataset.get("license") or dataset.get("licence") or ""),
        "channels": _channels(dataset.get("channel_names") or dataset["modality"]),
        "labels": {value: {"name": name, "color": default_color(value)} for value, name in sorted(labels.items())},
        "restore": "threshold" if regions else "argmax",
        "dimensions": 2 if plans.get("image_reader_writer") == "NaturalImage2DIO" else 3,
    }


def _channels(named: Mapping[str, str]) -> list[dict[str, Any]]:
    channels: list[dict[str, Any]] = []
    for index in range(len(named)):
        name = str(named[str(index)])
        taken = {channel["name"] for channel in channels}
        unique = f"{name} {index + 1}" if name in taken else name
        channels.append({"name": unique, "modality": _modality(name)})
    return channels


def _modality(name: str) -> str | None:
    return next((modality for modality, words in _MODALITIES if re.match(words, name.upper())), None)


def _labels(dataset: Mapping[str, Any], *, as_labels: bool) -> tuple[bool, dict[int, str]]:
    """Return whether structures overlap, and the label values with their names."""
    labels = {str(name): _values(value) for name, value in dataset["labels"].items() if name != "ignore"}
    structures = [name for name, values in labels.items() if values != {0}]
    if not any(len(values) > 1 for values in labels.values()):
        single = {min(labels[name]): name for name in structures}
        if sorted(single) != list(range(1, len(structures) + 1)):
            raise ModelLoadError(f"The labels of {DATASET} are not numbered from 1 without gaps, as nnU-Net expects.")
        return False, single
    painted = dict(zip(map(int, dataset["regions_class_order"]), structures, strict=True))
    return True, painted if as_labels else dict(enumerate(structures, start=1))


def _values(value: Any) -> set[int]:
    return {int(part) for part in value} if isinstance(value, list) else {int(value)}


def _place(path: Path) -> tuple[int, str]:
    fold = path.parent.name.removeprefix("fold_")
    return (int(fold), "") if fold.isdigit() else (1_000_000, fold)


def _chosen(found: list[Path], chosen: NnUNet) -> tuple[Path, ...]:
    there = {path.parent.name.removeprefix("fold_"): path for path in found}
    for fold in map(str, chosen.folds or ()):
        if fold not in there:
            name = found[0].name
            raise ModelLoadError(f"nnunet.folds: fold_{fold} has no {name}; the folds that do: {', '.join(there)}.")
    return tuple(there[str(fold)] for fold in chosen.folds or ())


def _default(found: list[Path]) -> tuple[Path, ...]:
    """Return all numbered folds; `fold_all`, which saw every case, stands for itself."""
    numbered = [path for path in found if path.parent.name.removeprefix("fold_").isdigit()]
    return tuple(numbered or found[:1])
