"""What kustomize makes of `deploy/kubernetes`, and what is in it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from inference_server.settings import PREFIX

Manifest = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy" / "kubernetes"


def built(folder: Path) -> list[Manifest]:
    """Return what kustomize makes of a folder; skip visibly where there is no kustomize."""
    commands = {"kustomize": ["kustomize", "build"], "kubectl": ["kubectl", "kustomize"]}
    found = next((words for name, words in commands.items() if shutil.which(name)), None)
    if found is None:
        pytest.skip("neither kustomize nor kubectl is here")
    done = subprocess.run([*found, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Return the pods' specifications by the name of their Deployment."""
    return {name: one["spec"]["template"]["spec"] for name, one in of_kind(manifests, "Deployment").items()}


def containers(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Return the one container of each Deployment."""
    found = {}
    for name, pod in pods(manifests).items():
        assert "initContainers" not in pod
        (found[name],) = pod["containers"]
    return found


def workers(manifests: list[Manifest]) -> dict[str, Manifest]:
    return {name: one for name, one in of_kind(manifests, "Deployment").items() if name.startswith("worker")}


def variables(container: Manifest) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container["env"]}


def setting(container: Manifest, name: str) -> str:
    return variables(container)[PREFIX + name]


def lines(name: str) -> dict[str, str]:
    """Return the variables of a file of the hospital's."""
    text = (FOLDER / "hospital" / name).read_text()
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    assert not set(selector) - {"matchLabels"}
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def chosen(manifests: list[Manifest], selector: Manifest) -> set[str]:
    """Return the Deployments whose pods a selector selects."""
    deployments = of_kind(manifests, "Deployment").items()
    return {name for name, one in deployments if selects(selector, one["spec"]["template"]["metadata"]["labels"])}


def edges(manifests: list[Manifest], deployment: str) -> Iterator[tuple[str, str, int | str]]:
    """Yield with whom the pods of a Deployment may talk: the direction, the other side and the port."""
    for policy in of_kind(manifests, "NetworkPolicy").values():
        spec = policy["spec"]
        if deployment in chosen(manifests, spec["podSelector"]):
            sides = [("from", "ingress"), ("to", "egress")]
            said = [(side, kind) for side, kind in sides if kind.title() in spec["policyTypes"]]
            rules = [(side, rule) for side, kind in said for rule in spec.get(kind, ())]
            for side, rule in rules:
                for peer in rule[side]:
                    yield from ((side, told(peer), port["port"]) for port in rule["ports"])


def told(peer: Manifest) -> str:
    if "ipBlock" in peer:
        return str(peer["ipBlock"]["cidr"])
    labels = [*peer["namespaceSelector"]["matchLabels"].values()]
    return " ".join([*labels, *peer.get("podSelector", {}).get("matchLabels", {}).values()])


def probes(container: Manifest) -> Iterator[Manifest]:
    yield from (one for name, one in container.items() if name.endswith("Probe"))
