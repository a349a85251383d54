"""Clients of DSS servers: what users of ITK-SNAP and providers of algorithms do, and the bridge."""

from __future__ import annotations

from inference_server.clients.dss.client import DSSClient
from inference_server.clients.dss.connection import Connection
from inference_server.clients.dss.errors import DSSAnswerError, DSSRefused, DSSUnreachable
from inference_server.clients.dss.provider import Provider
from inference_server.clients.dss.user import User

__all__ = ["Connection", "DSSAnswerError", "DSSClient", "DSSRefused", "DSSUnreachable", "Provider", "User"]
