"""Choices go in, a text comes out."""

from __future__ import annotations

from typing import Any

from inference_server.tomaat import TomaatApp, TomaatService

config = {"name": "Text", "modality": "none", "task": "Text", "anatomy": "none", "description": "", "port": 9004}
input_interface = [
    {"type": "checkbox", "destination": "loud", "text": "loud"},
    {"type": "radiobutton", "destination": "word", "text": "Word", "options": ["hello", "goodbye"]},
]
output_interface = [{"type": "PlainText", "field": "said", "label": "Said"}]


def preprocess(data: dict[str, Any]) -> dict[str, Any]:
    return data


def infer(data: dict[str, Any]) -> str:
    word: str = data["word"][0]
    return word.upper() if data["loud"][0] == "True" else word


def postprocess(said: str) -> dict[str, Any]:
    return {"said": [said]}


TomaatService(config, TomaatApp(preprocess, infer, postprocess), input_interface, output_interface).run()
