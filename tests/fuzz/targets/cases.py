"""Zips of cases, as the door checks them and the worker reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from nifti_files import affine, nifti, packed

from fuzz.target import SECRET, Target, expect
from fuzz.targets.pictures import pictures
from fuzz.zips import Members, make_zip, zip_damage
from inference_server.errors import BadRequest, InferenceServerError, TooLarge
from inference_server.models.manifest import Manifest, parse_manifest
from inference_server.settings import Settings
from inference_server.tasks.case_zip import check_case, read_case

LIMITS = Settings(
    member_limit=20, image_limit_bytes=64 * 1024, unpacked_limit_bytes=256 * 1024, labels_limit_bytes=256 * 1024
)
ARRAY = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
CHANNELS = [{"name": "CT"}, {"name": "PET", "required": False}]
MODEL = parse_manifest({"id": "m", "channels": CHANNELS})
FLAT_MODEL = parse_manifest({"id": "m", "dimensions": 2})
TAGS = json.dumps({"1048592": SECRET}).encode()


def seeds() -> list[bytes]:
    """Return cases as MIM's extension and others send them."""
    image = packed(nifti(ARRAY, affine(np.eye(3))))
    labels = packed(nifti((ARRAY > 9).repeat(2, 0).repeat(2, 1).astype("u1"), affine(np.eye(3))))
    factor = json.dumps({"scaling_factor": [1, 2, 2], "spacing": [0.7, 1.3, 2.9]}).encode()
    placed = json.dumps({"origin": [1, 2, 3], "direction": [0, 1, 0, 1, 0, 0, 0, 0, -1]}).encode()
    plain: Members = [("tmp_0000.nii.gz", image)]
    contour = [("c.nii.gz", labels), ("c.json", json.dumps({"name": SECRET}).encode())]
    return [
        make_zip(plain),
        make_zip([*plain, ("meta.json", factor), *contour, ("tmp_0000.dicom_info.json", TAGS)], method=8),
        make_zip([("tmp_0000.nii", nifti(ARRAY)), ("tmp_0001.nii.gz", image), ("tmp_0000.meta.json", placed)]),
    ]


def flat_seeds() -> list[bytes]:
    """Return cases of 2-D pictures."""
    made = [[(f"tmp_0000.{ending}", content)] for ending, content in pictures().items()]
    flat = nifti(ARRAY[0], pixdim=[1, 2, 2, 1, 1, 1, 1, 1])
    return [*map(make_zip, made), make_zip([("tmp_0000.nii.gz", packed(flat)), ("tmp_0000.dicom_info.json", TAGS)])]


def use(model: Manifest, content: bytes, folder: Path) -> str:
    """Check a case and read it: what the door refuses the worker refuses, for the same reason and in one sentence."""
    path = folder / "case.zip"
    path.write_bytes(content)
    try:
        refused = _refusal(lambda: check_case(path, model, LIMITS))
        case = read_case(path, model, LIMITS, parameters={})
    except (BadRequest, TooLarge) as error:
        if refused:
            same = (type(error), error.field, error.message) == (type(refused), refused.field, refused.message)
            expect(same, f"the door says {refused.message} The worker says {error.message}")
        raise
    finally:
        path.unlink()
    expect(refused is None, f"the worker takes what the door refuses: {refused and refused.message}")
    arrays = [*case.channels.values(), *case.contours.values()]
    expect(sum(volume.array.nbytes for volume in arrays) <= LIMITS.unpacked_limit_bytes, "more was read than may be")
    return f"{len(case.channels)} images, {len(case.contours)} contours, x{case.scaling_factor != (1, 1, 1)}"


def _refusal(check: Callable[[], object]) -> InferenceServerError | None:
    try:
        check()
    except InferenceServerError as error:
        return error
    return None


CASE = Target("case", seeds, partial(use, MODEL), zip_damage)
FLAT_CASE = Target("flat case", flat_seeds, partial(use, FLAT_MODEL), zip_damage)
