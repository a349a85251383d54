"""A stand-in for MIM's Python module, so that ``mim_extension.ext`` can be imported outside MIM.

from mim_extension.testing import mimpython
mimpython.install()
from mim_extension import ext
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from types import ModuleType
from typing import Any, Callable, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

#: What was declared to MIM: name of the entry point → its function.
ENTRY_POINTS: dict[str, Callable[..., Any]] = {}


class String:
    """MIM's text."""


class Integer:
    """MIM's whole number."""


class XMimImage:
    """MIM's image."""


class XMimSession:
    """MIM's session."""


_TYPES = (String, Integer, XMimImage, XMimSession)


def mim_extension_entrypoint(
    *, name: str, author: str, description: str, category: str, institution: str, version: float
) -> Callable[[F], F]:
    """Declare an entry point; its parameters are annotated with MIM's types, the classes themselves."""
    if not all([name, author, description, category, institution, version]):
        raise ValueError("an entry point says all of this about itself")

    def declare(function: F) -> F:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.annotation not in _TYPES:
                raise TypeError(f"{name}: MIM does not know the type of {parameter.name}")
        ENTRY_POINTS[name] = function
        return function

    return declare


def install() -> None:
    """Put the stand-in where ``import MIMPython`` finds it.

    Raises:
        RuntimeError: this Python has the real MIMPython.
    """
    if "MIMPython" not in sys.modules and importlib.util.find_spec("MIMPython") is not None:
        raise RuntimeError("this is MIM's own Python: use its MIMPython")
    sys.modules.update(_modules())


def uninstall() -> None:
    """Take the stand-in away again."""
    for name in _modules():
        sys.modules.pop(name, None)


def _modules() -> dict[str, ModuleType]:
    package, entry_point, types = map(ModuleType, ("MIMPython", "MIMPython.EntryPoint", "MIMPython.SupportedIOTypes"))
    vars(entry_point)["mim_extension_entrypoint"] = mim_extension_entrypoint
    vars(types).update({kind.__name__: kind for kind in _TYPES})
    vars(package).update(EntryPoint=entry_point, SupportedIOTypes=types)
    return {module.__name__: module for module in (package, entry_point, types)}
