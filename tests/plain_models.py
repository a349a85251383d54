"""The models of `bundles`, written for the runtimes whose `model.yaml` says how to prepare and restore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from bundles import Bundle
from safetensors.torch import save_file

LABELLING = """
import torch

class Labelling(torch.nn.Conv3d):
    def forward(self, x):
        return super().forward(x).argmax(1, keepdim=True).float()
"""
"""A network that decides by itself."""


class Labelling(torch.nn.Conv3d):
    """The same, for programs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.weight, self.bias).argmax(1, keepdim=True).float()


def write_plain(bundle: Bundle, runtime: str, folder: Path) -> Path:
    """Write a bundle's model for another runtime; one with postprocessing of its own becomes a network of labels."""
    folder.mkdir(parents=True)
    arguments = {key: value for key, value in bundle.network.items() if key != "_target_"}
    labels = any(step["_target_"] == "LabelFilterd" for step in bundle.post)
    manifest: dict[str, Any] = {
        "runtime": runtime,
        "labels": {int(value): {"name": name} for value, name in bundle.classes.items() if value != "0"},
        "restore": "labels" if labels else "argmax",
        "prepare": prepare_section(bundle),
        "inferer": inferer_section({} if labels else bundle.inferer),
        **bundle.manifest,
    }
    if runtime == "network":
        name = "labelling.py:Labelling" if labels else "torch.nn.Conv3d"
        manifest["network"] = {"class": name, "arguments": arguments}
        (folder / "labelling.py").write_text(LABELLING)
        save_file(bundle.state, folder / "model.safetensors")
    else:
        network = (Labelling if labels else torch.nn.Conv3d)(**arguments)
        network.load_state_dict(bundle.state)
        write_program(network.eval(), runtime, folder)
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest))
    return folder


def write_program(network: torch.nn.Conv3d, runtime: str, folder: Path) -> None:
    """Write a network as a program that takes images of any size."""
    image = torch.zeros(1, network.in_channels, 6, 7, 8)
    if runtime == "torchscript":
        torch.jit.trace(network, image).save(str(folder / "model.ts"))
        return
    sizes = dict.fromkeys((2, 3, 4), torch.export.Dim.AUTO)
    torch.export.save(torch.export.export(network, (image,), dynamic_shapes=(sizes,)), folder / "model.pt2")


def prepare_section(bundle: Bundle) -> dict[str, Any]:
    """Say in the manifest's words what a bundle's transforms do."""
    declared: dict[str, Any] = {"intensity": []}
    for transform in bundle.transforms:
        match transform["_target_"]:
            case "Orientationd":
                declared["orientation"] = transform["axcodes"]
            case "Spacingd":
                declared["spacing_mm"] = transform["pixdim"]
            case "ScaleIntensityRanged":
                low, high, first, second = (transform[key] for key in ("a_min", "a_max", "b_min", "b_max"))
                declared["intensity"].append({"step": "scale", "low": low, "high": high, "to": [first, second]})
            case "NormalizeIntensityd":
                declared["intensity"].append({"step": "zscore"})
    return declared


def inferer_section(inferer: dict[str, Any]) -> dict[str, Any]:
    """Say in the manifest's words how a bundle leads its network over an image."""
    if "roi_size" not in inferer:
        return {"kind": "whole"}
    return {"kind": "windows", "size": inferer["roi_size"], "overlap": inferer["overlap"], "mode": inferer["mode"]}
