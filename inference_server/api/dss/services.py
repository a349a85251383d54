"""The routes that tell of services."""

from __future__ import annotations

import json

from flask import Blueprint, Response

from inference_server.api.access import needs
from inference_server.api.dss.answer import json_text, table
from inference_server.api.dss.codec import SERVICE_FIELDS, STATISTICS_FIELDS, statistics_row
from inference_server.api.dss.desk import desk
from inference_server.tasks.tickets.document import document_of
from inference_server.tasks.tickets.statistics import statistics

blueprint = Blueprint("services", __name__)


@blueprint.get("/api/services")
@needs()
def list_services() -> Response:
    """List what tickets can be made for."""
    services = desk().services()
    return table(SERVICE_FIELDS, ((one.name, one.githash, one.version, one.shortdesc) for one in services))


@blueprint.get("/api/services/<githash>/detail")
@needs()
def get_service(githash: str) -> Response:
    """Answer all about a service: its tags say what a workspace must hold."""
    return json_text(json.dumps(document_of(desk().service(githash=githash))))


@blueprint.get("/api/services/<githash>/stats")
@needs()
def get_statistics(githash: str) -> Response:
    """Answer how a service fared during the last day."""
    here = desk()
    here.service(githash=githash)
    found = statistics(here.tickets.database, githash, now=here.tickets.clock())
    return table(STATISTICS_FIELDS, [statistics_row(found)])
