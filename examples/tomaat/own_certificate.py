"""A service with a certificate of your own: `python own_certificate.py CERTIFICATE`.

`CERTIFICATE` is a PEM file with its key inside or beside it (the same name with `.key`). Where nothing is there,
`CERTIFICATE.crt` and `CERTIFICATE.key` are made, to be kept with the script.
"""

from __future__ import annotations

import sys
from typing import Any

from inference_server.tomaat import TomaatApp, TomaatService

config = {"name": "Certificate", "port": 9005, "cert_path": sys.argv[1]}
input_interface = [{"type": "checkbox", "destination": "asked", "text": "Is this safe?"}]
output_interface = [{"type": "PlainText", "field": "answer", "label": "Answer"}]


def preprocess(data: dict[str, Any]) -> str:
    return data["asked"][0]  # "True" or "False"


def infer(asked: str) -> str:
    return "As safe as this certificate." if asked == "True" else "You did not ask."


def postprocess(answer: str) -> dict[str, Any]:
    return {"answer": [answer]}


if __name__ == "__main__":
    TomaatService(config, TomaatApp(preprocess, infer, postprocess), input_interface, output_interface).run()
