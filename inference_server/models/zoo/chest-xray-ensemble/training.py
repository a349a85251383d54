"""One training: a network, some pictures, and what it says of others."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from augment import augment
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from inference_server.models.manifest import Manifest
from inference_server.models.runtimes.network import make_network


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the same for all of them.

    An epoch sees as many pictures of either class, all of the rarer one.
    """

    epochs: int = 30
    batch: int = 16
    learning_rate: float = 2e-3
    warm_up: float = 0.1
    weight_decay: float = 5e-2
    smoothing: float = 0.1

    def rate(self, spent: float) -> float:
        """Return the learning rate when a share of the training is over: up linearly, then half a cosine down."""
        if spent < self.warm_up:
            return self.learning_rate * (spent + 0.01) / (self.warm_up + 0.01)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (spent - self.warm_up) / (1 - self.warm_up)))


def seed_of(*parts: object) -> int:
    """Return a seed that follows from some words."""
    return zlib.crc32(" ".join(map(str, parts)).encode())


def new_network(manifest: Manifest, folder: Path, *, seed: int) -> nn.Module:
    """Return the network of a model's folder with random weights; seeds what is random in it, dropout too."""
    assert manifest.network is not None
    torch.manual_seed(seed)
    return make_network(manifest.network, folder)


def train(network: nn.Module, pictures: Tensor, labels: Tensor, *, recipe: Recipe, seed: int) -> nn.Module:
    """Train a network on all of some pictures and return it; nothing is chosen on the way, the last weights count.

    Args:
        network: with random weights; changed.
        pictures: ``(N, 1, Y, X)`` floating, -1 to 1.
        labels: ``(N,)`` int64.
        recipe: how.
        seed: of the order of the pictures, and of their changes.
    """
    generator = torch.Generator().manual_seed(seed)
    network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=recipe.weight_decay)
    batches = [chosen for _ in range(recipe.epochs) for chosen in epoch(labels, recipe.batch, generator)]
    for number, chosen in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(number / len(batches))
        batch = augment(pictures[chosen].float(), generator).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(batch)
        loss = functional.cross_entropy(scores.float(), labels[chosen], label_smoothing=recipe.smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return network.eval().requires_grad_(False)


def epoch(labels: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of batches: all pictures of the rarer class and as many of the other, in random order."""
    of_classes = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    count = min(map(len, of_classes))
    drawn = torch.cat([members[torch.randperm(len(members), generator=generator)[:count]] for members in of_classes])
    yield from drawn[torch.randperm(len(drawn), generator=generator)].tensor_split(math.ceil(len(drawn) / batch))


@torch.inference_mode()
def pneumonia(network: nn.Module, pictures: Tensor) -> Tensor:
    """Return the probability of pneumonia, ``(N,)``, of pictures ``(N, 1, Y, X)``."""
    return torch.cat([network(part.float()).softmax(1)[:, 1] for part in pictures.split(32)])


def save(network: nn.Module, path: Path) -> None:
    """Write a network's weights; what is floating as float16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: _stored(value) for name, value in network.state_dict().items()}, path)


def _stored(value: Tensor) -> Tensor:
    return (value.half() if value.is_floating_point() else value).contiguous()
