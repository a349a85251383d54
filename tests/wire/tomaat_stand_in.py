"""A TOMAAT service of both generations and an announcement service, written from the protocol.

It marks what is bright.
"""

from __future__ import annotations

import base64
import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import SimpleITK as sitk  # noqa: N813
from flask import Flask, Response, request
from werkzeug.serving import make_server

from inference_server.stack.certificates import Pair

INTERFACE = [
    {"type": "volume", "destination": "images"},
    {"type": "slider", "destination": "threshold", "minimum": 0, "maximum": 300},
    {"type": "checkbox", "destination": "invert", "text": "Invert", "default": False},
    {"type": "radiobutton", "destination": "value", "text": "Label", "options": ["1", "7"], "default": "1"},
    {"type": "fiducials", "destination": "seeds", "required": False},
    {"type": "transform", "destination": "start", "required": False},
]
MESH = b"# vtk DataFile Version 3.0\nvtk output\nASCII\nDATASET POLYDATA\n"


@dataclass
class StandIn:
    """What a service was sent, and how it is to answer.

    `delays` is how often it says that the result is delayed; `also` are further elements of its answer; `instead`, by
    path, what it answers whatever came: JSON, or bytes with a status.
    """

    url: str = ""
    forms: list[dict[str, str]] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    old: list[dict[str, Any]] = field(default_factory=list)
    delays: int = 0
    also: list[dict[str, str]] = field(default_factory=list)
    instead: dict[str, Any] = field(default_factory=dict)
    services: Any = field(default_factory=list)

    def sent_image(self, name: str = "images") -> sitk.Image:
        """Return the image that came last."""
        return image_of(self.forms[-1][name])


def image_of(text: str) -> sitk.Image:
    """Return the image whose MHA file's base64 this is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.mha"
        path.write_bytes(base64.b64decode(text))
        return sitk.ReadImage(str(path))


def mha_of(image: sitk.Image) -> str:
    """Return the base64 of an image's compressed MHA file, in lines."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.mha"
        sitk.WriteImage(image, str(path), useCompression=True)
        return base64.encodebytes(path.read_bytes()).decode()


def labels_of(text: str, threshold: float, value: int = 1) -> str:
    image = image_of(text)
    return mha_of(sitk.Cast(image > threshold, sitk.sitkUInt8) * value)


@contextmanager
def serving(pair: Pair | None = None) -> Iterator[StandIn]:
    """Serve on loopback until the end of the block."""
    stand_in = StandIn()
    tls = (str(pair.certificate), str(pair.key)) if pair else None
    server = make_server("127.0.0.1", 0, application(stand_in), threaded=True, ssl_context=tls)
    server.daemon_threads = True
    stand_in.url = f"http{'s' if pair else ''}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def application(stand_in: StandIn) -> Flask:
    app = Flask("stand-in")
    app.config["MAX_FORM_MEMORY_SIZE"] = None
    waiting: dict[str, list[Any]] = {}

    @app.before_request
    def instead() -> Response | None:
        stand_in.paths.append(f"{request.method} {request.path}")
        stand_in.heads.append(dict(request.headers))
        answer = stand_in.instead.get(request.path)
        if answer is None:
            return None
        if isinstance(answer, tuple):
            return Response(answer[1], status=answer[0])
        return Response(json.dumps(answer))

    @app.get("/interface")
    def interface() -> str:
        return json.dumps(INTERFACE)

    @app.post("/predict")
    def predict() -> str:
        assert not request.files
        stand_in.forms.append(request.form.to_dict())
        elements = [labels(request.form), *stand_in.also]
        if not stand_in.delays:
            return json.dumps(elements)
        waiting["r1"] = [[{"type": "DelayedResponse", "request_id": "r1"}]] * (stand_in.delays - 1) + [elements]
        return json.dumps([{"type": "DelayedResponse", "request_id": "r1"}])

    @app.post("/responses")
    def responses() -> str:
        return json.dumps(waiting[request.form["request_id"]].pop(0))

    @app.post("/old")
    def old() -> str:
        message = json.loads(request.get_data())
        stand_in.old.append(message)
        labels = labels_of(message["content_mha"], message["threshold"])
        return json.dumps({"content_mha": labels, "error": "", "status": 0, "time": 12})

    @app.get("/discover")
    def discover() -> str:
        return json.dumps(stand_in.services)

    def labels(form: Any) -> dict[str, str]:
        content = labels_of(form["images"], float(form["threshold"]), int(form.get("value", 1)))
        return {"type": "LabelVolume", "content": content, "label": "bright"}

    return app
