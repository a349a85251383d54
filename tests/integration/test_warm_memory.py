"""What a worker keeps loaded, and that it gives the memory of the rest back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from broker import Redis
from bundles import Bundle
from safetensors.torch import save_file
from servers import Server, Worker, settings_for

MIB = 1024**2
LAYERS = 240
"""Of 0.42 MiB each: small enough for the C library to keep them when they are freed."""
LARGE_BYTES = LAYERS * 64 * 64 * 27 * 4
NETWORK = """
import torch

class Net(torch.nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.first = torch.nn.Conv3d(1, 2, 1)
        self.rest = torch.nn.ModuleList(torch.nn.Conv3d(64, 64, 3, bias=False) for _ in range(layers))

    def forward(self, image):
        return self.first(image)
"""


def write_network(folder: Path, layers: int) -> None:
    folder.mkdir(parents=True)
    names = {"first.weight": (2, 1, 1, 1, 1), "first.bias": (2,)}
    names |= {f"rest.{index}.weight": (64, 64, 3, 3, 3) for index in range(layers)}
    save_file({name: torch.ones(shape) for name, shape in names.items()}, folder / "model.safetensors")
    (folder / "net.py").write_text(NETWORK)
    network = {"class": "net.py:Net", "arguments": {"layers": layers}}
    manifest = {"runtime": "network", "network": network, "labels": {1: {"name": "A"}}, "precision": "float32"}
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest))


def test_the_memory_of_a_model_that_leaves_is_given_back(tmp_path: Path) -> None:
    write_network(tmp_path / "small", 1)
    write_network(tmp_path / "large", LAYERS)
    command = [sys.executable, str(Path(__file__).with_name("warm_child.py")), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    small, large = (json.loads(done.stdout)[name] for name in ("small", "large"))
    assert large[0] - small[0] > 0.9 * LARGE_BYTES
    given_back = [taken - left for taken, left in zip(large, small[1:], strict=False)]
    assert min(given_back) > 0.9 * LARGE_BYTES
    assert max(large[1:]) - large[0] < 0.3 * LARGE_BYTES
    assert max(small[2:]) - small[1] < 0.1 * LARGE_BYTES


def test_a_worker_is_ready_when_its_models_are_warm(tmp_path: Path, redis: Redis) -> None:
    models = tmp_path / "models"
    given = {"models_dirs": str(models), "zoo": False, "device": "cpu"}
    server = Server(settings_for(tmp_path / "data", redis.url, **given))
    Bundle(manifest={"queue": server.queue}).write(models / "wanted")
    Bundle(manifest={"queue": server.queue, "preload": False}).write(models / "later")
    Bundle(manifest={"queue": "another"}).write(models / "elsewhere")
    worker = Worker(server, tmp_path / "worker.log", command=("-m", "inference_server", "worker"))
    try:
        loaded = [line for line in worker.log.splitlines() if "model loaded" in line]
        assert len(loaded) == 2  # one in each child
        assert all("model=wanted" in line for line in loaded)
    finally:
        worker.close()
