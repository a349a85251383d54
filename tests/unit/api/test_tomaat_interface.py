from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.api.tomaat.elements import (
    Element,
    declared_elements,
    elements_of,
    encode_answer,
    safe_label,
)
from inference_server.api.tomaat.interface import as_sent, interface_of, slider_range
from inference_server.api.tomaat.places import decode_points, encode_points
from inference_server.errors import BadRequest, PredictionError
from inference_server.models.manifest import Channel, Manifest, NamedInput
from inference_server.models.parameter import Parameter


def parameter(kind: str = "number", **given: Any) -> Parameter:
    return Parameter(name="p", type=kind, **given)  # type: ignore[arg-type]


def app(**given: Any) -> Manifest:
    return Manifest(id="m", runtime="python-app", app="app.py:run", **given)


def test_an_interface_has_images_points_transforms_and_parameters_in_this_order() -> None:
    manifest = app(
        channels=(Channel(name="ct"), Channel(name="pet")),
        points=(NamedInput(name="seeds"),),
        transforms=(NamedInput(name="pose"),),
        parameters=(
            parameter(minimum=0.5, maximum=2),
            Parameter(name="smooth", type="flag", description="Smooth it", default=True),
            Parameter(name="mode", type="choice", choices=("fast", "good")),
            Parameter(name="note", type="text"),
        ),
    )
    assert interface_of(manifest).elements == (
        {"type": "volume", "destination": "ct"},
        {"type": "volume", "destination": "pet"},
        {"type": "fiducials", "destination": "seeds"},
        {"type": "transform", "destination": "pose"},
        {"type": "slider", "destination": "p", "minimum": 0.5, "maximum": 2.0},
        {"type": "checkbox", "destination": "smooth", "text": "Smooth it", "default": True},
        {"type": "radiobutton", "destination": "mode", "text": "mode", "options": ["fast", "good"]},
    )


def test_what_is_optional_has_a_checkbox_before_it() -> None:
    manifest = app(channels=(Channel(name="t1"), Channel(name="t2", required=False)))
    interface = interface_of(manifest)
    assert interface.elements[1:] == (
        {"type": "checkbox", "destination": "use_t2", "text": "Send t2", "required": False},
        {"type": "volume", "destination": "t2", "required": False},
    )
    assert interface.switches == {"use_t2"}


def test_no_two_fields_have_one_name_and_none_that_of_the_clients_own() -> None:
    names = ("module_version", "x", "use_x")
    manifest = app(
        channels=(Channel(name="use_x"), Channel(name="x", required=False)),
        parameters=tuple(Parameter(name=name, type="flag") for name in names),
    )
    interface = interface_of(manifest)
    destinations = [element["destination"] for element in interface.elements]
    assert destinations == ["use_x", "use_x_2", "x", "module_version_2", "x_2", "use_x_3"]
    assert [field.name for field in interface.fields] == ["use_x", "x", *names]


def test_an_apps_own_interface_is_told_as_it_stands() -> None:
    inputs = [{"type": "checkbox", "destination": "b", "text": "B"}, {"type": "volume", "destination": "images"}]
    manifest = app(channels=(Channel(name="images"),), options={"tomaat": {"inputs": inputs, "outputs": []}})
    assert interface_of(manifest).elements == tuple(inputs)
    assert [field.destination for field in interface_of(manifest).fields] == ["b", "images"]


@pytest.mark.parametrize(
    ("given", "low", "high"),
    [
        ({"minimum": -3, "maximum": 5}, -3.0, 5.0),
        ({"default": 10}, 0.0, 20.0),
        ({"default": -10}, -20.0, 0.0),
        ({}, 0.0, 1.0),
        ({"default": 0}, 0.0, 1.0),
        ({"minimum": 5}, 5.0, 10.0),
        ({"minimum": 5, "default": 5}, 5.0, 10.0),
        ({"minimum": 5, "default": 10}, 5.0, 20.0),
        ({"minimum": 0}, 0.0, 1.0),
        ({"minimum": -7}, -7.0, 0.0),
        ({"maximum": 5}, 0.0, 5.0),
        ({"maximum": 5, "default": 3}, 0.0, 5.0),
        ({"maximum": -5}, -10.0, -5.0),
        ({"maximum": 0}, -1.0, 0.0),
    ],
)
def test_a_slider_has_two_ends_whatever_is_declared(given: dict[str, float], low: float, high: float) -> None:
    assert slider_range(parameter(**given)) == (low, high)


@given(*[st.none() | st.integers(-1000, 1000)] * 3, st.sampled_from(["number", "integer"]))
def test_every_slider_moves_and_reaches_the_default_without_leaving_the_range(
    low: int | None, high: int | None, default: int | None, kind: str
) -> None:
    ends = [end for end in (low, default, high) if end is not None]
    if ends != sorted(ends) or (low is not None and low == high):
        return
    declared = parameter(kind, minimum=low, maximum=high, default=default)
    begin, end = slider_range(declared)
    assert begin < end
    assert default is None or begin <= default <= end
    declared.check(begin)
    declared.check(end)


def test_a_slider_of_whole_numbers_has_whole_ends() -> None:
    assert slider_range(parameter("integer", minimum=0.5, maximum=9.5)) == (1, 9)
    assert slider_range(parameter("integer")) == (0, 100)


