"""The entry points: declared as MIM wants them, thin, and never raising."""

from __future__ import annotations

import errno
import importlib
import inspect
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import mim_extension
from mim_extension import entry
from mim_extension.testing import mimpython
from mim_extension.testing.mim_objects import MimImage, MimSession, logged

PACKAGE = Path(mim_extension.__file__).parent
PATIENT = "Doe^Jane"
IMAGES = ["img_zero", "img_one", "img_two", "img_three"]
FIELDS = ["model_human_readable_id", "export_dicom_info", "export_contours", "contour_names", "server_url"]


@pytest.fixture
def ext() -> Iterator[ModuleType]:
    mimpython.install()
    yield importlib.import_module("mim_extension.ext")
    sys.modules.pop("mim_extension.ext")
    mimpython.uninstall()


@pytest.fixture
def session() -> MimSession:
    return MimSession()


@pytest.fixture
def image() -> MimImage:
    return MimImage(np.zeros((2, 3, 4), dtype=np.int16), dicom_info={0x00100010: PATIENT})


def submit(ext: ModuleType, session: object, image: object, **changes: object) -> str:
    fields = {
        "model_human_readable_id": "ct-body",
        "export_dicom_info": 0,
        "export_contours": 0,
        "contour_names": "",
        "server_url": "https://user:s3cret@server.invalid",
    }
    return ext.InferenceServer1images(session=session, img_zero=image, **{**fields, **changes})


def fetch(ext: ModuleType, session: object, image: object, **changes: object) -> None:
    fields = {"uid": "u", "server_url": "https://server.invalid", "polling_interval_sec": 1, "timeout_sec": 0}
    return ext.InferenceServerGetFromUid(session=session, reference_image=image, **{**fields, **changes})


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_entry_points_that_send_have_the_parameters_of_the_dialect(count, ext):
    function = mimpython.ENTRY_POINTS[f"InferenceServer{count}images"]
    parameters = inspect.signature(function).parameters

    assert function is getattr(ext, f"InferenceServer{count}images")
    assert list(parameters) == ["session", *IMAGES[:count], *FIELDS]
    types = [parameter.annotation.__name__ for parameter in parameters.values()]
    assert types == ["XMimSession", *["XMimImage"] * count, "String", "Integer", "Integer", "String", "String"]


def test_the_entry_point_that_fetches_has_the_parameters_of_the_dialect(ext):
    parameters = inspect.signature(mimpython.ENTRY_POINTS["InferenceServerGetFromUid"]).parameters
    names = ["session", "uid", "reference_image", "server_url", "polling_interval_sec", "timeout_sec"]
    assert list(parameters) == names


def test_without_mimpython_the_entry_points_cannot_be_imported():
    sys.modules.pop("mim_extension.ext", None)
    with pytest.raises(ModuleNotFoundError, match="MIMPython"):
        importlib.import_module("mim_extension.ext")


def test_every_image_is_handed_on_in_its_order(ext, session, monkeypatch):
    calls = []
    monkeypatch.setattr(entry, "submit", lambda session, images, request: calls.append((images, request)) or "uid")
    assert ext.InferenceServer4images(session, "0", "1", "2", "3", "m", 1, 0, "a", "u") == "uid"
    assert ext.InferenceServer3images(session, "0", "1", "2", "m", 1, 0, "a", "u") == "uid"
    assert ext.InferenceServer2images(session, "0", "1", "m", 1, 0, "a", "u") == "uid"
    assert ext.InferenceServer1images(session, "0", "m", 1, 0, "a", "u") == "uid"

    assert [images for images, _ in calls] == [list("0123"), list("012"), list("01"), list("0")]
    assert {request for _, request in calls} == {entry.SubmitRequest("m", 1, 0, "a", "u")}


