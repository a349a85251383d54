"""What a service answers, written into a folder."""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_server.clients.native import ServerError
from inference_server.clients.tomaat.images import labels_like
from inference_server.clients.tomaat.points import parse_points, write_fcsv
from inference_server.clients.tomaat.words import file_stem, plain_text

ERROR_LABEL = "Error!"
DELAYED = "DelayedResponse"


@dataclass(frozen=True)
class Output:
    """One thing that a service gave.

    `type` and `label` are the protocol's; `text` is what a `PlainText` says. `path` is None where the type is one that
    this client does not know, so that nothing was written.
    """

    type: str
    label: str
    path: Path | None
    text: str | None = None


def parse_answer(document: Any) -> list[Mapping[str, Any]]:
    """Return the elements of an answer.

    Raises:
        ServerError: it is an error of the service, or not an answer of one.
    """
    if not isinstance(document, list) or not all(isinstance(entry, dict) and "type" in entry for entry in document):
        raise ServerError("What the server answered is not the answer of a TOMAAT service.", status=200)
    for entry in document:
        if entry["type"] == "PlainText" and entry.get("label") == ERROR_LABEL:
            raise ServerError(plain_text(entry.get("content", ERROR_LABEL)), status=200, problem_code="tomaat")
    return document


def write_outputs(elements: Sequence[Mapping[str, Any]], folder: Path, *, like: Sequence[Path]) -> list[Output]:
    """Write what a service gave into a folder: a file for each element, named by its label.

    Args:
        elements: of an answer.
        folder: exists, and can be written; what has the same name there is replaced.
        like: the images that were sent; label volumes on the grid of a NIfTI file among them become such files.

    Raises:
        ServerError: an element cannot be read.
    """
    taken: set[str] = set()
    return [_written(element, folder, like, taken) for element in elements]


def _written(element: Mapping[str, Any], folder: Path, like: Sequence[Path], taken: set[str]) -> Output:
    kind, label = plain_text(element["type"]), plain_text(element.get("label") or "")
    write, otherwise = _WRITERS.get(kind, (None, ""))
    if write is None:
        return Output(kind, label, None)
    stem = _free(file_stem(label, otherwise), otherwise, taken)
    try:
        path = write(str(element["content"]), folder, stem, like)
    except (KeyError, ValueError, binascii.Error) as exc:
        raise ServerError(f"The service gave a {kind} that cannot be read.", status=200) from exc
    return Output(kind, label, path, plain_text(element["content"], lines=True) if kind == "PlainText" else None)


def _free(stem: str, otherwise: str, taken: set[str]) -> str:
    """Return a name that no other output of this answer has, in any case of letters."""
    tries = (stem, f"{stem}_{otherwise}", *(f"{stem}_{otherwise}_{number}" for number in range(2, len(taken) + 3)))
    name = next(name for name in tries if name.lower() not in taken)
    taken.add(name.lower())
    return name


def _labels(content: str, folder: Path, stem: str, like: Sequence[Path]) -> Path:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".tomaat-") as draft:
        came = Path(draft) / "labels.mha"
        came.write_bytes(base64.b64decode(content))
        return labels_like(came, like, folder, stem)


def _text(content: str, folder: Path, stem: str, _: Sequence[Path]) -> Path:
    path = folder / f"{stem}.txt"
    path.write_text(content if content.endswith("\n") else f"{content}\n", encoding="utf-8")
    return path


def _points(content: str, folder: Path, stem: str, _: Sequence[Path]) -> Path:
    path = folder / f"{stem}.fcsv"
    write_fcsv(path, parse_points(content))
    return path


def _file(suffix: str) -> Callable[[str, Path, str, Sequence[Path]], Path]:
    def write(content: str, folder: Path, stem: str, _: Sequence[Path]) -> Path:
        path = folder / f"{stem}{suffix}"
        path.write_bytes(base64.b64decode(content))
        return path

    return write


_WRITERS: dict[str, tuple[Callable[[str, Path, str, Sequence[Path]], Path], str]] = {
    "LabelVolume": (_labels, "labels"),
    "VTKMesh": (_file(".vtk"), "mesh"),
    "PlainText": (_text, "text"),
    "Fiducials": (_points, "points"),
    "TransformGrid": (_file(".nii.gz"), "transform"),
    "TransformBSpline": (_file(".h5"), "transform"),
    "TransformLinear": (_file(".mat"), "transform"),
}
