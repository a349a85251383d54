"""The forward passes of an ensemble's networks and nothing else: prints the seconds of one prediction.

Torch's own, operation by operation, or with `graph` as the manifests have them computed in a worker.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from inference_server.imaging.picture import read_picture
from inference_server.models.backends import PLAIN
from inference_server.models.case import Case
from inference_server.models.engine import Engine
from inference_server.models.registry import Registry

LIMIT_BYTES = 2**30
WARM_UP = 20


def main() -> None:
    """Time so many predictions of the ensemble of a folder of models, on a picture prepared before."""
    folder, ensemble, image, count = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    way = sys.argv[5]
    registry = Registry([folder])
    engine = Engine(registry)
    case = Case({"image": read_picture(image, max_bytes=LIMIT_BYTES)})
    runtimes = [engine.load(member) for member in registry.get(ensemble).members]
    if way == "eager":
        for runtime in runtimes:
            runtime.compute(PLAIN)
    inputs = [runtime.prepare(case).inputs[None] for runtime in runtimes]
    pictures = [one.squeeze(-1).transpose(-1, -2).contiguous() for one in inputs]  # (B, 1, Y, X)
    pairs = [(runtime.network, picture) for runtime, picture in zip(runtimes, pictures, strict=True) if runtime.network]
    with torch.inference_mode():
        for _ in range(WARM_UP):
            [network(picture) for network, picture in pairs]
        start = time.perf_counter()
        for _ in range(count):
            [network(picture) for network, picture in pairs]
    print((time.perf_counter() - start) / count)


if __name__ == "__main__":
    main()
