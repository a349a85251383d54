"""`/openapi.json`, and `/docs`: the Swagger UI that flask-openapi3-swagger bundles. Nothing comes from elsewhere."""

from __future__ import annotations

from pathlib import Path

import flask_openapi3_swagger  # type: ignore[import-untyped]
from flask import Blueprint, Response, current_app, send_from_directory, url_for
from flask_openapi3.openapi import OpenAPI

from inference_server.api.access import open_to_all

ASSETS = Path(flask_openapi3_swagger.__file__).parent / "templates" / "swagger"

POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>inference-server: native API</title>
<link rel="icon" href="{root}/assets/images/swagger.svg">
<link rel="stylesheet" href="{root}/assets/css/swagger-ui.css">
</head>
<body>
<div id="page" data-document="{document}"></div>
<script src="{root}/assets/js/swagger-ui-bundle.js"></script>
<script src="{root}/start.js"></script>
</body>
</html>
"""

# Unless it is told not to, Swagger UI sends the address of every document to a validator on the internet.
START = """SwaggerUIBundle({
  url: document.getElementById("page").dataset.document,
  dom_id: "#page",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout"
});
"""

blueprint = Blueprint("docs", __name__)


@blueprint.get("/openapi.json")
@open_to_all
def openapi() -> Response:
    """Answer with the OpenAPI 3.1 document of the native API."""
    assert isinstance(current_app, OpenAPI)
    return Response(current_app.json.dumps(current_app.api_doc), content_type="application/json")


@blueprint.get("/docs/", strict_slashes=False)
@open_to_all
def page() -> Response:
    """Answer with a page that shows the document."""
    text = PAGE.format(root=url_for(".page").rstrip("/"), document=url_for(".openapi"))
    return Response(text, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": POLICY})


@blueprint.get("/docs/start.js")
@open_to_all
def start() -> Response:
    """Answer with the script that starts Swagger UI."""
    return Response(START, content_type="text/javascript; charset=utf-8")


@blueprint.get("/docs/assets/<path:name>")
@open_to_all
def asset(name: str) -> Response:
    """Answer with a file of Swagger UI."""
    return send_from_directory(ASSETS, name, max_age=3600)
