"""The dialect of the extension inside MIM Software, at `/api/tasks/`."""

from inference_server.api.mim.routes import answer_error, blueprint

__all__ = ["answer_error", "blueprint"]
