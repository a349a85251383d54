"""What the manifests of Kubernetes name exists in the code and the images: no test runs a cluster."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from kubernetes_support import (
    FOLDER,
    ROOT,
    Manifest,
    built,
    chosen,
    containers,
    edges,
    lines,
    of_kind,
    pods,
    probes,
    setting,
    variables,
    workers,
)
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

import inference_server
from inference_server.api.app import create_app
from inference_server.api.server import STOP_S
from inference_server.cli import app
from inference_server.commands.doctor import CHECKS
from inference_server.models.registry import plain_registry
from inference_server.settings import MIB, PREFIX, Settings
from inference_server.tasks.blobs import open_blobs
from inference_server.tasks.database import open_database
from inference_server.tasks.metrics import Metrics
from inference_server.tasks.metrics_listener import PATH

HAND_BACK_S = 15.0
QUEUE = "inference-server/queue"


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """Everything that the example of a hospital makes, with what it wants beside it filled in."""
    folder = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(FOLDER, folder)
    (folder / "hospital" / "secrets.env").write_text((folder / "hospital" / "secrets.env.example").read_text())
    (folder / "hospital" / "ca.pem").write_text("a certificate\n")
    return built(folder / "hospital")


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_every_manifest_is_valid_by_the_schemas(manifests: list[Manifest], version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    ours = [one for one in manifests if not one["apiVersion"].startswith("keda.sh/")]
    assert len(ours) == len(manifests) - 2
    for one in ours:
        assert validator.validate(one, version, strict=True) == version


@pytest.mark.parametrize("part", ["base", "worker", "queues/big-gpu"])
def test_every_part_builds_by_itself(part: str) -> None:
    assert built(FOLDER / part)


def test_settings_exist(manifests: list[Manifest]) -> None:
    named = {name for container in containers(manifests).values() for name in variables(container)}
    named |= lines("settings.env").keys() | lines("secrets.env.example").keys()
    assert {name.removeprefix(PREFIX).lower() for name in named} <= set(Settings.model_fields)


def test_no_service_becomes_a_setting(manifests: list[Manifest]) -> None:
    assert [pod["enableServiceLinks"] for pod in pods(manifests).values()] == [False] * 4


def test_commands_and_checks_exist(manifests: list[Manifest]) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name, container in containers(manifests).items():
        assert container["args"] == [name.partition("-")[0]]
        assert set(container["args"]) <= set(commands)
        for probe in probes(container):
            if "exec" in probe:
                program, doctor, only, checks = probe["exec"]["command"]
                assert (program, doctor) == ("inference-server", "doctor")
                assert only in {option for parameter in commands[doctor].params for option in parameter.opts}
                assert set(checks.split(",")) <= set(CHECKS)


def test_probes_ask_what_there_is(manifests: list[Manifest], tmp_path: Path) -> None:
    routes = {
        rule.rule
        for rule in create_app(Settings(data_dir=tmp_path, broker_url="redis://127.0.0.1:1/0")).url_map.iter_rules()
    }
    for container in containers(manifests).values():
        for probe in probes(container):
            asked = probe.get("httpGet") or probe.get("tcpSocket") or {}
            assert asked.get("port") in {None, *(port["name"] for port in container.get("ports", ()))}
            assert asked.get("path", PATH) in routes
    api = containers(manifests)["api"]
    assert api["livenessProbe"]["httpGet"]["path"] == "/healthz/live"
    assert api["readinessProbe"]["httpGet"]["path"] == "/healthz/ready"
    assert not [name for name in workers(manifests) if "livenessProbe" in containers(manifests)[name]]


def test_ports_are_those_that_are_listened_to(manifests: list[Manifest]) -> None:
    found = containers(manifests)
    for name, port in (("api", "PORT"), ("housekeeping", "METRICS_PORT")):
        (listened,) = found[name]["ports"]
        assert str(listened["containerPort"]) == setting(found[name], port)
        (offered,) = of_kind(manifests, "Service")[name]["spec"]["ports"]
        assert offered["targetPort"] == listened["name"]
    assert setting(found["api"], "HOST") == setting(found["housekeeping"], "METRICS_HOST") == "0.0.0.0"


def test_nobody_is_root_and_only_volumes_are_written(manifests: list[Manifest]) -> None:
    for name, pod in pods(manifests).items():
        image = (ROOT / f"{'worker' if name.startswith('worker') else 'api'}.Dockerfile").read_text()
        uid, gid = map(int, re.findall(r"^USER (\d+):(\d+)$", image, re.MULTILINE)[-1])
        safe = pod["securityContext"]
        assert (safe["runAsUser"], safe["runAsGroup"], safe["fsGroup"]) == (uid, gid, gid)
        assert safe["runAsNonRoot"] is True
        assert safe["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        written = {one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")}
        assert written == {"/data", "/tmp"}
        assert f"{PREFIX}DATA_DIR=/data" in image
        assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}


def test_images_are_of_this_version(manifests: list[Manifest]) -> None:
    for name, container in containers(manifests).items():
        kind = "worker" if name.startswith("worker") else "api"
        assert re.fullmatch(
            rf".*/inference-server-{kind}:{re.escape(inference_server.__version__)}", container["image"]
        )


def test_selectors_select_what_they_are_for(manifests: list[Manifest]) -> None:
    for name, one in of_kind(manifests, "Deployment").items():
        assert chosen(manifests, one["spec"]["selector"]) == {name}
        assert one["metadata"]["labels"] == one["spec"]["selector"]["matchLabels"]
    for name, one in of_kind(manifests, "Service").items():
        assert chosen(manifests, {"matchLabels": one["spec"]["selector"]}) == {name}
    for name, one in of_kind(manifests, "PodDisruptionBudget").items():
        assert chosen(manifests, one["spec"]["selector"]) == {name} == {"api"}
    api = of_kind(manifests, "Deployment")["api"]["spec"]
    (spread,) = api["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"] == api["selector"]


def test_every_edge_of_the_network_is_one_that_is_needed(manifests: list[Manifest]) -> None:
    names = {("to", "kube-system kube-dns", 53)}
    stores = {("to", f"192.0.2.{host}/32", port) for host, port in ((10, 5432), (11, 6379), (12, 9000))}
    watchers = {("from", namespace, "figures") for namespace in ("keda", "monitoring")}
    assert {name: set(edges(manifests, name)) for name in pods(manifests)} == {
        "api": names | stores | {("from", "ingress-nginx", "http")},
        "housekeeping": names | stores | watchers,
        "worker": names | stores,
        "worker-big-gpu": names | stores,
    }
    nothing = of_kind(manifests, "NetworkPolicy")["nothing"]["spec"]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_who_is_stopped_has_time_for_it(manifests: list[Manifest]) -> None:
    for name in workers(manifests):
        drain_s = float(setting(containers(manifests)[name], "DRAIN_S"))
        assert pods(manifests)[name]["terminationGracePeriodSeconds"] >= drain_s + HAND_BACK_S
    program, seconds = containers(manifests)["api"]["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    assert pods(manifests)["api"]["terminationGracePeriodSeconds"] >= int(seconds) + STOP_S + 10


def test_a_worker_has_one_gpu_and_a_queue(manifests: list[Manifest]) -> None:
    queues = {}
    for name, one in workers(manifests).items():
        container = containers(manifests)[name]
        assert "replicas" not in one["spec"]
        assert one["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert setting(container, "DEVICE") == "cuda"
        queues[name] = setting(container, "QUEUES")
        assert one["metadata"]["labels"][QUEUE] == queues[name]
    assert queues == {"worker": "default", "worker-big-gpu": "big-gpu"}


def test_workers_on_processors_want_no_gpu(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    (tmp_path / "kubernetes" / "trial").mkdir()
    (tmp_path / "kubernetes" / "trial" / "kustomization.yaml").write_text(
        "resources: [../worker]\ncomponents: [../components/processors]\n"
    )
    found = built(tmp_path / "kubernetes" / "trial")
    worker = containers(found)["worker"]
    assert setting(worker, "DEVICE") == "cpu"
    assert setting(worker, "CPU_THREADS") == worker["resources"]["requests"]["cpu"] == "4"
    assert "nvidia" not in str(pods(found))


def test_workers_are_scaled_by_what_waits_and_runs_in_their_queue(manifests: list[Manifest], tmp_path: Path) -> None:
    told = figures(tmp_path)
    (port,) = of_kind(manifests, "Service")["housekeeping"]["spec"]["ports"]
    (namespace,) = of_kind(manifests, "Namespace")
    for name, one in of_kind(manifests, "ScaledObject").items():
        spec, queue = one["spec"], one["metadata"]["labels"][QUEUE]
        assert spec["scaleTargetRef"] == {"name": name}
        assert setting(containers(manifests)[name], "QUEUES") == queue
        located = {trigger["name"]: trigger["metadata"] for trigger in spec["triggers"]}
        assert {named: data["valueLocation"] for named, data in located.items()} == {
            part: f'inference_server_queue_{part}_tasks{{queue="{queue}"}}' for part in ("waiting", "running")
        }
        assert spec["advanced"]["scalingModifiers"]["formula"] == "waiting + running"
        assert {data["url"] for data in located.values()} == {
            f"http://housekeeping.{namespace}.svc:{port['port']}{PATH}"
        }
        assert {data["valueLocation"].partition("{")[0] for data in located.values()} <= {name for name, _ in told}
    assert {
        ("inference_server_queue_waiting_tasks", "default"),
        ("inference_server_queue_running_tasks", "default"),
    } <= told


def figures(data_dir: Path) -> set[tuple[str, str]]:
    """Return the figures on the page of a server that has done nothing yet, each with its queue."""
    settings = Settings(data_dir=data_dir)
    database = open_database(settings.database)
    page, _ = Metrics(database, open_blobs(settings), plain_registry(settings), disk_low_bytes=0).page()
    database.close()
    families = text_string_to_metric_families(page.decode())
    return {(sample.name, sample.labels.get("queue", "")) for family in families for sample in family.samples}


def test_workers_of_a_queue_may_all_go(manifests: list[Manifest]) -> None:
    found = {name: one["spec"] for name, one in of_kind(manifests, "ScaledObject").items()}
    limits = {name: (spec["minReplicaCount"], spec["maxReplicaCount"]) for name, spec in found.items()}
    assert limits == {"worker": (1, 8), "worker-big-gpu": (0, 2)}


def test_no_secret_stands_in_any_file(manifests: list[Manifest]) -> None:
    assert "secrets.env" in (ROOT / ".gitignore").read_text().splitlines()
    assert not [
        one
        for path in FOLDER.rglob("*.yaml")
        for one in yaml.safe_load_all(path.read_text())
        if one["kind"] == "Secret"
    ]
    hidden = {PREFIX + name.upper() for name, field in Settings.model_fields.items() if not field.repr}
    for container in containers(manifests).values():
        assert not hidden & set(variables(container))
    assert not hidden & set(lines("settings.env"))
    assert not [value for value in lines("settings.env").values() if urlsplit(value).password]
    example = lines("secrets.env.example")
    assert {urlsplit(value).password for value in example.values()} <= {None, "PASSWORD"}
    assert {value for name, value in example.items() if name in hidden} == {""}


def test_everybody_reads_the_same_settings_and_secrets(manifests: list[Manifest]) -> None:
    (settings,) = (name for name in of_kind(manifests, "ConfigMap") if name.startswith("inference-server-settings-"))
    (secrets,) = of_kind(manifests, "Secret")
    for container in containers(manifests).values():
        assert container["envFrom"] == [{"configMapRef": {"name": settings}}, {"secretRef": {"name": secrets}}]


def test_the_ingress_streams_and_leaves_limits_to_the_api(manifests: list[Manifest]) -> None:
    ingress = of_kind(manifests, "Ingress")["api"]
    said = {name.partition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    assert said["proxy-request-buffering"] == said["proxy-buffering"] == "off"
    assert int(said["proxy-body-size"].removesuffix("m")) * MIB > Settings.model_fields["upload_limit_bytes"].default
    assert int(said["proxy-read-timeout"]) > Settings.model_fields["wait_limit_s"].default
    (rule,), (tls,) = ingress["spec"]["rules"], ingress["spec"]["tls"]
    assert tls["hosts"] == [rule["host"]] == [urlsplit(lines("settings.env")[f"{PREFIX}PUBLIC_URL"]).hostname]
    (path,) = rule["http"]["paths"]
    service = path["backend"]["service"]
    assert service["port"]["name"] in {
        one["name"] for one in of_kind(manifests, "Service")[service["name"]]["spec"]["ports"]
    }


def test_the_page_names_files_and_tests_that_exist() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    named = re.findall(r"`([\w/-]+\.(?:yaml|env|env\.example))`", page)
    assert named
    assert not [name for name in named if not (FOLDER / name).exists() and name != "hospital/secrets.env"]
    tests = (ROOT / "tests" / "integration" / "test_worker.py").read_text()
    proofs = re.findall(r"`(test_\w+)`", page)
    assert len(proofs) >= 3
    assert not [name for name in proofs if f"def {name}(" not in tests]
