"""Models as services: digests, tags and descriptions."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from door_support import FakeModel

from inference_server.models.manifest import Channel, LabelName, Manifest, NamedInput
from inference_server.models.parameter import Parameter
from inference_server.tasks.tickets.record import Tag
from inference_server.tasks.tickets.services import githash_of, model_services, service_of

APP = {"runtime": "python-app", "app": "app.py:run"}


class Repository:
    def __init__(self, *manifests: Manifest) -> None:
        self._models = [FakeModel(manifest) for manifest in manifests]

    def models(self) -> Sequence[FakeModel]:
        return self._models


def test_a_digest_stands_for_a_model_its_version_and_its_files() -> None:
    model = FakeModel(Manifest(id="liver", version="1.2.0"))
    model.digest = "abc"
    same = githash_of(model)
    # Made by: printf 'liver\n1.2.0\nabc' | sha256sum | cut -c 1-40
    assert same == "d0efd21c9c470b73534ead4e93fad7366253e7b5"
    others = [FakeModel(Manifest(id="lives", version="1.2.0")), FakeModel(Manifest(id="liver", version="1.2"))]
    for other in others:
        other.digest = "abc"
    others.append(FakeModel(model.manifest))
    assert len({same, *map(githash_of, others)}) == 4
    assert all(re.fullmatch("[0-9a-f]{40}", githash_of(other)) for other in others)


def test_channels_and_points_become_tags() -> None:
    manifest = Manifest(
        id="brain",
        channels=(
            Channel(name="T1, late", description="with\ncontrast"),
            Channel(name="FLAIR", modality="MR", required=False),
        ),
        points=(NamedInput(name="seeds", description="on the tumour"),),
        **APP,
    )
    assert service_of(FakeModel(manifest)).tags == (
        Tag("T1 late", "MainImage", "with contrast", True),
        Tag("FLAIR", "AnatomicImage", "MR", False),
        Tag("seeds", "PointLandmark", "on the tumour", True),
    )


def test_descriptions_are_short_and_long() -> None:
    manifest = Manifest(
        id="liver",
        description="word " * 40,
        channels=(Channel(modality="CT"),),
        labels={2: LabelName(name="SPLEEN"), 1: LabelName(name="LIVER")},
        parameters=(
            Parameter(name="level", type="number", default=0.5, description="what counts"),
            Parameter(name="mode", type="choice", choices=("fast", "fine")),
        ),
    )
    service = service_of(FakeModel(manifest))
    assert service.shortdesc == ("word " * 15).strip() + " …"
    assert len(service.shortdesc) <= 78
    assert service.longdesc.splitlines()[1:] == [
        "Parameters, set by a tag NAME=VALUE of the main image:",
        "level (number, 0.5 if it is not given): what counts",
        "mode (choice of fast, fine)",
    ]
    assert service.keywords == ("CT", "LIVER", "SPLEEN")
    assert (service.name, service.version, service.model) == ("liver", "1.0.0", "liver:1.0.0")


@pytest.mark.parametrize(
    ("title", "description", "short"), [("Title", "Longer", "Title"), ("", "A\nB", "A B"), ("", "", "liver")]
)
def test_the_short_description_is_the_title_or_what_there_is(title: str, description: str, short: str) -> None:
    assert service_of(FakeModel(Manifest(id="liver", title=title, description=description))).shortdesc == short


def test_services_are_sorted_and_models_without_images_or_with_transforms_are_none() -> None:
    repository = Repository(
        Manifest(id="b", version="1.9"),
        Manifest(id="c", channels=(), points=(NamedInput(name="p"),), **APP),
        Manifest(id="d", transforms=(NamedInput(name="t"),), **APP),
        Manifest(id="e", transforms=(NamedInput(name="t", required=False),), **APP),
        Manifest(id="b", version="1.10"),
        Manifest(id="a"),
    )
    found = [(service.name, service.version) for service in model_services(repository)]
    assert found == [("a", "1.0.0"), ("b", "1.10"), ("b", "1.9"), ("e", "1.0.0")]
