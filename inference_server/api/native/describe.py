"""What the OpenAPI document says beyond what the models of the messages say themselves."""

from __future__ import annotations

from typing import Any

from inference_server.api.native.models import SubmitForm

_BINARY = {"type": "string", "format": "binary"}


RESULT: dict[str, Any] = {
    "description": "The result: pairs of `NAME.nii.gz` (labels) and `NAME.json` (value to label name); where there are "
    "any, `classifications.csv`, `meshes/NAME.vtk` and files of `transforms/`",
    "content": {"application/zip": {"schema": _BINARY}},
}

NOTHING: dict[str, Any] = {"description": "It is gone"}


def submit_body() -> dict[str, Any]:
    """Return the description of the form that submits a task."""
    schema = SubmitForm.model_json_schema(mode="validation")
    files = {
        "case": {**_BINARY, "description": "one case, zipped"},
        "image": {"type": "array", "items": _BINARY, "description": "image files in the order of the model's channels"},
    }
    schema["properties"] = {**{name: _plain(value) for name, value in schema["properties"].items()}, **files}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    # JSON in a form's text is a string to whoever fills in the form.
    return {name: part for name, part in value.items() if name not in ("contentSchema", "contentMediaType")}
