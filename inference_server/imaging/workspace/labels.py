"""Label tables: the names and colours that ITK-SNAP shows for the values of segmentations."""

from __future__ import annotations

from dataclasses import dataclass, field

from inference_server.imaging.workspace.registry import Folder

TABLE = "ProjectMetaData.IRIS.LabelTable"
"""Where the table is in the folder of the main layer."""
_ELEMENT = "Element[{}]"
_COUNT = "NumberOfElements"


@dataclass(frozen=True)
class SnapLabel:
    """One value of a segmentation: its name, its colour (red, green, blue, 0-255), and how it is shown.

    Attributes:
        value: above 0; ITK-SNAP has its own label 0.
        alpha: 0-255, 255 is opaque.
        visible: whether it is shown in the slices.
        visible_in_3d: whether it is shown in three dimensions.
        other: the entries of the table that are none of these.
    """

    value: int
    name: str
    color: tuple[int, int, int] = (255, 0, 0)
    alpha: int = 255
    visible: bool = True
    visible_in_3d: bool = True
    other: Folder = field(default_factory=Folder, repr=False)


def labels_of(table: Folder) -> tuple[SnapLabel, ...]:
    """Return the labels of a table, without those that have no value."""
    return tuple(_label(element) for element in table.elements(_ELEMENT) if element.number("Index", -1) >= 0)


def with_labels(table: Folder, labels: tuple[SnapLabel, ...]) -> Folder:
    """Return a table with these labels; if it has them already, it is the same one."""
    if labels_of(table) == labels:
        return table
    counted = table.with_entry(_COUNT, str(len(labels)))
    return counted.with_elements(_ELEMENT, (_element(label) for label in labels))


def _label(element: Folder) -> SnapLabel:
    red, green, blue = (_shade(number) for number in element.numbers("Color", 3) or (255, 0, 0))
    in_slices, in_3d = element.numbers("Flags", 2) or (1, 1)
    return SnapLabel(
        value=element.number("Index"),
        name=element.get("Label"),
        color=(red, green, blue),
        alpha=_shade(element.number("Alpha", 255)),
        visible=bool(in_slices),
        visible_in_3d=bool(in_3d),
        other=element,
    )


def _element(label: SnapLabel) -> Folder:
    said = {
        "Alpha": str(label.alpha),
        "Color": " ".join(str(shade) for shade in label.color),
        "Flags": f"{int(label.visible)} {int(label.visible_in_3d)}",
        "Index": str(label.value),
        "Label": label.name,
    }
    return Folder({**label.other.entries, **said}, label.other.folders)


def _shade(number: float) -> int:
    return int(min(max(number, 0), 255)) if number == number else 255  # noqa: PLR0124 - what is not a number is not itself
