"""The script that a service is defined in: noted where it is started, and run again in every worker."""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

from inference_server.errors import ModelLoadError, SettingsError

SOURCE, FACTS = "script.py", "script.json"
_AWAITED: ContextVar[bool] = ContextVar("script_awaited", default=False)


class HandedOver(BaseException):
    """Ends a script in a worker at `run()`, with its service: nothing that it would catch by itself."""

    def __init__(self, service: object) -> None:
        super().__init__()
        self.service = service


@dataclass(frozen=True)
class Script:
    """How a script was started.

    Attributes:
        path: the script.
        source: its content at that time; what is edited later counts from the next start on.
        root: the folder that it imports from.
        package: the package that it is a module of; empty where it was not started by `python -m`.
        arguments: what came after its name.
    """

    path: Path
    source: bytes
    root: Path
    package: str = ""
    arguments: tuple[str, ...] = ()

    def files(self) -> Mapping[str, bytes]:
        """Return it as files by name."""
        facts = {name: value for name, value in asdict(self).items() if name != "source"}
        return {SOURCE: self.source, FACTS: json.dumps(facts, default=str, indent=1).encode()}


def this_script() -> Script:
    """Return the script that this process was started with.

    Raises:
        SettingsError: it was started without one.
    """
    main = sys.modules["__main__"]
    path = Path(getattr(main, "__file__", None) or "").absolute()
    if not path.is_file():
        raise SettingsError(
            "A service runs from a script, which its workers run too: save it as a file and start that."
        )
    package = getattr(main, "__package__", None) or ""
    levels = len(package.split(".")) if package else 0
    return Script(path, path.read_bytes(), path.parents[levels], package, tuple(sys.argv[1:]))


def read_script(folder: Path) -> Script:
    """Return a script that was written to a folder."""
    facts = json.loads((folder / FACTS).read_text())
    source, arguments = (folder / SOURCE).read_bytes(), tuple(facts["arguments"])
    return Script(Path(facts["path"]), source, Path(facts["root"]), facts["package"], arguments)


def is_started_for(service: object) -> bool:
    """Whether a service that is told to run shall serve. A process of `multiprocessing` only imports its script.

    Raises:
        HandedOver: a worker runs the script, to get the service.
    """
    if _AWAITED.get():
        raise HandedOver(service)
    return not getattr(multiprocessing.current_process(), "_inheriting", False)


def run_script(script: Script) -> object:
    """Run a script as it was started, up to `run()`, and return the service that it would have run.

    It stays this process's `__main__`, so that what it defines can be pickled.

    Raises:
        ModelLoadError: it ends without a call of `run()`.
    """
    module = ModuleType("__main__")
    module.__file__, module.__package__ = str(script.path), script.package or None
    sys.modules["__main__"] = module
    sys.path.insert(0, str(script.root))
    sys.argv[:] = [str(script.path), *script.arguments]
    awaited = _AWAITED.set(True)
    try:
        exec(compile(script.source, script.path, "exec"), vars(module))
    except HandedOver as handed:
        return handed.service
    except SystemExit as exc:
        raise ModelLoadError("The script ended before it called the service's run().") from exc
    finally:
        _AWAITED.reset(awaited)
    raise ModelLoadError("The script never called the service's run().")
