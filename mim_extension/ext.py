"""The entry points that MIM shows. MIM loads this file; outside MIM it needs a module named MIMPython.

Annotations are real types here, not strings: MIM reads them to learn what to ask the user for. Each parameter
is a field of its dialogue, so that there are as many as there are fields.
"""

# ruff: noqa: PLR0913, PLR0917
# mypy: disable-error-code="untyped-decorator, no-untyped-def"
import importlib
import sys
from pathlib import Path
from types import ModuleType

from MIMPython.EntryPoint import mim_extension_entrypoint
from MIMPython.SupportedIOTypes import Integer, String, XMimImage, XMimSession


def _own_package() -> str:
    """Name under which the modules beside this file can be imported, whatever MIM called their folder."""
    if __package__ in sys.modules:
        return __package__
    name, folder = "inference_server_mim_extension", Path(__file__).resolve().parent
    # MIM keeps modules alive when an extension is replaced; the files that lie here must win.
    for stale in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[stale]
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package
    return name


_PACKAGE = _own_package()
_entry = importlib.import_module(f"{_PACKAGE}.entry")
_settings = importlib.import_module(f"{_PACKAGE}.settings")

_ABOUT = {
    "author": "Inference Server",
    "category": "Inference Server",
    "institution": "Inference Server",
    "version": _settings.VERSION,
}
_SENDS = (
    "Sends images to the inference server and returns the UID of the task.\n"
    "- img_zero: the reference; the contours will lie on its grid. All images have its shape.\n"
    "- model_human_readable_id: the id of the model.\n"
    "- export_dicom_info: 1 sends the DICOM tags too (patient data), 0 does not.\n"
    "- export_contours: 1 sends contours of img_zero too, 0 does not.\n"
    "- contour_names: which ones, separated by commas; empty means all of them.\n"
    "- server_url: for example https://server.hospital.example"
)
_FETCHES = (
    "Waits for a task of the inference server and draws its structures as contours.\n"
    "- uid: as the step that sent the images returned it.\n"
    "- reference_image: the image that was img_zero.\n"
    "- server_url: as for sending.\n"
    "- polling_interval_sec: seconds between two questions to the server.\n"
    "- timeout_sec: seconds after which this step gives up; the task goes on and can be fetched later."
)


@mim_extension_entrypoint(name="InferenceServer1images", description=_SENDS, **_ABOUT)
def InferenceServer1images(
    session: XMimSession,
    img_zero: XMimImage,
    model_human_readable_id: String,
    export_dicom_info: Integer,
    export_contours: Integer,
    contour_names: String,
    server_url: String,
) -> String:
    """Send one image."""
    request = _entry.SubmitRequest(
        model_human_readable_id, export_dicom_info, export_contours, contour_names, server_url
    )
    return _entry.submit(session, [img_zero], request)


@mim_extension_entrypoint(name="InferenceServer2images", description=_SENDS, **_ABOUT)
def InferenceServer2images(
    session: XMimSession,
    img_zero: XMimImage,
    img_one: XMimImage,
    model_human_readable_id: String,
    export_dicom_info: Integer,
    export_contours: Integer,
    contour_names: String,
    server_url: String,
) -> String:
    """Send two images."""
    request = _entry.SubmitRequest(
        model_human_readable_id, export_dicom_info, export_contours, contour_names, server_url
    )
    return _entry.submit(session, [img_zero, img_one], request)


@mim_extension_entrypoint(name="InferenceServer3images", description=_SENDS, **_ABOUT)
def InferenceServer3images(
    session: XMimSession,
    img_zero: XMimImage,
    img_one: XMimImage,
    img_two: XMimImage,
    model_human_readable_id: String,
    export_dicom_info: Integer,
    export_contours: Integer,
    contour_names: String,
    server_url: String,
) -> String:
    """Send three images."""
    request = _entry.SubmitRequest(
        model_human_readable_id, export_dicom_info, export_contours, contour_names, server_url
    )
    return _entry.submit(session, [img_zero, img_one, img_two], request)


@mim_extension_entrypoint(name="InferenceServer4images", description=_SENDS, **_ABOUT)
def InferenceServer4images(
    session: XMimSession,
    img_zero: XMimImage,
    img_one: XMimImage,
    img_two: XMimImage,
    img_three: XMimImage,
    model_human_readable_id: String,
    export_dicom_info: Integer,
    export_contours: Integer,
    contour_names: String,
    server_url: String,
) -> String:
    """Send four images."""
    request = _entry.SubmitRequest(
        model_human_readable_id, export_dicom_info, export_contours, contour_names, server_url
    )
    return _entry.submit(session, [img_zero, img_one, img_two, img_three], request)


@mim_extension_entrypoint(name="InferenceServerGetFromUid", description=_FETCHES, **_ABOUT)
def InferenceServerGetFromUid(
    session: XMimSession,
    uid: String,
    reference_image: XMimImage,
    server_url: String,
    polling_interval_sec: Integer,
    timeout_sec: Integer,
):
    """Fetch the result of a task and draw it."""
    _entry.fetch(session, reference_image, _entry.FetchRequest(uid, server_url, polling_interval_sec, timeout_sec))
