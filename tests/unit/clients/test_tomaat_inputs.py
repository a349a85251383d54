from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inference_server.clients.tomaat.inputs import Inputs, fields, parse_interface
from inference_server.clients.tomaat.services import Service, discovery_url, endpoints
from inference_server.clients.tomaat.words import file_stem, plain_text
from inference_server.errors import BadRequest

INTERFACE = parse_interface(
    [
        {"type": "volume", "destination": "images"},
        {"type": "slider", "destination": "threshold", "minimum": -1, "maximum": 2.5},
        {"type": "checkbox", "destination": "invert", "text": "Invert", "required": False},
        {"type": "radiobutton", "destination": "mode", "text": "Mode", "options": ["fast", "good"], "default": "fast"},
        {"type": "fiducials", "destination": "seeds", "required": False},
        {"type": "transform", "destination": "start", "required": False},
    ]
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.nii.gz"
    path.touch()
    return path


def test_what_has_a_default_or_is_not_required_may_be_left_out(image: Path) -> None:
    given = fields(INTERFACE, Inputs(volumes={"images": image}, values={"threshold": 2}))
    assert (given.texts, given.volumes, given.transforms) == ({"threshold": "2.0"}, {"images": image}, {})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("threshold", "3", r"takes a number from -1 to 2\.5 for 'threshold', not 3\."),
        ("threshold", "nan", "not nan"),
        ("threshold", "much", "not 'much'"),
        ("invert", "perhaps", "takes True or False for 'invert', not 'perhaps'"),
        ("mode", "slow", "takes one of fast, good for 'mode', not 'slow'"),
        ("speed", "1", "asks for no 'speed'; it asks for images, threshold, invert, mode, seeds, start"),
        ("images", "1", "takes a volume for 'images': --volume images=FILE"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_what_does(image: Path, name: str, value: Any, said: str) -> None:
    given = Inputs(volumes={"images": image}, values={"threshold": 1, name: value})
    with pytest.raises(BadRequest, match=said) as refused:
        fields(INTERFACE, given)
    assert refused.value.field == name


def test_what_is_missing_is_named_with_its_option(image: Path) -> None:
    with pytest.raises(BadRequest, match=r"needs a volume for 'images': --volume images=FILE\."):
        fields(INTERFACE, Inputs(values={"threshold": 1}))
    with pytest.raises(BadRequest, match=r"needs a number from -1 to 2\.5 for 'threshold': --set threshold=VALUE"):
        fields(INTERFACE, Inputs(volumes={"images": image}))
    with pytest.raises(BadRequest, match="The file given for 'images' is not there"):
        fields(INTERFACE, Inputs(volumes={"images": image.with_name("other.mha")}, values={"threshold": 1}))
    other = image.with_name("warp.tfm")
    with pytest.raises(BadRequest, match=r"not a file of another type than \.mat"):
        fields(INTERFACE, Inputs({"images": image}, {"threshold": 1}, transforms={"start": other}))


def test_flags_and_points_are_written_as_the_protocol_says(image: Path) -> None:
    values = {"threshold": "-1", "invert": "no", "mode": "good"}
    given = fields(INTERFACE, Inputs({"images": image}, values, points={"seeds": [(1, 2.5, -3), (0, 0, 1)]}))
    assert given.texts == {
        "threshold": "-1.0",
        "invert": "False",
        "mode": "good",
        "seeds": "1.0,2.5,-3.0;0.0,0.0,1.0",
    }


def test_an_input_of_an_unknown_type_cannot_be_given(image: Path) -> None:
    odd = parse_interface([{"type": "hologram", "destination": "h"}])
    with pytest.raises(BadRequest, match="an input of type 'hologram', which this client does not know, for 'h'"):
        fields(odd, Inputs(values={"h": 1}))


@pytest.mark.parametrize(
    "url",
    [
        "https://h:1/tomaat/m",
        "https://h:1/tomaat/m/",
        "https://h:1/tomaat/m/predict",
        "https://h:1/tomaat/m/interface",
    ],
)
def test_the_parts_of_a_service_are_found_from_its_url(url: str) -> None:
    parts = endpoints(url)
    assert [str(part) for part in (parts.interface, parts.prediction, parts.responses)] == [
        "https://h:1/tomaat/m/interface",
        "https://h:1/tomaat/m/predict",
        "https://h:1/tomaat/m/responses",
    ]


def test_only_the_last_predict_of_an_address_is_replaced() -> None:
    words = dict.fromkeys(("name", "modality", "anatomy", "task", "description"), "")
    announced = Service(
        **words, interface_url="http://h/i", prediction_url="http://predict.example/predictor/predict?k=1"
    )
    assert str(endpoints(announced).responses) == "http://predict.example/predictor/responses?k=1"


def test_where_to_discover() -> None:
    urls = ("http://h", "http://h/", "http://h/discover", "http://h/x/discovery")
    expected = ["http://h/discover", "http://h/discover", "http://h/discover", "http://h/x/discovery"]
    assert [str(discovery_url(url)) for url in urls] == expected


def test_words_of_a_server_neither_move_the_cursor_nor_leave_the_folder() -> None:
    assert plain_text("a\x1b[31mb\nc") == "a [31mb c"
    assert [file_stem(label, "labels") for label in ("../../etc/x", "", "...", "Lunge rechts", "ä1")] == [
        "etc_x",
        "labels",
        "labels",
        "Lunge_rechts",
        "ä1",
    ]
