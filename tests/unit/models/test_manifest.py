"""What a manifest may say of parameters, channels, labels and codes, and what is said of one that is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from manifests import refusal

from inference_server.errors import BadRequest, ModelLoadError
from inference_server.models.manifest import Manifest, parse_manifest
from inference_server.models.terms import is_sctid

WRITTEN = """\
id: m
channels:
  - {name: T1, modality: MR}
  - {name: T2, modality: MR, required: false}
labels:
  1: {name: LUNGS, code: "SCT:39607008"}
parameters:
  - {name: threshold, type: number, default: 0.5, minimum: 0, maximum: 1}
  - {name: rounds, type: integer, default: 3}
  - {name: mode, type: choice, choices: [fast, exact], default: fast}
  - {name: smooth, type: flag, default: false}
  - {name: note, type: text}
"""


def manifest() -> Manifest:
    return parse_manifest(yaml.safe_load(WRITTEN), written=WRITTEN)


@pytest.mark.parametrize(
    ("right", "wrong", "sentence"),
    [
        (
            "default: 0.5",
            "default: 2",
            "line 8, parameters.0: the default does not fit: The parameter 'threshold' must",
        ),
        ("default: 3", "default: 3.5", "line 9, parameters.1: the default does not fit: The parameter 'rounds' must"),
        ("default: fast", "default: slow", "must be one of fast, exact; 'slow' came"),
        ("minimum: 0,", "minimum: 2,", "line 8, parameters.0: `minimum` is above `maximum`"),
        ("type: flag", "type: flag, minimum: 0", "line 11, parameters.3: `minimum` and `maximum` are of numbers; the"),
        (
            "choices: [fast, exact]",
            "choices: []",
            "line 10, parameters.2: `choices` and `type: choice` belong together",
        ),
        ("type: text", "type: text, choices: [a]", "line 12, parameters.4: `choices` and `type: choice` belong"),
        (
            "type: text",
            "type: string",
            "line 12, parameters.4.type: 'number', 'integer', 'text', 'flag' or 'choice' was expected; 'string'",
        ),
        ("name: rounds", "name: threshold", "line 7, parameters: two parameters have the same name"),
        ("modality: MR}", "required: false}", "required channels come first, and there is at least one"),
        ("name: T2", "name: T1", "two channels have the same name"),
        ("  1: {", "  0: {", "line 5, labels: label values are whole numbers from 1 to 65535"),
        ("SCT:39607008", "39607008", "line 6, labels.1.code: `scheme:value` was expected, such as SCT:39607008"),
        (
            "39607008",
            "39607080",
            "line 6, labels.1.code: the last digit of this SNOMED CT code does not fit the others",
        ),
        ("id: m", "id: a b", "line 1, id: 1 to 100 letters, digits, dots, dashes or underscores were expected; 'a b'"),
        ("id: m", "id: m\napp: x", "line 2, app: `file.py:name` or `package.module:name` was expected; 'x' came"),
        ("id: m", "id: m\nqueue: a b", "line 2, queue: 1 to 50 letters, digits, dots, dashes or underscores were"),
        ("id: m", "id: m\nmembers: [-]", "line 2, members.0: `id` or `id:version` was expected; '-' came"),
        (
            "id: m",
            "id: m\nnetwork: {class: Net}",
            "line 2, network.class: `package.module.Class` or `file.py:Class` was expected; 'Net' came",
        ),
    ],
)
def test_what_does_not_fit_is_told_with_its_line(right: str, wrong: str, sentence: str) -> None:
    assert manifest().labels[1].code == "SCT:39607008"
    assert sentence in refusal(WRITTEN.replace(right, wrong, 1))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"threshold": 1.5}, "The parameter 'threshold' must be a number from 0 to 1; '1.5' came."),
        ({"threshold": "high"}, "must be a number from 0 to 1; 'high' came."),
        ({"threshold": 10**400}, "must be a number from 0 to 1; '1000"),
        ({"rounds": 2.5}, "The parameter 'rounds' must be a whole number; '2.5' came."),
        ({"mode": "slow"}, "The parameter 'mode' must be one of fast, exact; 'slow' came."),
        ({"smooth": "maybe"}, "The parameter 'smooth' must be true or false; 'maybe' came."),
        ({"note": 1}, "The parameter 'note' must be a text; '1' came."),
        ({"speed": 1}, "has no parameter 'speed'. Its parameters: threshold, rounds, mode, smooth, note."),
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_words(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        manifest().check_parameters(given)
    assert sentence in caught.value.message


def test_values_come_in_their_type_and_the_rest_by_default() -> None:
    assert manifest().check_parameters({"threshold": "0.25", "rounds": 4.0, "smooth": "yes"}) == {
        "threshold": 0.25, "rounds": 4, "mode": "fast", "smooth": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("39607008", True),
        ("10200004", True),
        ("900000000000207008", True),  # of eighteen digits
        ("39607009", False),
        ("36907008", False),  # two digits exchanged
        ("39607", False),
        ("039607008", False),
        ("3960700８", False),
    ],
)
def test_codes_of_snomed_have_a_check_digit(text: str, valid: bool) -> None:
    assert is_sctid(text) is valid


APP = {"id": "m", "runtime": "python-app", "app": "a.py:app"}


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ({"id": "m", "points": [{"name": "a"}]}, "are for `runtime: python-app`"),
        ({"id": "m", "transforms": [{"name": "a"}]}, "are for `runtime: python-app`"),
        ({"id": "m", "same_grid": False}, "are for `runtime: python-app`"),
        ({"id": "m", "channels": []}, "there is at least one"),
        ({**APP, "channels": [{"name": "a", "required": False}]}, "there is at least one"),
        ({**APP, "channels": []}, "a model takes something"),
        ({**APP, "points": [{"name": "a"}, {"name": "a"}]}, "names of their own"),
        ({**APP, "points": [{"name": "a"}], "transforms": [{"name": "a"}]}, "names of their own"),
        ({**APP, "points": [{"name": "image"}]}, "names of their own"),
        ({**APP, "transforms": [{"name": "a"}], "parameters": [{"name": "a", "type": "flag"}]}, "names of their own"),
        ({**APP, "transforms": [{"name": "../a"}]}, "transforms.0.name"),
    ],
)
def test_what_else_an_app_takes_is_declared_in_names_that_differ(declared: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        parse_manifest(declared)
    assert sentence in caught.value.message


@pytest.mark.parametrize("kind", ["points", "transforms"])
def test_an_app_may_take_points_or_transforms_alone(kind: str) -> None:
    found = parse_manifest({**APP, "channels": [], kind: [{"name": "the tip", "required": False}]})
    assert (found.channels, found.required_channels) == ((), 0)
    (only,) = getattr(found, kind)
    assert (only.name, only.required, found.same_grid) == ("the tip", False, True)
