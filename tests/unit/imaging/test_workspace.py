"""Workspaces of ITK-SNAP: what is read of them, and that nothing of them is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from inference_server.errors import MalformedMessage, TooLarge
from inference_server.imaging.volume import Geometry
from inference_server.imaging.workspace import (
    Landmark,
    Layer,
    Role,
    SnapLabel,
    Workspace,
    encode_workspace,
    read_workspace,
    write_workspace,
)
from inference_server.imaging.workspace.xml import LIMIT_BYTES, decode_registry

SAVED = """<?xml version="1.0" encoding="UTF-8" ?>
<!--ITK-SNAP (itksnap.org) Project File-->
<!DOCTYPE registry [
<!ELEMENT registry (entry*,folder*)>
<!ELEMENT folder (entry*,folder*)>
<!ELEMENT entry EMPTY>
<!ATTLIST folder key CDATA #REQUIRED>
<!ATTLIST entry key CDATA #REQUIRED>
<!ATTLIST entry value CDATA #REQUIRED>
]>
<registry>
  <entry key="SaveLocation" value="/data/export" />
  <entry key="Version" value="20230925" />
  <entry key="Unheard" value="of &lt;it&gt;" />
  <folder key="Annotations" >
    <entry key="Format" value="ITK-SNAP Annotation File" />
    <entry key="FormatDate" value="20150624" />
    <folder key="Annotations" >
      <entry key="ArraySize" value="2" />
      <folder key="Element[0]" >
        <entry key="Type" value="LineSegmentAnnotation" />
        <entry key="Point1" value="1 2 3" />
        <entry key="Point2" value="4 2 3" />
      </folder>
      <folder key="Element[1]" >
        <entry key="Color" value="1 0 0" />
        <entry key="Offset" value="5 5" />
        <entry key="Pos" value="10.5 20.5 30.5" />
        <entry key="Tags" value="AC" />
        <entry key="Text" value="front" />
        <entry key="Type" value="LandmarkAnnotation" />
      </folder>
    </folder>
  </folder>
  <folder key="Layers" >
    <folder key="Layer[000]" >
      <entry key="AbsolutePath" value="/data/export/t1.nii.gz" />
      <entry key="Role" value="MainRole" />
      <entry key="Tags" value="T1, MRI" />
      <folder key="LayerMetaData" >
        <entry key="Alpha" value="255" />
        <entry key="CustomNickName" value="the &quot;first&quot;" />
      </folder>
      <folder key="ProjectMetaData" >
        <folder key="IRIS" >
          <folder key="LabelTable" >
            <entry key="NumberOfElements" value="2" />
            <folder key="Element[0]" >
              <entry key="Alpha" value="128" />
              <entry key="Color" value="0 170 255" />
              <entry key="Flags" value="1 0" />
              <entry key="Index" value="1" />
              <entry key="Label" value="Liver &amp; co" />
            </folder>
            <folder key="Element[1]" >
              <entry key="Index" value="7" />
              <entry key="Label" value="Spleen" />
              <entry key="Later" value="kept" />
            </folder>
          </folder>
        </folder>
      </folder>
    </folder>
    <folder key="Layer[001]" >
      <entry key="AbsolutePath" value="/data/export/flair.nii.gz" />
      <entry key="Role" value="OverlayRole" />
      <folder key="Mapping" >
        <entry key="Preset" value="Jet" />
      </folder>
    </folder>
    <folder key="Layer[003]" >
      <entry key="AbsolutePath" value="/data/export/beyond_a_gap.nii.gz" />
    </folder>
  </folder>
