"""What the images and the compose file name exists in the code: they are not run by any other test."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import inference_server
from inference_server.api.app import create_app
from inference_server.cli import app
from inference_server.commands.doctor import CHECKS
from inference_server.settings import PREFIX, Settings
from inference_server.tasks.allocator import allocator_environment

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ("api.Dockerfile", "worker.Dockerfile")
OWN = re.compile(r"inference-server-(?:api|worker):")
PINNED = re.compile(r"[\w./-]+:\d[\w.-]*@sha256:[0-9a-f]{64}")
NOT_OUR_SECRET = re.compile(r"(?:PASSWORD|AUTH|SECRET|TOKEN)$")


def instructions(name: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile: keyword and the rest, without comments and line ends."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word]


def final(name: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile's last stage."""
    every = instructions(name)
    return every[max(index for index, (word, _) in enumerate(every) if word == "FROM") :]


def environment(name: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for word, rest in final(name) if word == "ENV" for pair in shlex.split(rest))


def one(found: list[tuple[str, str]], word: str) -> str:
    (rest,) = [rest for keyword, rest in found if keyword == word]
    return rest


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def servers(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The services that run an image of ours."""
    return {name: one for name, one in compose["services"].items() if OWN.match(one["image"])}


def workers(servers: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from (service for name, service in servers.items() if name.startswith("worker-"))


def test_base_images_are_pinned_and_the_same() -> None:
    bases = {
        rest for name in IMAGES for word, rest in instructions(name) if word == "ARG" and rest.startswith("PYTHON")
    }
    assert len(bases) == 1
    assert re.fullmatch(r"PYTHON=3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", bases.pop())
    for name in IMAGES:
        stages = [rest for word, rest in instructions(name) if word == "FROM"]
        assert stages == ["python:${PYTHON} AS build", "python:${PYTHON}"]


def test_images_of_others_are_pinned(compose: dict[str, Any], servers: dict[str, dict[str, Any]]) -> None:
    others = [service["image"] for name, service in compose["services"].items() if name not in servers]
    assert len(others) == 3
    assert all(PINNED.fullmatch(image) for image in others)


@pytest.mark.parametrize("name", IMAGES)
def test_every_package_is_installed_as_constrained(name: str) -> None:
    runs = " && ".join(rest for word, rest in instructions(name) if word == "RUN")
    installs = [command for command in re.split(r"&&", runs) if " install " in command and "pip" in command]
    assert len(installs) >= 2
    assert all("--constraint constraints.txt" in command for command in installs)
    assert "--no-build-isolation" in runs
    assert re.search(r"^setuptools==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", IMAGES)
def test_the_wheel_and_its_extras_are_ours(name: str) -> None:
    text = (ROOT / name).read_text()
    (wheel,) = set(re.findall(r"/wheels/(inference_server-[\w.]+-py3-none-any\.whl)", text))
    assert wheel == f"inference_server-{inference_server.__version__}-py3-none-any.whl"
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    named = re.findall(r"whl\[([a-z0-9,]+)\]|^ARG EXTRAS=(.+)$", text, re.MULTILINE)
    extras = {extra for pair in named for extra in ",".join(filter(None, pair)).split(",")}
    assert extras <= set(parser["options.extras_require"])
    assert ("worker" in extras) == (name == "worker.Dockerfile")
    assert {"postgresql", "s3"} <= extras


@pytest.mark.parametrize("name", IMAGES)
def test_what_is_copied_exists_and_is_let_through(name: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    copied = [rest.split()[:-1] for word, rest in instructions(name) if word == "COPY" and not rest.startswith("--")]
    for path in (path for paths in copied for path in paths):
        assert (ROOT / path).exists()
        assert f"!{Path(path)}" in ignored
    assert not [line for line in ignored if line.startswith("!") and not (ROOT / line[1:]).exists()]


@pytest.mark.parametrize("name", IMAGES)
def test_nobody_is_root_and_only_volumes_are_written(name: str) -> None:
    found = final(name)
    user = one(found, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    words = [word for word, _ in found]
    assert "RUN" not in words[words.index("USER") :]
    uid, gid = user.split(":")
    assert f"install --directory --owner={uid} --group={gid} --mode=0700 /data" in one(found, "RUN")
    assert environment(name)["HOME"] == "/tmp"
    assert environment(name)[f"{PREFIX}DATA_DIR"] == "/data"


@pytest.mark.parametrize("name", IMAGES)
def test_settings_and_commands_exist(name: str) -> None:
    assert_settings_exist(environment(name))
    assert json.loads(one(final(name), "ENTRYPOINT")) == ["inference-server"]
    assert_runs(json.loads(one(final(name), "CMD")))


def test_the_allocator_of_a_worker_is_set_as_by_up() -> None:
    assert allocator_environment({}).items() <= environment("worker.Dockerfile").items()


def test_health_checks_ask_what_there_is(tmp_path: Path, servers: dict[str, dict[str, Any]]) -> None:
    routes = {
        rule.rule
        for rule in create_app(Settings(data_dir=tmp_path, broker_url="redis://127.0.0.1:1/0")).url_map.iter_rules()
    }
    health = one(final("api.Dockerfile"), "HEALTHCHECK")
    port, route = re.search(r"http://127\.0\.0\.1:(\d+)(/[\w/]+)", health).groups()  # type: ignore[union-attr]
    assert route in routes
    assert servers["api"]["environment"][f"{PREFIX}PORT"] == port == one(final("api.Dockerfile"), "EXPOSE")
    doctors = [
        json.loads(one(final("worker.Dockerfile"), "HEALTHCHECK").partition("CMD ")[2]),
        servers["housekeeping"]["healthcheck"]["test"][1:],
    ]
    for program, *command in doctors:
        assert program == "inference-server"
        assert_runs(command)
        assert set(command[-1].split(",")) <= set(CHECKS)


def test_the_compose_file_names_settings_and_commands_that_exist(servers: dict[str, dict[str, Any]]) -> None:
    for service in servers.values():
        assert_settings_exist(service["environment"])
    assert_runs(servers["api"]["command"])
    assert_runs(servers["housekeeping"]["command"])
    assert_runs(servers["certs"]["entrypoint"][1:])


def test_images_are_of_this_version(servers: dict[str, dict[str, Any]]) -> None:
    for service in servers.values():
        assert f":{inference_server.__version__}" in service["image"]
        assert (ROOT / service["build"]["dockerfile"]).is_file()


def test_every_service_is_hardened(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert any(place.startswith("/tmp:") for place in service["tmpfs"])
        assert not {"privileged", "pid", "network_mode"} & set(service)


def test_services_of_others_are_not_root(compose: dict[str, Any], servers: dict[str, dict[str, Any]]) -> None:
    users = {name: service["user"] for name, service in compose["services"].items() if name not in servers}
    assert all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users.values())
    # The certificate's key is for its owner alone, who is the server's user.
    assert users["proxy"] == one(final("api.Dockerfile"), "USER")
    assert not any("user" in service for service in servers.values())


def test_only_the_proxy_is_reached_from_outside(compose: dict[str, Any]) -> None:
    assert [name for name, service in compose["services"].items() if "ports" in service] == ["proxy"]
    outside = [name for name, service in compose["services"].items() if service["networks"] != ["inside"]]
    assert outside == ["proxy"]
    assert compose["networks"]["inside"] == {"internal": True}


def test_each_worker_has_a_device_and_a_profile_of_its_own(servers: dict[str, dict[str, Any]]) -> None:
    devices = {one["profiles"][0]: one["environment"][f"{PREFIX}DEVICE"] for one in workers(servers)}
    gpus = {f"gpu-{index}": f"cuda:{index}" for index in range(4)}
    assert devices == {"cpu": "cpu", **gpus}
    for service in workers(servers):
        assert ("deploy" in service) == (service["profiles"] != ["cpu"])
        assert {"data:/data"} <= set(service["volumes"])


def test_a_worker_has_longer_to_stop_than_it_drains(servers: dict[str, dict[str, Any]]) -> None:
    example = settings_of_example()
    grace_s = [
        re.fullmatch(r"\$\{WORKER_STOP_GRACE:-(\d+)s\}", one["stop_grace_period"])[1] for one in workers(servers)
    ]  # type: ignore[index]
    assert {int(value) for value in grace_s} == {int(example["WORKER_STOP_GRACE"].removesuffix("s"))}
    assert float(example[f"{PREFIX}DRAIN_S"]) == Settings.model_fields["drain_s"].default
    assert int(grace_s[0]) >= Settings.model_fields["drain_s"].default + 10


def test_redis_loses_nothing_and_its_password_is_on_no_command_line(compose: dict[str, Any]) -> None:
    script = compose["services"]["redis"]["command"][-1]
    assert "--appendonly yes" in script
    assert "--maxmemory-policy noeviction" in script
    assert "exec redis-server /tmp/redis.conf" in script
    assert "REDIS_PASSWORD" not in script


def test_no_secret_stands_in_any_file(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            assert not NOT_OUR_SECRET.search(name) or re.fullmatch(r"\$\{\w+:\?[\w .]+\}", value)
            assert not re.search(r"://[^$@/]*:[^$@]+@", value)
    for name in IMAGES:
        assert not [variable for variable in environment(name) if NOT_OUR_SECRET.search(variable)]
        assert not [rest for word, rest in instructions(name) if word == "ARG" and NOT_OUR_SECRET.search(rest)]
    assert {name: value for name, value in settings_of_example().items() if NOT_OUR_SECRET.search(name)} == {
        "REDIS_PASSWORD": "",
        "POSTGRES_PASSWORD": "",
    }
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_example_holds_what_the_compose_file_asks_for_and_settings_that_exist() -> None:
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", (ROOT / "compose.yaml").read_text()))
    named = set(re.findall(r"^#?([A-Z_0-9]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert asked <= named
    assert {name for name in named if not name.startswith(PREFIX)} == asked | {"COMPOSE_PROFILES"}
    assert_settings_exist(dict.fromkeys(named, ""))


def test_the_proxy_waits_longer_than_any_request_and_leaves_limits_to_the_api() -> None:
    text = (ROOT / "deploy" / "compose" / "nginx.conf").read_text()
    patience_s = int(re.search(r"proxy_read_timeout (\d+)s;", text)[1])  # type: ignore[index]
    assert patience_s > Settings.model_fields["wait_limit_s"].default
    assert "client_max_body_size 0;" in text
    assert "proxy_request_buffering off;" in text
    assert "access_log off;" in text


def settings_of_example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def assert_settings_exist(variables: dict[str, Any]) -> None:
    ours = {name.removeprefix(PREFIX).lower() for name in variables if name.startswith(PREFIX)}
    assert ours <= set(Settings.model_fields)


def assert_runs(arguments: list[str]) -> None:
    """Check that the command exists, and every option that is given to it."""
    name, *rest = arguments
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {argument for argument in rest if argument.startswith("--")} <= known
