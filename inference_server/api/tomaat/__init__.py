"""The TOMAAT dialect: a service per model at `/tomaat/<model>/`, for 3D Slicer; see docs/protocols/tomaat.md."""

from inference_server.api.tomaat.routes import ROOT_PATHS, answer_error, blueprint, root

__all__ = ["ROOT_PATHS", "answer_error", "blueprint", "root"]
