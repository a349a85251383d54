"""All routes of the dialect, at the root of the server, where its clients look for them."""

from __future__ import annotations

from flask import Blueprint

from inference_server.api.dss import admin, files, provider, services, sign_in, user

PATHS = (
    "/token",
    "/logout",
    "/api/login",
    "/api/token",
    "/api/services",
    "/api/tickets",
    "/api/pro",
    "/api/admin",
    "/blobs",
)

blueprint = Blueprint("dss", __name__)
for part in (sign_in, services, user, provider, admin, files):
    blueprint.register_blueprint(part.blueprint)
