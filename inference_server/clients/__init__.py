"""Python clients of the server."""

from __future__ import annotations

from inference_server.clients.native import Client, RemoteTask, ServerError

__all__ = ["Client", "RemoteTask", "ServerError"]
