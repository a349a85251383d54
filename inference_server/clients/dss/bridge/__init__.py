"""The bridge: models of this server serve tickets of another DSS server."""

from __future__ import annotations

from inference_server.clients.dss.bridge.bridge import Bridge, Offer
from inference_server.clients.dss.bridge.journal import Journal
from inference_server.clients.dss.bridge.patience import Patience
from inference_server.clients.dss.bridge.run import Desk

__all__ = ["Bridge", "Desk", "Journal", "Offer", "Patience"]
