"""Python clients of the server."""

from __future__ import annotations

from inference_server.clients.native import Client, ServerError
from inference_server.clients.records import RemoteTask, RemoteWorker

__all__ = ["Client", "RemoteTask", "RemoteWorker", "ServerError"]