def test_mim_may_load_the_file_alone_from_a_folder_of_any_name(tmp_path):
    folder = tmp_path / "Inference 7"
    shutil.copytree(str(PACKAGE), str(folder), ignore=shutil.ignore_patterns("__pycache__"))
    program = """
import importlib.util, sys
sys.path.insert(0, sys.argv[2])
from mim_extension.testing import mimpython
mimpython.install()
spec = importlib.util.spec_from_file_location("loaded_by_mim", sys.argv[1])
for _ in range(2):
    ext = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ext)
print(ext._entry.__file__)
"""
    arguments = [sys.executable, "-c", program, str(folder / "ext.py"), str(PACKAGE.parent)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=str(tmp_path))
    assert done.stdout.strip() == str(folder / "entry.py")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"server_url": "server.invalid"}, "server_url is not the address of a server"),
        ({"server_url": None}, "The field server_url is empty."),
        ({"model_human_readable_id": " "}, "The field model_human_readable_id is empty."),
        ({"export_dicom_info": 2}, "export_dicom_info must be 0 or 1."),
        ({"export_contours": "maybe"}, "export_contours must be 0 or 1."),
        ({"export_contours": 1, "contour_names": "GTVx; Lung"}, "Image 1 has no contour named 'GTVx', 'Lung'."),
        ({"img_zero": None}, "Image 1 is missing."),
    ],
)
def test_a_field_that_cannot_be_used_gives_a_sentence_and_an_empty_uid(changes, sentence, ext, session, image):
    changes = dict(changes)
    assert submit(ext, session, changes.pop("img_zero", image), **changes) == ""
    assert len(logged(session, "error")) == 1
    assert logged(session, "error")[0].startswith(sentence)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"uid": ""}, "There is no UID: the case was not sent."),
        ({"uid": None}, "There is no UID: the case was not sent."),
        ({"timeout_sec": "long"}, "timeout_sec must be a number of seconds."),
        ({"polling_interval_sec": None}, "polling_interval_sec must be a number of seconds."),
        ({"polling_interval_sec": -1}, "polling_interval_sec must be a number of seconds."),
        ({"server_url": ""}, "The field server_url is empty."),
    ],
)
def test_a_fetch_that_cannot_begin_gives_a_sentence(changes, sentence, ext, session, image):
    assert fetch(ext, session, image, **changes) is None
    assert [line[: len(sentence)] for line in logged(session, "error")] == [sentence]


class Broken:
    """An image of MIM that fails with a text that nobody should read in a log."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def getContours(self) -> list:
        raise self.error


@pytest.mark.parametrize(
    ("error", "start"),
    [
        (ValueError(f"{PATIENT} s3cret"), "Something unforeseen happened (ValueError at test_mim_ext.py, line "),
        (KeyError(PATIENT), "Something unforeseen happened (KeyError at test_mim_ext.py, line "),
        (MemoryError(), "This computer ran out of memory."),
        (OSError(errno.ENOSPC, "s3cret"), "The disk of this computer is full."),
    ],
)
def test_whatever_fails_inside_ends_in_the_log_and_not_in_mim(error, start, ext, session):
    assert submit(ext, session, Broken(error)) == ""
    assert [line[: len(start)] for line in logged(session, "error")] == [start]
    assert PATIENT not in " ".join(logged(session))
    assert "s3cret" not in " ".join(logged(session))


def test_a_session_that_gives_no_logger_raises_nothing_either(ext, image):
    assert submit(ext, object(), image) == ""
    assert fetch(ext, object(), image) is None


def test_the_names_of_contours_are_separated_by_commas_semicolons_or_lines():
    request = entry.SubmitRequest("m", 0, 1, " GTV t, Lung;;Heart\n", "u")
    assert entry._contour_names(request) == ["GTV t", "Lung", "Heart"]
    assert entry._contour_names(entry.SubmitRequest("m", 0, 1, None, "u")) == []
    assert entry._contour_names(entry.SubmitRequest("m", 0, 0, "Lung", "u")) is None
