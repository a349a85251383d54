"""The native API at `/api/v1`: everything the server can do, described by OpenAPI."""

from inference_server.api.native.routes import blueprint

__all__ = ["blueprint"]
