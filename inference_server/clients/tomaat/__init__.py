"""`TomaatClient`: services of the TOMAAT protocol from Python, of both generations.

>>> with TomaatClient() as client:                                                          # doctest: +SKIP
...     inputs = Inputs(volumes={"image": Path("ct.nii.gz")})
...     client.predict("https://server:8443/tomaat/ct-body", inputs, Path("out"))
"""

from __future__ import annotations

from inference_server.clients.tomaat.client import TomaatClient
from inference_server.clients.tomaat.inputs import Element, Inputs
from inference_server.clients.tomaat.outputs import Output
from inference_server.clients.tomaat.progress import Progress
from inference_server.clients.tomaat.services import Service

__all__ = ["Element", "Inputs", "Output", "Progress", "Service", "TomaatClient"]
