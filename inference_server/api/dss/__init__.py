"""The DSS dialect: sign-in, services and tickets of ITK-SNAP, `itksnap-wt` and algorithm providers.

See docs/protocols/dss.md.
"""

from inference_server.api.dss.answer import answer_error
from inference_server.api.dss.desk import EXTENSION, open_desk
from inference_server.api.dss.routes import PATHS, blueprint
from inference_server.api.dss.session import presented

__all__ = ["EXTENSION", "PATHS", "answer_error", "blueprint", "open_desk", "presented"]
