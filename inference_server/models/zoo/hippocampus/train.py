"""Train the hippocampus network; see README.md for the command that made the shipped weights."""

from __future__ import annotations

import argparse
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.losses import DiceCELoss
from monai.utils import set_determinism
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from inference_server.models.zoo.hippocampus.augment import augment
from inference_server.models.zoo.hippocampus.cases import LabelledCase, read_config, split_cases

Tensors = list[torch.Tensor] | tuple[torch.Tensor, ...]

logger = logging.getLogger(__name__)

BATCH_SIZE = 2
PEAK_LEARNING_RATE = 1.5e-3
WARM_UP = 0.04
WEIGHT_DECAY = 1e-2
GRADIENT_NORM = 1.0
EMA_DECAY = 0.998
CHECKPOINT_EVERY_S = 180.0


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of steps, which repeats exactly, or minutes of this machine."""

    minutes: float
    steps: int | None

    def spent(self, step: int, started_s: float) -> float:
        """Return the fraction of the budget that is used up, 0 to 1 and beyond."""
        if self.steps is not None:
            return step / self.steps
        return (time.monotonic() - started_s) / (60.0 * self.minutes)


@torch.no_grad()
def moving_average(average: Tensors, current: Tensors, _count: torch.Tensor | int) -> None:
    """Move averaged weights towards the current ones, in place."""
    torch._foreach_lerp_(average, current, 1 - EMA_DECAY)


@dataclass(frozen=True)
class Sample:
    """One case in memory: ``image`` float32 ``(1, X, Y, Z)``, normalised; ``label`` uint8, same shape."""

    image: torch.Tensor
    label: torch.Tensor


def load_samples(cases: list[LabelledCase]) -> list[Sample]:
    """Read cases through the bundle's own preprocessing, so that training sees what inference sees."""
    preprocessing = read_config().get_parsed_content("preprocessing")
    return [
        Sample(
            preprocessing({"image": str(case.image)})["image"].as_tensor().contiguous(),
            torch.from_numpy(case.read_label())[None],
        )
        for case in cases
    ]


def learning_rate(spent: float) -> float:
    """One cycle: a linear warm-up, then half a cosine down to zero."""
    if spent < WARM_UP:
        return PEAK_LEARNING_RATE * max(spent / WARM_UP, 0.01)
    return PEAK_LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * min(1.0, (spent - WARM_UP) / (1 - WARM_UP))))


def make_batch(samples: list[Sample], generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment cases into one batch ``(B, 1, X, Y, Z)`` of images and of labels."""
    pairs = [augment(sample.image, sample.label, generator=generator) for sample in samples]
    images = torch.stack([image for image, _ in pairs]).contiguous(memory_format=torch.channels_last_3d)
    return images, torch.stack([label for _, label in pairs])


class Trainer:
    """Network, averaged network, loss and optimiser of one run."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.average = AveragedModel(network, multi_avg_fn=moving_average)
        self.loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
        self.optimiser = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)

    def step(self, images: torch.Tensor, labels: torch.Tensor, *, rate: float) -> float:
        """Make one optimiser step at a learning rate and return the loss before it."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.network(images)
        loss = self.loss(logits.float(), labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        self.optimiser.step()
        self.average.update_parameters(self.network)
        return float(loss.detach())

    def save(self, path: Path) -> None:
        """Write the averaged weights as float16 safetensors, whole or not at all."""
        state = self.average.module.state_dict()
        half = {name: value.to(torch.float16).contiguous() for name, value in state.items()}
        save_file(half, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)


def train(samples: list[Sample], budget: Budget, *, out: Path, seed: int) -> None:
    """Train on all samples and keep the latest averaged weights in ``out/model.safetensors``.

    Nothing is selected on the way: the last weights are the result.
    """
    set_determinism(seed)
    generator = torch.Generator().manual_seed(seed)
    trainer = Trainer(read_config().get_parsed_content("network_def"))
    started_s = saved_s = time.monotonic()
    step, losses = 0, [0.0]
    while (spent := budget.spent(step, started_s)) < 1.0:
        at = step * BATCH_SIZE % (len(samples) // BATCH_SIZE * BATCH_SIZE)
        if at == 0:
            order = torch.randperm(len(samples), generator=generator).tolist()
            logger.info("step %d spent %.3f loss %.4f", step, spent, sum(losses) / len(losses))
            losses = []
        chosen = [samples[index] for index in order[at : at + BATCH_SIZE]]
        losses.append(trainer.step(*make_batch(chosen, generator), rate=learning_rate(spent)))
        step += 1
        if time.monotonic() - saved_s > CHECKPOINT_EVERY_S:
            trainer.save(out / "model.safetensors")
            saved_s = time.monotonic()
    trainer.save(out / "model.safetensors")
    logger.info("done after %d steps, %.1f minutes", step, (time.monotonic() - started_s) / 60)


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with imagesTr and labelsTr")
    parser.add_argument("--out", type=Path, required=True, help="folder for model.safetensors")
    parser.add_argument("--minutes", type=float, default=80.0)
    parser.add_argument("--steps", type=int, help="train this many steps instead of minutes; repeats exactly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    samples = load_samples(split_cases(arguments.data)[0])
    train(samples, Budget(arguments.minutes, arguments.steps), out=arguments.out, seed=arguments.seed)


if __name__ == "__main__":
    main()
