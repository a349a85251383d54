"""What services take of workspaces, and what they give back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inference_server.errors import BadRequest
from inference_server.imaging.volume import Geometry
from inference_server.imaging.workspace import (
    Folder,
    Landmark,
    Layer,
    Role,
    SnapLabel,
    Workspace,
    encode_workspace,
    read_workspace,
)
from inference_server.imaging.workspace.services import (
    SegmentationFile,
    Wanted,
    landmarks_by_tag,
    layers_by_tag,
    parameters_of,
    tag_of,
    with_segmentations,
)

T1 = Layer("/w/t1.nii.gz", Role.MAIN, ("T1", "MRI"))
FLAIR = Layer("/w/flair.nii.gz", Role.OVERLAY, ("flair",))
PLAIN = Layer("/w/plain.nii.gz", Role.MAIN)
GRID = Geometry((4, 4, 4), (2.0, 3.0, 4.0), (10.0, 20.0, 30.0))


def test_layers_are_found_by_tag_in_the_order_of_the_inputs() -> None:
    workspace = Workspace((FLAIR, T1))
    found = layers_by_tag(workspace, [Wanted("T1"), Wanted("FLAIR"), Wanted("T2", required=False)])
    assert list(found.items()) == [("T1", T1), ("FLAIR", FLAIR)]


@pytest.mark.parametrize("wanted", [[Wanted("image")], [Wanted("CT"), Wanted("PET", required=False)]])
def test_without_tags_the_main_image_is_the_one_that_is_needed(wanted: list[Wanted]) -> None:
    assert layers_by_tag(Workspace((PLAIN, FLAIR)), wanted) == {wanted[0].tag: PLAIN}


def test_an_overlay_that_has_the_tag_wins_over_the_main_image() -> None:
    assert layers_by_tag(Workspace((PLAIN, FLAIR)), [Wanted("flair")]) == {"flair": FLAIR}


@pytest.mark.parametrize(
    ("layers", "wanted", "sentence"),
    [
        ((T1, PLAIN), ["T1"], "has 2 main images; one"),
        ((FLAIR,), ["flair"], "no main image"),
        ((), ["flair"], "no main image"),
        ((T1, FLAIR), ["T1", "T2"], "No layer .* 'T2'.* Tags of its layers: T1, MRI, flair"),
        ((PLAIN, FLAIR), ["T1", "flair"], "No layer .* 'T1'"),
        ((PLAIN,), ["T1", "flair"], "Tags of its layers: none"),
        ((T1, replace(FLAIR, tags=("t1",))), ["T1"], "2 layers .* 'T1'"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(layers: tuple[Layer, ...], wanted: list[str], sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        layers_by_tag(Workspace(layers), [Wanted(tag) for tag in wanted])


def test_a_comma_in_the_name_of_an_input_is_a_blank_in_its_tag() -> None:
    assert tag_of("T1,  contrast, late ") == "T1 contrast late"
    layer = replace(T1, tags=("t1 contrast late",))
    assert layers_by_tag(Workspace((layer, FLAIR)), [Wanted("T1, contrast, late"), Wanted("flair")]) == {
        "T1, contrast, late": layer,
        "flair": FLAIR,
    }


def test_landmarks_are_points_in_the_patient_by_tag_or_else_by_text() -> None:
    marks = (
        Landmark("one", (0.5, 0.5, 0.5), ("Seeds",)),
        Landmark("two", (1.5, 2.5, 3.5), ("seeds", "more")),
        Landmark("tip", (0.5, 0.5, 1.5)),
        Landmark("more", (3.5, 0.5, 0.5)),
    )
    workspace = Workspace((T1,), landmarks=marks)
    assert landmarks_by_tag(workspace, ["seeds", "tip", "more", "absent"], GRID) == {
        "seeds": ((10.0, 20.0, 30.0), (12.0, 26.0, 42.0)),
        "tip": ((10.0, 20.0, 34.0),),
        "more": ((12.0, 26.0, 42.0),),
    }


def test_parameters_stand_in_entries_or_in_tags_of_known_names() -> None:
    layer = replace(T1, tags=("T1", "threshold=0.5", "mode = fast", "other=1"))
    entries = Folder(folders={"Parameters": Folder({"mode": "slow", "unheard": "2"})})
    assert parameters_of(Workspace((layer,), other=entries), {"threshold", "mode"}) == {
        "threshold": "0.5",
        "mode": "slow",
        "unheard": "2",
    }


def test_segmentations_become_layers_and_their_labels_the_table() -> None:
    before = Workspace((T1, FLAIR), (SnapLabel(1, "old"), SnapLabel(9, "kept")), save_location="/w")
    made = [
        SegmentationFile("organs", "organs.nii.gz", (SnapLabel(1, "liver", (1, 2, 3)), SnapLabel(2, "spleen"))),
        SegmentationFile("lesions, all", "lesions.nii.gz", (SnapLabel(2, "lesion"),)),
    ]
    after = read_workspace(encode_workspace(with_segmentations(before, made)))
    assert [(layer.path, layer.role, layer.tags, layer.nickname) for layer in after.layers] == [
        ("./t1.nii.gz", "MainRole", ("T1", "MRI"), ""),
        ("./flair.nii.gz", "OverlayRole", ("flair",), ""),
        ("./organs.nii.gz", "SegmentationRole", ("organs",), "organs"),
        ("./lesions.nii.gz", "SegmentationRole", ("lesions all",), "lesions, all"),
    ]
    assert [(label.value, label.name, label.color) for label in after.labels] == [
        (1, "liver", (1, 2, 3)),
        (2, "spleen / lesion", (255, 0, 0)),
        (9, "kept", (255, 0, 0)),
    ]
    assert after.save_location == "."
