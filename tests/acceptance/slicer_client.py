"""What the TOMAAT extension in the field does inside 3D Slicer, without Slicer: its requests, time-outs and habits."""

from __future__ import annotations

import base64
import io
import json
import ssl
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import SimpleITK as sitk  # noqa: N813
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from requests.adapters import HTTPAdapter

QUICK_S = 5.0
TRANSFORMS = {"TransformGrid": ".nii.gz", "TransformBSpline": ".h5", "TransformLinear": ".mat"}


class UntrustedError(Exception):
    """The user was asked about a certificate, and said no."""


class PinnedAdapter(HTTPAdapter):
    """Connects to the server with one certificate only."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, assert_fingerprint=self.fingerprint, **kwargs)


class FormStream:
    """A form as a body that `requests` reads piece by piece: plain fields without a type, or files as tuples."""

    def __init__(self, fields: Mapping[str, str | tuple[str, bytes, str]]) -> None:
        boundary = uuid.uuid4().hex
        self.content_type = f"multipart/form-data; boundary={boundary}"
        pieces = [self._part(boundary, name, value) for name, value in fields.items()]
        body = b"".join([*pieces, f"--{boundary}--\r\n".encode()])
        self.len, self._rest, self.reads = len(body), io.BytesIO(body), 0

    def read(self, size: int = -1) -> bytes:
        self.reads += 1
        return self._rest.read(size)

    @staticmethod
    def _part(boundary: str, name: str, value: str | tuple[str, bytes, str]) -> bytes:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
        if isinstance(value, str):
            return f"{head}\r\n\r\n{value}\r\n".encode()
        file_name, content, kind = value
        return f'{head}; filename="{file_name}"\r\nContent-Type: {kind}\r\n\r\n'.encode() + content + b"\r\n"


@dataclass
class Scene:
    """What the user has got: files by label, texts by title, lists of points (RAS) in order."""

    labels: dict[str, Path] = field(default_factory=dict)
    meshes: list[Path] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    points: list[list[list[float]]] = field(default_factory=list)
    transforms: list[Path] = field(default_factory=list)
    polls: int = 0


class Slicer:
    """A session of Slicer.

    Args:
        folder: its temporary one.
        trusts: the fingerprint that the user confirms.
    """

    def __init__(self, folder: Path, trusts: str = "") -> None:
        self.folder, self.trusts = folder, trusts
        self.known: dict[str, tuple[str, int]] = {}
        self.asked: list[str] = []
        self.message: dict[str, str | tuple[str, bytes, str]] = {}
        """It lives as long as the session: fields of services used before are sent along with every later one."""
        self.elements: list[dict[str, Any]] = []
        self.interface_url = self.prediction_url = ""
        self.on_poll: Callable[[int], object] = lambda _: None

    def connect(self, base_url: str) -> None:
        """Type an address and press Confirm."""
        self._open(f"{base_url}/interface", f"{base_url}/predict")

    def discover(self, announcer_url: str) -> dict[str, dict[str, Any]]:
        """Ask an announcement service; return what it lists by name."""
        self._check_connection(announcer_url)
        listed = self._call("GET", f"{announcer_url}/discover").json()
        return {f"{service['name']} ({service['SID']})": service for service in listed}

    def choose(self, service: Mapping[str, Any]) -> None:
        """Choose one of the services that were discovered."""
        self._open(service["interface_url"], service["prediction_url"])

    def _open(self, interface_url: str, prediction_url: str) -> None:
        self.interface_url, self.prediction_url = interface_url, prediction_url
        self._check_connection(self.interface_url)
        self.elements = self._call("GET", self.interface_url, timeout=QUICK_S).json()

    def run(self, **given: Any) -> Scene:
        """Press Process; widgets that nothing is given for stay as they begin."""
        self._check_connection(self.prediction_url)
        for element in self.elements:
            name = element["destination"]
            self.message[name] = self._widget(element, given.get(name))
        return self.send()

    def send(self) -> Scene:
        """Send the message as it is, and show what comes."""
        self.message.pop("module_version", None)
        body = FormStream({**self.message, "module_version": "Slicer-v2"})
        reply = self._call("POST", self.prediction_url, data=body, headers={"Content-Type": body.content_type})
        assert body.reads > 1
        scene = Scene()
        self._process(reply.json(), scene)
        return scene

    def _widget(self, element: Mapping[str, Any], given: Any) -> str:
        match element["type"]:
            case "volume":
                return wrapped(saved(given, self.folder / f"{uuid.uuid4()}.mha"))
            case "slider":
                start = (float(element["maximum"]) - float(element["minimum"])) / 2
                value = start if given is None else float(given)
                return str(min(max(value, element["minimum"]), element["maximum"]))
            case "checkbox":
                return str(bool(given)) if element["text"] is not None else ""
            case "radiobutton":
                assert element["text"]
                return str(given or element["options"][0])
            case "fiducials":
                return ";".join(",".join(str(float(value)) for value in point) for point in given or ())
            case "transform":
                kind = next(ending for ending in TRANSFORMS.values() if given.name.endswith(ending))
                return f"{kind[1:]}\n{wrapped(given)}"
        raise AssertionError(f"a widget of type {element['type']}")

    def _process(self, responses: list[dict[str, Any]], scene: Scene) -> None:
        for response in responses:
            kind = response["type"]
            if kind == "LabelVolume":
                path = self.folder / f"{response['label']}_result.mha"
                path.write_bytes(decoded(response["content"]))
                scene.labels[response["label"]] = path
            elif kind == "VTKMesh":
                path = self.folder / f"{uuid.uuid4()}_mesh.vtk"
                path.write_bytes(decoded(response["content"]))
                scene.meshes.append(path)
            elif kind == "Fiducials":
                rows = [row.split(",") for row in response["content"].split(";")]
                scene.points.append([[float(x), float(y), float(z)] for x, y, z in rows])
            elif kind == "PlainText":
                scene.texts[response["label"]] = response["content"]
            elif kind == "DelayedResponse":
                self._poll(response, scene)
            else:
                path = self.folder / f"{uuid.uuid4()}_result{TRANSFORMS[kind]}"
                path.write_bytes(decoded(response["content"]))
                scene.transforms.append(path)

    def _poll(self, response: Mapping[str, Any], scene: Scene) -> None:
        time.sleep(1)
        scene.polls += 1
        self.on_poll(scene.polls)
        url = self.prediction_url.replace("/predict", "/responses")
        reply = self._call("POST", url, data={"request_id": response["request_id"]}, timeout=QUICK_S)
        self._process(reply.json(), scene)

    def _check_connection(self, url: str) -> None:
        """Call the root of the server: as it is trusted so far, then whoever it is, then ask the user."""
        parts = urlsplit(url)
        assert parts.scheme == "https", "No HTTPS connection!"
        root = f"https://{parts.hostname}{f':{parts.port}' if parts.port else ''}/interface"
        try:
            self._call("GET", root)
        except requests.exceptions.SSLError:
            with requests.Session() as session:
                session.verify = False
                session.get(root)
            fingerprint = shown_by(url)
            self.asked.append(fingerprint)
            if fingerprint != self.trusts:
                raise UntrustedError from None
            self.known[fingerprint] = (str(parts.hostname), parts.port or 443)

    def _call(self, method: str, url: str, **options: Any) -> requests.Response:
        parts, fingerprint = urlsplit(url), shown_by(url)
        with requests.Session() as session:
            if self.known.get(fingerprint) == (parts.hostname, parts.port or 443):
                session.verify = False
                session.mount(url, PinnedAdapter(fingerprint))
            return session.request(method, url, **options)


def shown_by(url: str) -> str:
    """Return the SHA-256 fingerprint of the certificate that a server shows."""
    parts = urlsplit(url)
    pem = ssl.get_server_certificate((str(parts.hostname), parts.port or 443))
    return x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256()).hex(":").upper()


def saved(image: sitk.Image, path: Path) -> Path:
    """Save a volume as Slicer does: an MHA file, compressed."""
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def wrapped(path: Path) -> str:
    return base64.encodebytes(path.read_bytes()).decode("ascii")


def decoded(content: str) -> bytes:
    return base64.decodebytes(content.encode("ascii"))


def first_generation(url: str, image: sitk.Image, threshold: float, folder: Path) -> dict[str, Any]:
    """Do what the extension of the first generation did: one JSON message, without a content type, and wait."""
    content = wrapped(saved(image, folder / "first.mha"))
    message = {"content_mha": content, "threshold": threshold, "module_version": 0.01}
    reply: dict[str, Any] = requests.post(url, data=json.dumps(message)).json()
    return reply
