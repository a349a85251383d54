"""The forward passes of the benchmark network and nothing else: prints the seconds that they take."""

from __future__ import annotations

import sys
import time

import torch

from benchmarks.bundles import WINDOW, segresnet


def main() -> None:
    """Time as many windows as asked for, in the precision asked for, after one to warm up."""
    dtype, windows = getattr(torch, sys.argv[1]), int(sys.argv[2])
    options = {"dtype": dtype, "memory_format": torch.channels_last_3d}
    network, window = segresnet().to(**options), torch.randn(1, 1, *WINDOW).to(**options)
    with torch.inference_mode():
        network(window)
        start = time.perf_counter()
        for _ in range(windows):
            network(window)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
