"""Train and judge the chest X-ray networks: ``python train.py --data DIR --out DIR``.

First the weights that a server would use are trained, on all pictures; then each network is judged by a repeated
cross-validation, in which it is trained anew for each fold. Both go on where they were stopped, if they are given the
same folder to write into. The figures are of the cross-validation alone: none comes of a picture that was trained on.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from folds import Record, Said, deal, table_of, together
from scoring import score
from torch import Tensor
from training import Recipe, new_network, pneumonia, save, seed_of, train
from xrays import Xray, list_xrays, read_xrays

from inference_server.models.bundle import read_mapping
from inference_server.models.manifest import Manifest, parse_manifest
from inference_server.models.model import MANIFEST
from inference_server.models.runtimes.plain import preparation

ZOO = Path(__file__).resolve().parent.parent
ENSEMBLE = Path(__file__).resolve().parent.name

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Data:
    """Pictures in memory: ``pixels`` (N, 1, Y, X) float16, ``labels`` (N,) int64."""

    xrays: list[Xray]
    pixels: Tensor
    labels: Tensor


def manifests() -> dict[str, Manifest]:
    """Return what the ensemble's members declare, by id, whether or not they have weights yet."""
    members = read_mapping(ZOO / ENSEMBLE / MANIFEST)["members"]
    return {name: parse_manifest(read_mapping(ZOO / name / MANIFEST)) for name in members}


def read_data(folder: Path, networks: dict[str, Manifest], *, most_normals: float, seed: int) -> Data:
    """Read all pictures once, as the server prepares them for these networks.

    Raises:
        ValueError: the networks want them prepared differently.
    """
    first, *others = map(preparation, networks.values())
    if any(other != first for other in others):
        raise ValueError("The networks' manifests differ in `prepare`; the same was expected of all.")
    xrays = list_xrays(folder, most_normals=most_normals, seed=seed)
    return Data(xrays, read_xrays(xrays, first), torch.tensor([xray.label for xray in xrays]))


def check_run(out: Path, data: Data, given: argparse.Namespace) -> None:
    """Note what a run is made of, or see that it goes on with the same.

    Raises:
        ValueError: the folder holds a run with other pictures, networks or settings.
    """
    networks = {name: manifest.model_dump(mode="json") for name, manifest in manifests().items()}
    settings = {"folds": given.folds, "epochs": given.epochs, "seed": given.seed}
    facts = {"pictures": [xray.name for xray in data.xrays], "networks": networks, **settings}
    path = out / "run.json"
    if not path.is_file():
        path.write_text(json.dumps(facts, indent=1))
    elif json.loads(path.read_text()) != facts:
        raise ValueError(f"{out} holds a run with other pictures, networks or settings; an empty folder was expected.")


def train_weights(data: Data, networks: dict[str, Manifest], out: Path, *, recipe: Recipe, seed: int) -> None:
    """Write each network's weights, trained on all pictures, unless they are there."""
    for name, manifest in networks.items():
        path = out / name / "model.safetensors"
        if not path.is_file():
            began = time.monotonic()
            own = seed_of(seed, name, "all")
            network = new_network(manifest, ZOO / name, seed=own)
            save(train(network, data.pixels, data.labels, recipe=recipe, seed=own), path)
            logger.info("%s trained on all pictures in %.0f s", name, time.monotonic() - began)


def cross_validate(
    data: Data, networks: dict[str, Manifest], record: Record, *, folds: int, repeat: int, recipe: Recipe, seed: int
) -> None:
    """Have each network say of each fold's pictures what it thinks after training on the others."""
    dealt = deal(data.xrays, folds, seed=seed_of(seed, "folds", repeat))
    done = {(said.model, said.repeat, said.fold) for said in record.read()}
    for fold in range(folds):
        for name, manifest in networks.items():
            if (name, repeat, fold) in done:
                continue
            began = time.monotonic()
            others, held_out = (torch.from_numpy(np.flatnonzero(part)) for part in (dealt != fold, dealt == fold))
            own = seed_of(seed, name, repeat, fold)
            network = new_network(manifest, ZOO / name, seed=own)
            train(network, data.pixels[others], data.labels[others], recipe=recipe, seed=own)
            chances = pneumonia(network, data.pixels[held_out]).tolist()
            record.add(
                Said(name, repeat, fold, data.xrays[index].name, chance)
                for index, chance in zip(held_out.tolist(), chances, strict=True)
            )
            logger.info("%s repeat %d fold %d in %.0f s", name, repeat, fold, time.monotonic() - began)


def report(data: Data, record: Record) -> str:
    """Return a table of the figures, of all repeats that are complete."""
    tables = dict(table_of(record.read(), data.xrays))
    if len(tables) == len(manifests()):
        tables[ENSEMBLE] = together(tables)
    labels, patients = data.labels.numpy(), [xray.patient for xray in data.xrays]
    lines = ["| network | repeats | AUC (95 % interval) | accuracy (95 % interval) | AUC of each repeat | |"]
    lines.append("|---|---|---|---|---|---|")
    for name, chances in tables.items():
        found = score(labels, chances, patients)
        each = ", ".join(f"{value:.3f}" for value in found.aucs)
        lines.append(f"| `{name}` | {len(chances)} | {found.auc} | {found.accuracy} | {each} | {found.verdict} |")
    return "\n".join(lines)


def main() -> None:
    """Train and judge from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="labels.csv and pictures, or ChestX-ray14")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, predictions.csv and report.md")
    parser.add_argument("--networks", nargs="*", default=list(manifests()), help="ids, to train only these")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2, help="of the cross-validation; 0 trains weights only")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--most-normals", type=float, default=5.0, help="for each picture of pneumonia, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    networks = {name: manifests()[name] for name in given.networks}
    data = read_data(given.data, networks, most_normals=given.most_normals, seed=given.seed)
    check_run(given.out, data, given)
    logger.info("%d pictures, %d of pneumonia", len(data.xrays), int(data.labels.sum()))
    recipe, record = Recipe(epochs=given.epochs), Record(given.out / "predictions.csv")
    train_weights(data, networks, given.out, recipe=recipe, seed=given.seed)
    for repeat in range(given.repeats):
        cross_validate(data, networks, record, folds=given.folds, repeat=repeat, recipe=recipe, seed=given.seed)
    table = report(data, record)
    (given.out / "report.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