@pytest.mark.parametrize(("text", "value"), [("12.4", 12), ("12.5", 13), ("-0.5", 0), ("x", "x"), ("nan", "nan")])
def test_a_slider_of_whole_numbers_is_rounded(text: str, value: int | str) -> None:
    assert as_sent(parameter("integer"), text) == value
    assert as_sent(parameter("number"), text) == text


def test_points_are_ras_on_the_wire_and_lps_inside() -> None:
    assert decode_points("1,2,3;-4.5,0,1e-3", field="p") == ((-1, -2, 3), (4.5, 0, 1e-3))
    assert encode_points([[-1.0, -2.0, 3.0], [0.1, 0.0, -0.25]]) == "1.0,2.0,3.0;-0.1,0.0,-0.25"
    assert decode_points("", field="p") == decode_points(" ; ", field="p") == ()
    assert decode_points("1,2,3;\n", field="p") == ((-1, -2, 3),)


coordinate = st.floats(-1e6, 1e6).map(lambda number: number + 0.0)


@given(st.lists(st.tuples(coordinate, coordinate, coordinate), max_size=5))
def test_points_come_back_to_the_last_digit(points: list[tuple[float, float, float]]) -> None:
    assert list(decode_points(encode_points(points), field="p")) == points


@pytest.mark.parametrize("text", ["1,2", "1,2,3,4", "a,b,c", "1,2,nan", "inf,0,0", "1;2;3", "1,2,3;;x", "\ufffd"])
def test_what_is_no_list_of_points_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="'seeds' must be sent as x,y,z;x,y,z;"):
        decode_points(text, field="seeds")


def kinds(elements: tuple[Element, ...]) -> list[tuple[str, str]]:
    return [(element.type, element.label) for element in elements]


def test_files_come_before_texts_and_nothing_is_left_out() -> None:
    report = {
        "notes": ["The orientation was assumed.", "Computed on the CPU."],
        "texts": {"finding": "a mass"},
        "classifications": {"benign": 0.125, "malign": 0.875},
        "volumes_cc": {"organs": {"LIVER": 1500.126, "SPLEEN": 0.0}},
        "points": {"tip": [[1.0, 2.0, 3.0]], "none": []},
        "contents": [
            {"kind": "transform", "name": "a", "member": "transforms/a.mat"},
            {"kind": "transform", "name": "b", "member": "transforms/b.h5"},
            {"kind": "transform", "name": "c", "member": "transforms/c.nii.gz"},
            {"kind": "mesh", "name": "organs", "label": "LIVER", "member": "meshes/organs_LIVER.vtk"},
            {"kind": "labels", "name": "organs", "member": "organs.nii.gz"},
        ],
    }
    elements = elements_of(report)
    assert kinds(elements) == [
        ("LabelVolume", "organs"),
        ("VTKMesh", "LIVER"),
        ("TransformLinear", "a"),
        ("TransformBSpline", "b"),
        ("TransformGrid", "c"),
        ("Fiducials", "tip"),
        ("PlainText", "finding"),
        ("PlainText", "Classification"),
        ("PlainText", "Volumes: organs"),
        ("PlainText", "Notes"),
    ]
    assert [element.text for element in elements[5:]] == [
        "-1.0,-2.0,3.0",
        "a mass",
        "benign: 12.5%\nmalign: 87.5%",
        "LIVER: 1500.13 ml\nSPLEEN: 0.00 ml",
        "The orientation was assumed.\nComputed on the CPU.",
    ]


def test_a_result_of_nothing_says_so() -> None:
    assert kinds(elements_of({"device": "cpu"})) == [("PlainText", "Result")]


def test_an_app_gives_exactly_what_it_declares() -> None:
    report = {
        "texts": {"say": "hello"},
        "points": {"p": []},
        "volumes_cc": {"x": {"a": 1.0}},
        "contents": [{"kind": "labels", "name": "images", "member": "images.nii.gz"}],
    }
    outputs = [
        {"type": "PlainText", "field": "say"},
        {"type": "Fiducials", "field": "q", "label": "p"},
        {"type": "LabelVolume", "field": "images"},
    ]
    assert kinds(declared_elements(report, outputs)) == [
        ("PlainText", "say"),
        ("Fiducials", "p"),
        ("LabelVolume", "images"),
    ]
    with pytest.raises(PredictionError, match=r"output 'images' \(VTKMesh\)"):
        declared_elements(report, [{"type": "VTKMesh", "field": "images"}])


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("LIVER", "LIVER"),
        ("a/b\\c:d", "a_b_c_d"),
        ("../..", "_"),
        ("Müller ^ Eva", "M_ller _ Eva"),
        ("", "result"),
        ("...", "result"),
        ("x" * 99, "x" * 60),
    ],
)
def test_a_label_can_be_part_of_a_files_name(name: str, label: str) -> None:
    assert safe_label(name) == label


def test_an_answer_is_json_whose_first_byte_comes_before_any_file_is_opened() -> None:
    opened: list[str] = []

    def opener(element: Element) -> Any:
        opened.append(element.member)
        return iter([b"AB", b"C", b"D"])

    pieces = encode_answer((Element("LabelVolume", "l", member="m"), Element("PlainText", 't"', "ü\n")), opener)
    assert (next(pieces), opened) == (b"[", [])
    assert b"".join(pieces) == (
        b'{"type": "LabelVolume", "content": "QUJDRA==", "label": "l"}, '
        b'{"type": "PlainText", "content": "\\u00fc\\n", "label": "t\\""}]'
    )