</registry>
"""


def changed(old: str, new: str) -> bytes:
    assert old in SAVED
    return SAVED.replace(old, new).encode()


def test_layers_labels_and_landmarks_are_read() -> None:
    workspace = read_workspace(SAVED.encode())
    assert [(layer.path, layer.role, layer.tags, layer.nickname) for layer in workspace.layers] == [
        ("/data/export/t1.nii.gz", Role.MAIN, ("T1", "MRI"), 'the "first"'),
        ("/data/export/flair.nii.gz", Role.OVERLAY, (), ""),
    ]
    liver, spleen = workspace.labels
    assert (liver.value, liver.name, liver.color, liver.alpha) == (1, "Liver & co", (0, 170, 255), 128)
    assert (liver.visible, liver.visible_in_3d) == (True, False)
    assert (spleen.value, spleen.color, spleen.alpha, spleen.visible_in_3d) == (7, (255, 0, 0), 255, True)
    assert [(mark.text, mark.position, mark.tags) for mark in workspace.landmarks] == [
        ("front", (10.5, 20.5, 30.5), ("AC",))
    ]
    assert (workspace.save_location, workspace.version) == ("/data/export", "20230925")
    assert workspace.tagged("MRI") == workspace.mains == workspace.layers[:1]


def test_every_entry_comes_back_from_a_round_trip() -> None:
    workspace = read_workspace(SAVED.encode())
    assert decode_registry(encode_workspace(workspace)) == decode_registry(SAVED.encode())


def test_what_is_changed_is_written_and_all_else_is_kept() -> None:
    workspace = read_workspace(SAVED.encode())
    liver, spleen = workspace.labels
    made = replace(
        workspace.with_layer(Layer("seg.nii.gz", Role.SEGMENTATION, ("OUT", "AI"), "mine")),
        labels=(replace(spleen, name="Milz"), liver),
        landmarks=(Landmark("back", (0.5, 0.25, 1e-7), ("PC",)),),
    )
    written = encode_workspace(made)
    again, root = read_workspace(written), decode_registry(written)
    assert [replace(label, other=liver.other) for label in again.labels] == [
        SnapLabel(7, "Milz", other=liver.other),
        liver,
    ]
    assert [(mark.text, mark.position, mark.tags) for mark in again.landmarks] == [("back", (0.5, 0.25, 1e-7), ("PC",))]
    assert (again.layers[2].role, again.layers[2].tags, again.layers[2].nickname) == (
        "SegmentationRole",
        ("OUT", "AI"),
        "mine",
    )
    assert root.get("Unheard") == "of <it>"
    assert root.get("Annotations.Annotations.Element[0].Point2") == "4 2 3"
    assert root.get("Layers.Layer[000].LayerMetaData.Alpha") == "255"
    assert root.get("Layers.Layer[000].ProjectMetaData.IRIS.LabelTable.Element[0].Later") == "kept"
    assert root.get("Layers.Layer[001].Mapping.Preset") == "Jet"


def test_a_shorter_list_leaves_nothing_of_the_longer_one() -> None:
    workspace = read_workspace(SAVED.encode())
    root = decode_registry(
        encode_workspace(replace(workspace, layers=workspace.layers[:1], labels=workspace.labels[1:], landmarks=()))
    )
    assert set(root.folder("Layers").folders) == {"Layer[000]"}
    table = root.folder("Layers.Layer[000].ProjectMetaData.IRIS.LabelTable")
    assert (set(table.folders), table.get("NumberOfElements")) == ({"Element[0]"}, "1")
    assert root.get("Annotations.Annotations.ArraySize") == "1"


def test_what_stood_beyond_a_gap_does_not_become_a_layer() -> None:
    workspace = read_workspace(SAVED.encode())
    again = read_workspace(encode_workspace(workspace.with_layer(Layer("new.nii.gz"))))
    assert [layer.file_name for layer in again.layers] == ["t1.nii.gz", "flair.nii.gz", "new.nii.gz"]


@pytest.mark.parametrize("text", ["a & b < c > d \" e ' f", "zwei\nZeilen\tund\rmehr", "Größe 🧠", "  blanks  "])
def test_texts_come_back_as_they_are(text: str) -> None:
    workspace = Workspace((Layer("x.nii", Role.MAIN, nickname=text),), (SnapLabel(1, text),))
    again = read_workspace(encode_workspace(workspace))
    assert (again.layers[0].nickname, again.labels[0].name) == (text, text)


def test_what_xml_cannot_hold_is_replaced() -> None:
    again = read_workspace(encode_workspace(Workspace((Layer("x.nii", Role.MAIN, nickname="a\0b\ud800"),))))
    assert again.layers[0].nickname == "a\ufffdb\ufffd"


@pytest.mark.parametrize(
    ("location", "path", "beside"),
    [
        ("/old", "/old/t1.nii", True),
        ("C:\\old", "C:\\old\\t1.nii", True),
        (".", "./t1.nii", True),
        ("", "t1.nii", True),
        ("/old", "/old/gone.nii", False),
        ("/old", "/elsewhere/t1.nii", False),
        ("/old", "t1.nii", False),
    ],
)
def test_images_are_found_where_the_workspace_was_moved_to(
    tmp_path: Path, location: str, path: str, beside: bool
) -> None:
    (tmp_path / "t1.nii").touch()
    write_workspace(Workspace((Layer(path, Role.MAIN),), save_location=location), tmp_path / "a.itksnap")
    workspace = read_workspace(tmp_path / "a.itksnap")
    expected = tmp_path / "t1.nii" if beside else Path(path)
    assert workspace.path_of(workspace.layers[0]) == expected


def test_a_flattened_workspace_finds_its_images_wherever_it_goes(tmp_path: Path) -> None:
    (tmp_path / "t1.nii.gz").touch()
    write_workspace(read_workspace(SAVED.encode()).flattened("/D"), tmp_path / "a.itksnap")
    workspace = read_workspace(tmp_path / "a.itksnap")
    assert workspace.layers[0].path == "/D/t1.nii.gz"
    assert workspace.path_of(workspace.layers[0]) == tmp_path / "t1.nii.gz"


def test_landmarks_lie_in_voxels_whose_centres_are_at_a_half() -> None:
    grid = Geometry((9, 9, 9), (2.0, 3.0, 4.0), (-5.0, 7.0, 11.0), (0, -1, 0, 1, 0, 0, 0, 0, 1))
    assert Landmark("", (0.5, 0.5, 0.5)).in_patient(grid) == (-5.0, 7.0, 11.0)
    assert Landmark("", (1.5, 2.5, 3.5)).in_patient(grid) == (-5.0 - 6.0, 7.0 + 2.0, 11.0 + 12.0)
    there = Landmark.at("tip", (-11.0, 9.0, 23.0), grid)
    assert (there.text, there.position) == ("tip", pytest.approx((1.5, 2.5, 3.5)))


BOMB = """<!DOCTYPE registry [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;">]>
<registry><entry key="k" value="&b;"/></registry>"""
OUTSIDE = """<!DOCTYPE registry [<!ENTITY a SYSTEM "file:///etc/hostname">]><registry>&a;</registry>"""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"<registry>",
        b"<html><body/></html>",
        SAVED.encode()[:500],
        b'<registry><entry key="a" value="\xff"/></registry>',
        b'<?xml version="1.0" encoding="utf-7"?><registry',
        BOMB.encode(),
        OUTSIDE.encode(),
    ],
)
def test_what_is_no_workspace_is_refused_in_words(content: bytes) -> None:
    with pytest.raises(MalformedMessage, match="workspace"):
        read_workspace(content)


def test_too_much_is_refused(tmp_path: Path) -> None:
    deep = b"<registry>" + b'<folder key="a">' * 5000
    with pytest.raises(TooLarge):
        read_workspace(deep)
    with pytest.raises(TooLarge):
        read_workspace(b"<registry>" + b"<entry/>" * 300_000)
    large = tmp_path / "large.itksnap"
    with large.open("wb") as file:
        file.truncate(LIMIT_BYTES + 1)
    with pytest.raises(TooLarge):
        read_workspace(large)


def test_element_names_are_read_in_any_case_and_others_passed_over() -> None:
    workspace = read_workspace(
        b'<REGISTRY><extra><entry key="a" value="b"/></extra><Folder key="Layers"><FOLDER key="Layer[000]">'
        b'<Entry key="AbsolutePath" value="x.nii"/></FOLDER></Folder></REGISTRY>'
    )
    assert workspace.layers[0].path == "x.nii"


@pytest.mark.parametrize("color", ["", "red", "1 2", "nan nan nan", "300 -1 5"])
def test_odd_colours_are_shown_as_some_colour(color: str) -> None:
    label = read_workspace(changed('value="0 170 255"', f'value="{color}"')).labels[0]
    assert all(0 <= shade <= 255 for shade in label.color)


def test_a_landmark_without_a_place_is_none() -> None:
    assert read_workspace(changed('value="10.5 20.5 30.5"', 'value="inf 0 0"')).landmarks == ()
    assert read_workspace(changed('value="10.5 20.5 30.5"', 'value=""')).landmarks == ()
