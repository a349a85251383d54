"""What this machine and its device have."""

from __future__ import annotations

from inference_server.models.device import describe_device, identify_device, memory_bytes, open_device
from inference_server.models.memory import host_memory_bytes
from inference_server.models.resources import Machine


def this_machine(device_name: str) -> Machine:
    """Return what a worker has whose setting `device` is this.

    Asking for a GPU starts CUDA in this process, whose forks cannot use it any more.

    Raises:
        SettingsError: there is no such device here.
    """
    device = open_device(device_name)
    sizes = memory_bytes(device), host_memory_bytes()
    return Machine(describe_device(device), device.type, *sizes, identify_device(device))
