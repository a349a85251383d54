"""Fitness: which queues a worker can serve wholly. It decides what a worker listens to, never what it claims."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from inference_server.errors import SettingsError
from inference_server.models.manifest import Manifest
from inference_server.models.resources import Machine
from inference_server.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitness:
    """What a machine can do for some queues.

    Attributes:
        queues: those of which it can run every model.
        unfit: for every other one, which models it cannot run and why.
    """

    queues: tuple[str, ...]
    unfit: Mapping[str, Sequence[str]] = field(default_factory=dict)


def judge(queues: Sequence[str], manifests: Sequence[Manifest], machine: Machine) -> Fitness:
    """Tell queues that a machine can serve from those with a model that needs something else.

    Args:
        queues: by name.
        manifests: of every model and version that is served.
        machine: of the worker.
    """
    named = {f"{manifest.id}:{manifest.version}": manifest for manifest in manifests}
    found = {queue: list(_unfit(queue, named, machine)) for queue in queues}
    unfit = {queue: reasons for queue, reasons in found.items() if reasons}
    return Fitness(tuple(queue for queue in queues if queue not in unfit), unfit)


def with_fit_queues(settings: Settings, manifests: Sequence[Manifest], machine: Machine) -> Settings:
    """Return the settings of a worker that listens only to the queues it can serve; the others are logged.

    Raises:
        SettingsError: none is left.
    """
    fitness = judge(settings.queue_names, manifests, machine)
    for queue, reasons in fitness.unfit.items():
        log.error("queue not listened to", extra={"queue": queue, "why": "; ".join(reasons)})
    if not fitness.queues:
        raise SettingsError(f"This worker can serve none of its queues. {explained(fitness)} {MEND}")
    return settings.model_copy(update={"queues": ",".join(fitness.queues)})


def explained(fitness: Fitness) -> str:
    """Return in sentences why some queues are not served."""
    return " ".join(f"Queue '{queue}': {'; '.join(reasons)}." for queue, reasons in fitness.unfit.items())


def _unfit(queue: str, named: Mapping[str, Manifest], machine: Machine) -> Iterator[str]:
    for name, manifest in named.items():
        if manifest.queue == queue:
            needs = [manifest, *(named[member] for member in manifest.members if member in named)]
            lacks = next((lack for one in needs if (lack := machine.lacks(one.resources))), None)
            if lacks:
                yield f"{name} cannot run here, {lacks}"


MEND = (
    "Give such models a queue of their own (`resources: {queue: …}` in model.yaml) and name it in "
    "INFERENCE_SERVER_QUEUES of a worker that has what they need."
)
