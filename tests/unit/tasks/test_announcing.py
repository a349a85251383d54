from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from records import Clock

from inference_server.errors import SettingsError, StoreUnavailable
from inference_server.models.manifest import Channel, LabelName, Manifest
from inference_server.settings import Settings
from inference_server.tasks.announcing import (
    EVERY_S,
    RETRY_S,
    Announced,
    Announcers,
    Announcing,
    load_announcers,
    service_of,
)

PUBLIC = "https://server.example:8443"
ONE = "https://one.example/announce"
TWO = "http://two.example/announce"
FILE = f"""
- url: {ONE}
  models:
    ct-body:
      key: isk_one
      anatomy: Thorax
    other: isk_two
- url: {TWO}
  models:
    ct-body: isk_three
"""
BODY = Manifest(
    id="ct-body",
    title="Body on CT",
    description="Finds the body.",
    channels=(Channel(name="ct", modality="CT"),),
    labels={1: LabelName(name="BODY"), 2: LabelName(name="LUNGS")},
)


def settings(folder: Path, text: str = FILE, **more: Any) -> Settings:
    path = folder / "announcers.yaml"
    path.write_text(text)
    return Settings(**{"tomaat_announcers": path, "public_url": PUBLIC + "/", **more})


def service(manifest: Manifest, **given: str) -> Any:
    return service_of(manifest, Announced(key="k", **given), public_url=PUBLIC)


class World:
    """Announcement services that note what they are told; `down` are those that do not answer."""

    def __init__(self, announcers: Announcers) -> None:
        self.clock = Clock()
        self.told: list[tuple[str, Mapping[str, str]]] = []
        self.down: set[str] = set()
        self.served: list[Manifest] = [BODY]
        self.announcing = Announcing(announcers, self.models, self.post, self.clock)

    def models(self) -> list[Any]:
        return [SimpleNamespace(manifest=manifest, digest="") for manifest in self.served]

    def post(self, url: str, message: Mapping[str, str]) -> str:
        self.told.append((url, message))
        return "no answer" if url in self.down else ""

    def look(self, after_s: float = 0.0) -> list[tuple[str, str]]:
        """Return which key was told to whom, some seconds later."""
        self.clock.now += after_s
        self.told.clear()
        self.announcing.look()
        return [(url, message["api_key"]) for url, message in self.told]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(load_announcers(settings(tmp_path)))


def test_what_is_announced_comes_from_the_manifest_unless_the_file_says_otherwise() -> None:
    plain = service(BODY)
    assert (plain.prediction_url, plain.interface_url) == (
        f"{PUBLIC}/tomaat/ct-body/predict",
        f"{PUBLIC}/tomaat/ct-body/interface",
    )
    assert (plain.name, plain.modality, plain.anatomy, plain.task, plain.description) == (
        "Body on CT",
        "CT",
        "BODY, LUNGS",
        "Segmentation",
        "Finds the body.",
    )
    said = service(BODY, name="N", modality="M", anatomy="A", task="T", description="D")
    assert (said.name, said.modality, said.anatomy, said.task, said.description) == ("N", "M", "A", "T", "D")


def test_a_manifest_that_says_nothing_is_announced_nevertheless() -> None:
    bare = service(Manifest(id="bare"))
    assert (bare.name, bare.modality, bare.anatomy, bare.description) == ("bare", "Any", "Any", "bare")
    app = Manifest(id="app", options={"tomaat": {"modality": "US", "anatomy": "Heart", "task": "Registration"}})
    assert (service(app).modality, service(app).anatomy, service(app).task) == ("US", "Heart", "Registration")


@pytest.mark.parametrize("name", ["predict", "predictor", "predict-liver"])
def test_a_model_whose_name_the_clients_would_replace_is_not_announced(name: str, world: World) -> None:
    with pytest.raises(SettingsError, match=f"'{name}' cannot be announced"):
        service(Manifest(id=name))
    with pytest.raises(SettingsError, match="another id"):
        service(Manifest(id=name))
    assert service(Manifest(id=f"x-{name}")).prediction_url == f"{PUBLIC}/tomaat/x-{name}/predict"


def test_each_model_is_announced_to_each_service_with_its_own_key(world: World) -> None:
    assert world.look() == [(ONE, "isk_one"), (TWO, "isk_three")]
    assert world.told[0][1]["anatomy"] == "Thorax"
    world.served.append(Manifest(id="other"))
    assert world.look() == [(ONE, "isk_two")]


def test_it_is_announced_again_in_time(world: World) -> None:
    world.look()
    assert world.look(EVERY_S - 1) == []
    assert world.look(1) == [(ONE, "isk_one"), (TWO, "isk_three")]


def test_a_service_that_is_down_is_asked_again_soon_and_told_of_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    world.down = {TWO}
    world.look()
    assert [world.look(RETRY_S) for _ in range(5)] == [[(TWO, "isk_three")]] * 5
    world.down.clear()
    world.look(RETRY_S)
    assert [record.message for record in caplog.records if getattr(record, "announcer", "") == TWO] == [
        "model not announced",
        "model announced",
    ]
    assert "isk_" not in caplog.text


def test_the_highest_version_is_announced_and_what_is_not_served_is_not(world: World) -> None:
    world.served = [BODY.model_copy(update={"version": "2", "title": "New"}), BODY]
    world.look()
    assert {message["name"] for _, message in world.told} == {"New"}
    world.served = []
    assert world.look(EVERY_S) == []


def test_models_that_cannot_be_read_at_the_moment_are_announced_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> list[Any]:
        raise StoreUnavailable

    monkeypatch.setattr(world.announcing, "_models", away)
    assert world.look() == []
    monkeypatch.undo()
    assert len(world.look()) == 2


def test_the_first_service_of_a_model_is_where_it_is_announced(tmp_path: Path) -> None:
    announcers = load_announcers(settings(tmp_path))
    assert [announcers.first_with(name) for name in ("ct-body", "other", "none")] == [ONE, ONE, ""]
    assert load_announcers(Settings()).services == ()
    assert load_announcers(settings(tmp_path, "")).services == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- url: ftp://a/b\n  models: {}", "line 1, 0.url"),
        ("- models: {}", "url: this key is missing"),
        ("- url: http://a/b\n  modells: {}", "this key is unknown"),
        ("- url: http://a/b\n  models: {m: {name: x}}", "key: this key is missing"),
        ("url: http://a", "is not valid"),
        ("- [", "it is not YAML"),
    ],
)
def test_a_malformed_file_stops_the_start_with_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match="INFERENCE_SERVER_TOMAAT_ANNOUNCERS") as refusal:
        load_announcers(settings(tmp_path, text))
    assert said in refusal.value.message


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_announcers(Settings(tomaat_announcers=tmp_path / "none.yaml", public_url=PUBLIC))


@pytest.mark.parametrize(
    "url", [None, "server.example", "https://predict.example.org", "https://a.example/predictions"]
)
def test_announced_urls_need_a_base_that_the_clients_leave_alone(tmp_path: Path, url: str | None) -> None:
    with pytest.raises(SettingsError, match="INFERENCE_SERVER_PUBLIC_URL"):
        load_announcers(settings(tmp_path, public_url=url))
