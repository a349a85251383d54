"""Train ct-body: ``python train.py --data DIR --out DIR --minutes 50``.

Writes ``model.safetensors`` (the running average of the weights) every few minutes and at the end.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
from cases import random_phantom, training_cts
from monai.bundle import ConfigParser
from safetensors.torch import load_file, save_file
from samples import HU_UNIT, Sampler, Source
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).parent
SMALL, FULL = (64, 64, 48), (96, 96, 64)
PHANTOMS, PHANTOM_SHARE = 45, 0.35
RANGES_HU = (-1000.0, -500.0, -100.0, 60.0, 260.0, 1000.0)
"""The first layer says of each of these ranges how far a voxel's HU lie in it, 0 to 1; it starts with them."""
WEIGHTS = (1.0, 1.0, 4.0)
"""Of BODY, LUNGS and BONE in the cross-entropy: bone is rare. Per channel, so that no surface is pushed outwards."""
LEARNING_RATE, WARM_UP_STEPS, AVERAGE_DECAY = 1.5e-3, 100, 0.998
SAVE_EVERY_S = 120.0
log = logging.getLogger("train")


def main() -> None:
    """Read the arguments, gather the sources, train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the CTs")
    parser.add_argument("--out", type=Path, required=True, help="where weights and log go")
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="weights to go on from, instead of random ones")
    parser.add_argument("--threads", type=int, default=1, help="more than one pays only on an idle machine")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    sources = gather(args.data, args.seed)
    model = network(args.start).to(memory_format=torch.channels_last_3d)
    train(model, sources, args.out / "model.safetensors", seconds=60 * args.minutes, seed=args.seed)


def network(start: Path | None) -> nn.Module:
    """The network of the bundle's configuration, with random weights or with those of a file."""
    config = ConfigParser(ConfigParser.load_config_file(HERE / "configs" / "inference.json"))
    model: nn.Module = config.get_parsed_content("network_def")
    if start:
        model.load_state_dict(load_file(start))
    else:
        spread_ranges(model[0])  # type: ignore[index]
    return model


@torch.no_grad()
def spread_ranges(layer: nn.Conv3d) -> None:
    """Set the first layer's weights so that each channel rises from 0 to 1 within a range; the last is always 1."""
    low, width = torch.tensor(RANGES_HU[:-1]), torch.tensor(RANGES_HU).diff()
    layer.weight.copy_(torch.cat([HU_UNIT / width, torch.zeros(1)]).view_as(layer.weight))
    layer.bias.copy_(torch.cat([-low / width, torch.ones(1)]))  # type: ignore[union-attr]


def gather(data: Path, seed: int) -> tuple[list[Source], list[Source]]:
    """Real CTs and phantoms, ready for sampling."""
    rng = np.random.default_rng(seed)
    real = [Source.of(ct) for ct in training_cts(data)]
    phantoms = [Source.of(random_phantom(rng)) for _ in range(PHANTOMS)]
    log.info("%d real CTs (the head counts twice), %d phantoms", len(real), len(phantoms))
    return real, phantoms


def loss_of(logits: Tensor, soft: Tensor) -> Tensor:
    """Cross-entropy and Dice against soft labels; both are least where the probability equals the label."""
    logits = logits.float()
    weight = torch.tensor(WEIGHTS).view(1, 3, 1, 1, 1)
    entropy = functional.binary_cross_entropy_with_logits(logits, soft, weight=weight)
    probability, axes = logits.sigmoid(), (2, 3, 4)
    overlap = 2 * (probability * soft).sum(axes) + 50
    dice = overlap / ((probability**2).sum(axes) + (soft**2).sum(axes) + 50)
    return entropy + 0.5 * (1 - dice).mean()


def train(
    model: nn.Module, sources: tuple[list[Source], list[Source]], target: Path, *, seconds: float, seed: int
) -> None:
    """Train for a given time, small windows first; the learning rate falls to zero with the time left."""
    average = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=1e-4)
    sampler = Sampler(torch.Generator().manual_seed(seed))
    start = saved = time.monotonic()
    step, recent = 0, []
    while (progress := (time.monotonic() - start) / seconds) < 1:
        rate = LEARNING_RATE * min(1, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * progress))
        optimizer.param_groups[0]["lr"] = rate
        recent.append(_step(model, optimizer, _batch(sampler, sources, SMALL if progress < 0.3 else FULL)))
        step += 1
        _blend(average, model, min(AVERAGE_DECAY, step / (step + 10)))
        if step % 50 == 0:
            log.info("step %d %3.0f %% loss %.4f", step, 100 * progress, np.mean(recent[-50:]))
        if time.monotonic() - saved > SAVE_EVERY_S:
            saved = time.monotonic()
            save(average, target)
    save(average, target)
    log.info("done after %d steps", step)


def save(weights: dict[str, Tensor], target: Path) -> None:
    """Write weights whole or not at all, in the plain memory order that safetensors asks for."""
    partial = target.with_suffix(".partial")
    save_file({name: value.contiguous() for name, value in weights.items()}, partial)
    partial.replace(target)


def _batch(
    sampler: Sampler, sources: tuple[list[Source], list[Source]], size: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    pool = sources[1] if sampler.chance(PHANTOM_SHARE) else sources[0]
    source = pool[int(torch.randint(len(pool), (), generator=sampler.random))]
    return sampler.window(source, size)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> float:
    image, soft = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(image.to(memory_format=torch.channels_last_3d))
    loss = loss_of(logits, soft)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 2.0)
    optimizer.step()
    return float(loss)


def _blend(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    for name, value in model.state_dict().items():
        average[name].lerp_(value, 1 - decay)


if __name__ == "__main__":
    main()
