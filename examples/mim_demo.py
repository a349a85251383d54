"""The main job, from end to end: what a user of MIM Software does, with stand-ins for MIM's own objects.

Starts the whole server, sends an image through the MIM extension, waits for the task, draws its contours on the
reference image, prints what was found and writes an overlay picture.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from inference_server.errors import InferenceServerError
from inference_server.imaging.metrics import dice, volume_cc
from inference_server.imaging.overlay import write_overlay
from inference_server.imaging.phantom import ct_phantom
from inference_server.imaging.volume import Geometry, Volume
from inference_server.stack.launch import launched_server
from mim_extension.testing import mimpython
from mim_extension.testing.image_files import image_from_file
from mim_extension.testing.mim_objects import MimImage, MimSession, drawn_contours, logged

mimpython.install()
from mim_extension import ext  # noqa: E402 - needs MIMPython, or its stand-in

Mask = NDArray[np.bool_]
COLORS = ((255, 176, 0), (0, 158, 255), (255, 64, 129), (0, 200, 83), (170, 90, 255), (255, 255, 255))
CONTOUR_FACTOR = (1, 2, 2)
"""MIM keeps contours twice as fine as the image in each slice."""

console = Console()


@dataclass(frozen=True)
class DemoCase:
    """An image as MIM holds it, and the truth by structure where it is known (on the image's grid)."""

    image: MimImage
    title: str
    truth: Mapping[str, Mask]


def main() -> None:
    """Run the demonstration; exits with status 1 if no contour came back."""
    options = _arguments()
    case = _own_image(options.image) if options.image else _phantom()
    options.out.mkdir(parents=True, exist_ok=True)
    log_path = options.out / "server.log"
    console.print(f"Input: {case.title}")
    with tempfile.TemporaryDirectory() as data, log_path.open("w") as log:
        console.print("Starting the server …")
        with launched_server(Path(data) / "server", log=log) as server:
            console.print(f"Server ready at {server.url}; its log is {log_path}")
            session = _through_mim(case.image, options.model, server.url)
    contours = drawn_contours(case.image)
    if not contours:
        sys.exit("\n".join(["No contours came back.", *logged(session, "error")]))
    console.print(_table(case, contours))
    console.print(f"Overlay: {_overlay(case.image, contours, options.out / 'overlay.png')}")


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--image", type=Path, help="a 3-D image of yours instead of the phantom")
    parser.add_argument("--model", default="ct-body", help="the model's id")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for the picture and the log")
    return parser.parse_args()


def _phantom() -> DemoCase:
    phantom = ct_phantom((64, 192, 192), spacing_mm=(2.0, 2.0, 4.0), seed=7)
    image = MimImage(phantom.image, spacing=phantom.spacing_mm, origin=phantom.origin_mm, scaling_factor=CONTOUR_FACTOR)
    return DemoCase(image, "a synthetic chest CT (body, lungs, spine, ribs, table, noise), truth known", phantom.truth)


def _own_image(path: Path) -> DemoCase:
    if not path.is_file():
        sys.exit(f"There is no file {path}.")
    try:
        return DemoCase(image_from_file(path, scaling_factor=CONTOUR_FACTOR), path.name, {})
    except (RuntimeError, ValueError):  # SimpleITK's way to say so
        sys.exit(f"{path} is not a 3-D image in a format that SimpleITK reads (.nii.gz, .nrrd, .mha and others).")


def _through_mim(image: MimImage, model: str, url: str) -> MimSession:
    session = MimSession()
    uid = ext.InferenceServer1images(session, image, model, 0, 0, "", url)
    if uid:
        ext.InferenceServerGetFromUid(session, uid, image, url, 1, 1800)
    for line in logged(session):
        console.print(f"  MIM log: {line}", markup=False, highlight=False)
    return session


def _table(case: DemoCase, contours: Mapping[str, Mask]) -> Table:
    geometry = _geometry(case.image).refined(CONTOUR_FACTOR)
    table = Table("label", "volume", "Dice with the truth")
    for name, mask in contours.items():
        truth = case.truth.get(name)
        agreement = "not known" if truth is None else f"{dice(mask, _on_contour_grid(truth)):.3f}"
        table.add_row(name, f"{volume_cc(mask, geometry):,.1f} cc", agreement)
    return table


def _overlay(image: MimImage, contours: Mapping[str, Mask], path: Path) -> Path:
    fine = _on_contour_grid(image.getRawData().copyToNPArray())
    volume = Volume(fine, _geometry(image).refined(CONTOUR_FACTOR))
    masks = {name: (mask, COLORS[index % len(COLORS)]) for index, (name, mask) in enumerate(contours.items())}
    write_overlay(path, volume, masks)
    return path


def _on_contour_grid(array: NDArray[Any]) -> NDArray[Any]:
    for axis, factor in enumerate(CONTOUR_FACTOR):
        array = np.repeat(array, factor, axis=axis)
    return array


def _geometry(image: MimImage) -> Geometry:
    space = image.getSpace()
    shape = image.getRawData().copyToNPArray().shape
    return Geometry(shape, tuple(space.getNoxSize()), tuple(space.getDicomCenter()), tuple(space.getIop()))


if __name__ == "__main__":
    try:
        main()
    except InferenceServerError as error:
        sys.exit(error.message)
