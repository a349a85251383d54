"""What a service is told of itself: config, interfaces, and the manifest made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference_server.errors import SettingsError
from inference_server.models.manifest import parse_manifest
from inference_server.tomaat import TomaatApp, TomaatService

CONFIG = {"name": "Liver, CT (v2)", "port": 9000, "modality": "CT", "anatomy": "Liver", "task": "Segmentation"}
APP = TomaatApp(len, len, len)
VOLUME = {"type": "volume", "destination": "images"}
LABELS = {"type": "LabelVolume", "field": "images"}
ALL_INPUTS = [
    VOLUME,
    {"type": "slider", "destination": "level", "minimum": 2, "maximum": 5},
    {"type": "volume", "destination": "moving"},
    {"type": "checkbox", "destination": "ras", "text": "RAS?"},
    {"type": "radiobutton", "destination": "unit", "text": "Unit", "options": ["mm", "m"]},
    {"type": "fiducials", "destination": "tips"},
    {"type": "transform", "destination": "start"},
]


def service(
    config: Any = CONFIG, inputs: Any = (VOLUME,), outputs: Any = (LABELS,), app: TomaatApp = APP
) -> TomaatService:
    return TomaatService(config, app, inputs, outputs)


def test_a_manifest_has_every_input_under_its_destination() -> None:
    manifest = parse_manifest(service(inputs=ALL_INPUTS).manifest)
    assert (manifest.id, manifest.title, manifest.runtime) == ("liver-ct-v2", "Liver, CT (v2)", "python-app")
    assert [(channel.name, channel.modality) for channel in manifest.channels] == [("images", "CT"), ("moving", "CT")]
    assert [given.name for given in manifest.points] == ["tips"]
    assert [given.name for given in manifest.transforms] == ["start"]
    assert not manifest.same_grid
    assert manifest.check_parameters({}) == {"level": 2.0, "ras": False, "unit": "mm"}
    assert manifest.check_parameters({"level": "4.5", "ras": "True", "unit": "m"}) == {
        "level": 4.5,
        "ras": True,
        "unit": "m",
    }


def test_a_manifest_has_both_interfaces_as_they_are_for_the_door() -> None:
    outputs = [{"type": "PlainText", "field": "report", "label": "Report"}, LABELS]
    said = service(inputs=ALL_INPUTS, outputs=outputs).manifest["options"]["tomaat"]
    assert [element["destination"] for element in said["inputs"]] == [each["destination"] for each in ALL_INPUTS]
    assert said["inputs"][4] == ALL_INPUTS[4]
    assert said["outputs"] == outputs
    assert (said["modality"], said["anatomy"], said["task"]) == ("CT", "Liver", "Segmentation")


def test_a_config_may_be_the_path_of_a_json_file_and_keeps_keys_of_the_scripts_own(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**CONFIG, "volume_size": [64, 64, 64]}))
    for given in (path, str(path)):
        assert service(given).config["volume_size"] == [64, 64, 64]
        assert service(given).checked.port == 9000


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"port": 9000}, "name: this key is missing"),
        ({"name": "x"}, "port: this key is missing"),
        ({**CONFIG, "port": 70_000}, "port: .*65535; '70000' came"),
        ({**CONFIG, "announce": True, "api_key": "k"}, "with `announce` the key `announcement` is needed too"),
        ({**CONFIG, "announce": True, "announcement": "http://a/announce"}, "the key `api_key` is needed too"),
        ({**CONFIG, "announcement": "tomaat.example.org"}, "announcement: a URL .* 'tomaat.example.org' came"),
        ({**CONFIG, "host": "https://a.example.org/b/"}, "host: a host's name"),
        ("missing.json", "The config missing.json cannot be read: No such file or directory."),
        (17, "a int came"),
    ],
)
def test_a_config_that_is_none_is_refused_in_words(config: Any, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        service(config)


def test_a_script_may_ask_for_its_announcement() -> None:
    quiet = service({**CONFIG, "api_key": "k", "announcement": "http://a.example.org/announce"})
    assert not quiet.checked.announce
    quiet.start_service_announcement()
    assert quiet.checked.announce
    with pytest.raises(SettingsError, match="`api_key` is needed too"):
        service().start_service_announcement()


def test_a_config_that_is_no_json_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for text, sentence in (("{", "is no JSON"), ("[]", "is other JSON than an object")):
        path.write_text(text)
        with pytest.raises(SettingsError, match=sentence):
            service(path)


SLIDER = ALL_INPUTS[1]


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ([], "a list with at least one element was expected"),
        (VOLUME, "a list with at least one element was expected"),
        ([VOLUME, {"type": "volume"}], "element 2: destination: this key is missing"),
        ([{"type": "picture", "destination": "x"}], "element 1: .*'picture'"),
        ([{"destination": "x"}], "element 1: .*type"),
        ([{**SLIDER, "minimum": 6}], "element 1: `minimum` is above `maximum`"),
        ([{**SLIDER, "maximum": "high"}], "element 1: maximum: "),
        ([{**SLIDER, "maximum": float("nan")}], "element 1: maximum: "),
        ([{"type": "checkbox", "destination": "x"}], "element 1: text: this key is missing"),
        ([{"type": "radiobutton", "destination": "x", "text": "?", "options": []}], "element 1: options: "),
        ([VOLUME, {**SLIDER, "destination": "images"}], "two elements with the destination 'images'"),
        ([{"type": "volume", "destination": "module_version"}], "'module_version' is a field of the protocol"),
        ([{"type": "fiducials", "destination": "a/b"}, VOLUME], "The interfaces cannot be served: .*points"),
        ([{"type": "volume", "destination": {1}}], "a list of dictionaries that JSON can hold"),
    ],
)
def test_an_input_interface_that_is_none_is_refused_in_words(inputs: Any, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        service(inputs=inputs)


@pytest.mark.parametrize(
    ("outputs", "sentence"),
    [
        ([], "a list with at least one element was expected"),
        ([{"type": "LabelVolume"}], "element 1: field: this key is missing"),
        ([{"type": "Labels", "field": "x"}], "element 1: type: "),
        ([LABELS, {"type": "LabelVolume", "field": "x", "label": "images"}], "two elements of one type .* 'images'"),
        (
            [{"type": "TransformGrid", "field": "t"}, {"type": "TransformLinear", "field": "t"}],
            "two elements of one type .* 't'",
        ),
    ],
)
def test_an_output_interface_that_is_none_is_refused_in_words(outputs: Any, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        service(outputs=outputs)


def test_labels_need_a_volume_to_lie_on() -> None:
    with pytest.raises(SettingsError, match="A LabelVolume lies on the grid of a volume"):
        service(inputs=[{"type": "fiducials", "destination": "tips"}])


def test_an_app_takes_its_three_steps_also_without_a_server() -> None:
    app = TomaatApp(lambda data: [*data, "pre"], lambda data: [*data, "infer"], lambda data: [*data, "post"])
    assert app([]) == ["pre", "infer", "post"]
    with pytest.raises(TypeError, match="A step of an app is something that can be called; a NoneType came"):
        TomaatApp(len, None, len)  # type: ignore[arg-type]
