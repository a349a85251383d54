"""An inference server for medical image segmentation: warm models behind a durable queue."""

from __future__ import annotations

__version__ = "0.1.0"
