"""`/metrics`: what Prometheus reads. It belongs to the native door, and needs the scope `operate`."""

from __future__ import annotations

from flask import Blueprint, Response, request

from inference_server.api.access import needs
from inference_server.api.context import context
from inference_server.tasks.caller import Scope

PATH = "/metrics"
blueprint = Blueprint("metrics", __name__)


@blueprint.get(PATH)
@needs(Scope.OPERATE)
def get_metrics() -> Response:
    """Return every figure."""
    page, content_type = context().metrics.page(request.headers.get("Accept", ""))
    return Response(page, content_type=content_type)
