"""What a model needs of the machine, and whether a worker's device has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from inference_server.models.declared import Declared

QUEUE = r"^[A-Za-z0-9._-]{1,50}$"
SHORT_FORMS = ("queue", "time_limit_s")
"""Keys of this section that may stand at the top of `model.yaml` as well."""


def _size(value: object, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        size = check(value)
    except ValidationError:
        size = 0
    if isinstance(value, bool) or size <= 0:
        raise ValueError("a size such as 6GiB, 500 MB or a number of bytes was expected")
    return size


Size = Annotated[ByteSize, WrapValidator(_size)]


class Resources(Declared):
    """The section `resources`: which workers a model's tasks go to, and what it needs there."""

    device: Literal["any", "cpu", "cuda"] = "any"
    memory_bytes: Size | None = Field(None, alias="memory", description="memory of the device, while it computes")
    host_memory_bytes: Size | None = Field(None, alias="host_memory", description="memory of the machine")
    cpu_fallback: bool = Field(
        False, description="whether the CPU takes a case over for which the GPU's memory does not suffice"
    )
    queue: Annotated[str, Field(pattern=QUEUE)] = "default"
    time_limit_s: float | None = Field(None, gt=0)


@dataclass(frozen=True)
class Machine:
    """What a worker has.

    Attributes:
        device: what its models compute on, by its name for people.
        kind: `cpu` or `cuda`.
        memory_bytes: of the device.
        host_memory_bytes: of the machine, as far as this process may use it.
        device_id: what tells the device from the machine's others.
    """

    device: str
    kind: str
    memory_bytes: int
    host_memory_bytes: int
    device_id: str = ""

    def lacks(self, needed: Resources) -> str | None:
        """Return what a model would miss here, in words, or None if nothing."""
        if needed.device not in ("any", self.kind):
            return f"it computes on {needed.device} and this worker on {self.device}"
        memory, host_memory = needed.memory_bytes or 0, needed.host_memory_bytes or 0
        if memory > self.memory_bytes:
            if not (needed.cpu_fallback and self.kind == "cuda"):
                return f"it needs {shown(memory)} of device memory and {self.device} has {shown(self.memory_bytes)}"
            host_memory = max(host_memory, memory)
        if host_memory > self.host_memory_bytes:
            return f"it needs {shown(host_memory)} of main memory and this machine has {shown(self.host_memory_bytes)}"
        return None


def shown(size_bytes: int) -> str:
    """Return a size for people: `6 GiB`, `1.5 GiB`, `512 MiB`."""
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size_bytes >= factor:
            return f"{round(size_bytes / factor, 1):g} {unit}"
    return f"{size_bytes} B"
