"""What is read from a bundle's files, without running any of it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from bundles import ARGMAX, INVERT, SAVE, SIGMOID, SOFTMAX, THRESHOLD

from inference_server.models.bundle import PostProcessing, default_color, post_processing
from inference_server.models.registry import Model

MakeModel = Callable[..., Model]
LARGEST = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred"}


def test_channels_labels_version_and_title_come_from_the_metadata(make_model: MakeModel) -> None:
    manifest = make_model(channels={"0": "T1", "1": "FLAIR"}).manifest
    assert [(channel.name, channel.modality) for channel in manifest.channels] == [("T1", "MR"), ("FLAIR", "MR")]
    assert {value: label.name for value, label in manifest.labels.items()} == {1: "low", 2: "high"}
    assert (manifest.version, manifest.title, manifest.restore) == ("2.1.0", "Levels", "argmax")


def test_what_the_manifest_says_wins(make_model: MakeModel) -> None:
    written = {"id": "other", "version": "3", "labels": {1: {"name": "cyst", "color": [1, 2, 3]}}, "queue": "gpu"}
    manifest = make_model(manifest=written).manifest
    assert (manifest.id, manifest.version, manifest.queue) == ("other", "3", "gpu")
    assert [(label.name, label.color) for label in manifest.labels.values()] == [("cyst", (1, 2, 3))]


def test_structures_of_a_threshold_are_numbered_from_1(make_model: MakeModel) -> None:
    classes = {"0": "core", "1": "whole", "2": "rim"}
    manifest = make_model(classes=classes, post=(SIGMOID, THRESHOLD)).manifest
    assert manifest.restore == "threshold"
    assert {value: label.name for value, label in manifest.labels.items()} == {1: "core", 2: "whole", 3: "rim"}


def test_channels_without_names_get_different_ones(make_model: MakeModel) -> None:
    manifest = make_model(channels={"0": "image", "1": "image"}).manifest
    assert len({channel.name for channel in manifest.channels}) == 2


@pytest.mark.parametrize(
    ("transforms", "expected"),
    [
        ([SOFTMAX, INVERT, ARGMAX, SAVE], PostProcessing("argmax", "softmax")),
        ([INVERT, ARGMAX, SAVE], PostProcessing("argmax")),
        ([SIGMOID, INVERT, THRESHOLD, SAVE], PostProcessing("threshold", "sigmoid")),
        ([SIGMOID, {**THRESHOLD, "threshold": 0.3}], PostProcessing("threshold", "sigmoid", 0.3)),
        ([{"_target_": "monai.transforms.ActivationsD", "sigmoid": [True]}], PostProcessing("threshold", "sigmoid")),
        ([SOFTMAX, {**ARGMAX, "argmax": [True, False]}], PostProcessing("argmax", "softmax")),
        ([SOFTMAX, ARGMAX, {**LARGEST, "_disabled_": True}], PostProcessing("argmax", "softmax")),
        ([SOFTMAX, ARGMAX, LARGEST, SAVE], PostProcessing("labels")),
        ([SOFTMAX, {**ARGMAX, "argmax": "$@flag"}], PostProcessing("labels")),
        ([{"_target_": "Activationsd", "other": "$torch.tanh"}, ARGMAX], PostProcessing("labels")),
        ([ARGMAX, SOFTMAX], PostProcessing("labels")),
        (["@one", "@two"], PostProcessing("labels")),
    ],
)
def test_a_postprocessing_is_replaced_only_where_ours_does_the_same(
    transforms: list[Any], expected: PostProcessing
) -> None:
    config = {"postprocessing": {"_target_": "Compose", "transforms": transforms}}
    assert post_processing(config, 3) == expected


def test_a_bundle_without_postprocessing_gives_its_classes() -> None:
    assert post_processing({}, 3) == PostProcessing("argmax", "softmax")
    assert post_processing({}, 1) == PostProcessing("threshold", "sigmoid")
    assert post_processing({"postprocessing": "$@other"}, 3) == PostProcessing("labels")


def test_neighbouring_labels_have_different_colours() -> None:
    colors = [default_color(value) for value in range(1, 30)]
    assert len(set(colors)) == 29
    assert all(sum(abs(a - b) for a, b in zip(*pair, strict=True)) > 60 for pair in pairwise(colors))
