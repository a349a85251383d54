"""The TOMAAT announcement service: `/announce`, `/discover`, `/discovery`."""

from inference_server.api.announcements.routes import EXTENSION, PATHS, answer_error, blueprint

__all__ = ["EXTENSION", "PATHS", "answer_error", "blueprint"]
