"""Ensembles: members that fit together, asked one after the other, and one answer of theirs."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from apps import LEVEL_APP, LEVEL_LABELS, write_app
from bundles import (
    INVERT,
    LOAD,
    ORIENT,
    SAVE,
    SIGMOID,
    SOFTMAX,
    THRESHOLD,
    Bundle,
    axis_geometry,
    centred,
    conv,
    slope_volume,
)
from pictures import expected_quarters, quarter_picture, write_quarters
from plain_models import write_plain

from inference_server.errors import Cancelled, PredictionError
from inference_server.imaging.volume import Geometry, Volume
from inference_server.models import decision
from inference_server.models.case import Case, Result
from inference_server.models.combine import RunningMean
from inference_server.models.engine import Engine
from inference_server.models.hooks import NO_HOOKS, Hooks
from inference_server.models.manifest import parse_manifest
from inference_server.models.registry import Model, Registry
from inference_server.models.runtimes import plain
from inference_server.models.runtimes.plain_prepare import prepare_case

SPACING = {"_target_": "Spacingd", "keys": "image", "pixdim": [1.2, 1.3, 1.4], "mode": "bilinear"}
GRIDS = {
    "as it is": axis_geometry("LPS"),
    "turned": axis_geometry("SLA"),
    "oblique": centred((9, 14, 11), (0.9, 1.5, 2.5), np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])),
}
SHARP = ((0.0, 20.0, 40.0), (0.0, 10.0, 5.0))
SOFT = ((0.0, 2.0, 3.0), (0.0, -1.0, 1.0))
"""Slopes and offsets of three scores."""


def write_ensemble(folder: Path, *members: str, **manifest: Any) -> Path:
    folder.mkdir(parents=True)
    declared = {"runtime": "ensemble", "members": list(members), **manifest}
    (folder / "model.yaml").write_text(yaml.safe_dump(declared))
    return folder


def line(slopes: tuple[float, ...], offsets: tuple[float, ...]) -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor(slopes).view(-1, 1, 1, 1, 1), "bias": torch.tensor(offsets)}


def ask(models: Path, case: Case, hooks: Hooks = NO_HOOKS, model: str = "all") -> Result:
    registry = Registry([models])
    assert not registry.problems()
    return Engine(registry).run(registry.get(model), case, hooks)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_mean_of_probabilities_decides_every_voxel(grid: str, tmp_path: Path) -> None:
    Bundle(state=line(*SHARP)).write(tmp_path / "a")
    write_plain(Bundle(state=line(*SOFT)), "network", tmp_path / "b")
    write_ensemble(tmp_path / "all", "a", "b")
    volume = slope_volume(GRIDS[grid])
    [found] = ask(tmp_path, Case({"image": volume})).segmentations
    values = torch.from_numpy(volume.array.astype(np.float64))
    scores = [
        torch.stack([values * slope + offset for slope, offset in zip(*one, strict=True)]) for one in (SHARP, SOFT)
    ]
    chances = sum(one.softmax(0) for one in scores)
    best = chances.sort(0).values
    clear = (best[-1] - best[-2] > 1e-4).numpy()
    expected = chances.argmax(0).numpy()
    alone = [one.argmax(0).numpy() for one in scores]
    assert clear.mean() > 0.9
    assert all((expected != one).any() for one in alone)
    np.testing.assert_array_equal(found.labels.array[clear], expected[clear])
    assert found.labels.geometry == volume.geometry
    assert {value: label.name for value, label in found.names.items()} == {1: "low", 2: "high"}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("post", [(SOFTMAX,), (SIGMOID, INVERT, THRESHOLD, SAVE)], ids=["argmax", "threshold"])
def test_members_of_one_mind_answer_as_each_of_them(
    grid: str, post: tuple[dict[str, Any], ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resampled, on a finer contour grid, and in small blocks."""
    monkeypatch.setattr(decision, "BLOCK_VOXELS", 200)
    generator = torch.Generator().manual_seed(0)
    state = {"weight": torch.randn(3, 1, 3, 3, 3, generator=generator), "bias": torch.zeros(3)}
    classes = {"0": "x", "1": "y", "2": "z"}
    parts = {"network": conv(1, 3, 3), "state": state, "transforms": (*LOAD, ORIENT, SPACING), "post": post}
    for name in "abc":
        Bundle(**parts, classes=classes).write(tmp_path / name)  # type: ignore[arg-type]
    write_ensemble(tmp_path / "all", "a", "b", "c")
    case = Case({"image": slope_volume(GRIDS[grid])}, scaling_factor=(2, 1, 3))
    together = ask(tmp_path, case).segmentations
    alone = ask(tmp_path, case, model="a").segmentations
    assert len(together) == len(alone)
    for one, other in zip(together, alone, strict=True):
        assert np.count_nonzero(other.labels.array) > 0
        assert np.mean(one.labels.array == other.labels.array) > 0.9999
        assert (one.labels.geometry, one.names) == (other.labels.geometry, other.names)


def test_scores_of_members_on_one_grid_are_held_once() -> None:
    """Four members of 16 MB each, two grids: two sums, and the member at hand."""
    geometry, other = Geometry((64, 64, 64)), Geometry((64, 64, 64), origin_mm=(0.5, 0.0, 0.0))
    chances = torch.zeros(16, 64, 64, 64)
    mean, held = RunningMean(), []
    for member, grid in enumerate((geometry, other, geometry, geometry)):
        scores = chances.clone()
        scores[member] = 1.0
        held.append(weakref.ref(scores))
        mean.add(scores, grid.affine)
        del scores
    assert [reference() is not None for reference in held] == [True, True, False, False]
    case = Case({"image": Volume(np.zeros(geometry.shape, np.float32), geometry)}, scaling_factor=(1, 1, 2))
    [found] = mean.restored(case, parse_manifest({"id": "m"})).segmentations
    assert not found.labels.array[1:, 1:, 2:].any()  # a tie of 0, 2 and 3, which have the share 1/4 each
    with pytest.raises(PredictionError, match="different numbers of classes"):
        mean.add(chances[1:], geometry.affine)


def test_members_count_alike_whichever_grid_they_are_on() -> None:
    """Two of one grid say 2 with 0.6; one that lies half a voxel further says 1 with 1.0: 1.2 against 1.8."""
    geometry, other = Geometry((4, 4, 4)), Geometry((4, 4, 4), origin_mm=(0.5, 0.0, 0.0))
    case = Case({"image": Volume(np.zeros(geometry.shape, np.float32), geometry)})
    chances = torch.tensor([0.0, 0.4, 0.6]).view(3, 1, 1, 1).expand(3, 4, 4, 4)
    sure = torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1, 1).expand(3, 4, 4, 4)
    for others, expected in ((1, 1), (4, 1), (7, 2)):  # 0.4n + 1 against 0.6n
        mean = RunningMean()
        for _ in range(others):
            mean.add(chances.clone(), geometry.affine)
        mean.add(sure.clone(), other.affine)
        [found] = mean.restored(case, parse_manifest({"id": "m"})).segmentations
        np.testing.assert_array_equal(found.labels.array[:, :, 1:], expected)


def test_where_a_member_sees_nothing_it_says_background(tmp_path: Path) -> None:
    """One member is sure of what it sees in a crop, the other finds the same everywhere, but is less sure of it."""
    sure, less = line((0.0, 0.0, 0.0), (0.0, 9.0, 0.0)), line((0.0, 0.0, 0.0), (0.0, 2.0, 0.0))
    write_plain(Bundle(state=less), "network", tmp_path / "a")
    crop = {"prepare": {"orientation": "LPS", "size": [5, 6, 5]}}
    write_plain(Bundle(state=sure, manifest=crop), "network", tmp_path / "b")
    write_ensemble(tmp_path / "all", "a", "b")
    geometry = Geometry((9, 14, 11))
    [found] = ask(tmp_path, Case({"image": Volume(np.zeros(geometry.shape, np.float32), geometry)})).segmentations
    expected = np.zeros(geometry.shape)
    expected[2:7, 4:10, 3:8] = 1
    np.testing.assert_array_equal(found.labels.array, expected)


def threshold_app(*levels: float) -> str:
    steps = " + ".join(f"(values > {level})" for level in levels)
    return f"""
        import numpy as np
        def app(case, context):
            values = case.reference.array
            return np.zeros(values.shape, np.uint8) + {steps}
    """


def test_the_label_that_most_members_give_wins_and_of_equals_the_lowest(tmp_path: Path) -> None:
    volume = slope_volume(axis_geometry("RAI"))
    for name, levels in {"a": (-0.5, 0.5), "b": (-0.2, 0.2), "c": (0.0, 0.1)}.items():
        write_app(tmp_path / name, threshold_app(*levels), labels=LEVEL_LABELS)
    write_ensemble(tmp_path / "all", "a", "b", "c", combine="majority")
    write_ensemble(tmp_path / "two", "a", "b", combine="majority")
    case = Case({"image": volume}, scaling_factor=(1, 2, 1))
    values = np.repeat(volume.array, 2, axis=1)
    [three] = ask(tmp_path, case).segmentations
    np.testing.assert_array_equal(three.labels.array, (values > -0.2).astype(int) + (values > 0.2))
    assert three.name == "all"
    [two] = ask(tmp_path, case, model="two").segmentations
    np.testing.assert_array_equal(two.labels.array, (values > -0.2).astype(int) + (values > 0.5))


def test_probabilities_of_classes_are_averaged(tmp_path: Path) -> None:
    write_quarters(tmp_path / "a")
    write_quarters(tmp_path / "b", prepare={"intensity": [{"step": "scale", "low": 0, "high": 400, "to": [100, 0]}]})
    write_ensemble(tmp_path / "all", "a", "b")
    write_ensemble(tmp_path / "votes", "a", "b", combine="majority")
    case = Case({"image": Volume(quarter_picture()[None], Geometry((1, 8, 16)))})
    first, second = expected_quarters(), expected_quarters((100, 100, 50, 100))
    mean = {name: (first[name] + second[name]) / 2 for name in first}
    result = ask(tmp_path, case)
    assert result.classifications == pytest.approx(mean, abs=1e-6)
    assert {name: pytest.approx(said, abs=1e-6) for name, said in result.members.items()} == {"a": first, "b": second}
    votes = {"top left": 0.5, "top right": 0.0, "bottom left": 0.5, "bottom right": 0.0}
    assert ask(tmp_path, case, model="votes").classifications == votes


def test_members_that_prepare_alike_share_one_preparation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halved = {"intensity": [{"step": "scale", "low": 0, "high": 200, "to": [0, 100]}]}
    write_quarters(tmp_path / "a")
    write_quarters(tmp_path / "b", prepare={"intensity": []})
    write_quarters(tmp_path / "c", prepare=halved)
    write_quarters(tmp_path / "d", prepare=halved)
    write_ensemble(tmp_path / "all", "a", "b", "c", "d")
    case = Case({"image": Volume(quarter_picture()[None], Geometry((1, 8, 16)))})
    prepared: list[object] = []
    monkeypatch.setattr(
        plain, "prepare_case", lambda *args, **kw: prepared.append(args[2]) or prepare_case(*args, **kw)
    )
    members = ask(tmp_path, case).members
    assert len(prepared) == 2
    full, half = expected_quarters(), expected_quarters((0, 0, 100, 0))
    expected = {"a": full, "b": full, "c": half, "d": half}
    assert {name: pytest.approx(said, abs=1e-6) for name, said in members.items()} == expected


def light_pair(folder: Path) -> tuple[Engine, Model, Case]:
    """Return an engine, an ensemble of two light members that prepare alike, and a case for it."""
    write_quarters(folder / "a")
    write_quarters(folder / "b")
    write_ensemble(folder / "all", "a", "b")
    registry = Registry([folder])
    return Engine(registry), registry.get("all"), Case({"image": Volume(quarter_picture()[None], Geometry((1, 8, 16)))})


@contextmanager
def noted(phases: list[str], name: str) -> Iterator[None]:
    phases.append(name)
    yield
    phases.append("free")


def test_light_members_that_prepare_alike_share_the_device_and_hold_it_once(tmp_path: Path) -> None:
    engine, model, case = light_pair(tmp_path)
    phases: list[str] = []
    first = engine.run(model, case)  # loads them, and asks them one after the other
    second = engine.run(model, case, Hooks(phase=phases.append, share=lambda: noted(phases, "share")))
    assert phases == ["share", "preparing", "predicting", "free", "restoring"]
    assert second.members == first.members
    assert second.classifications == first.classifications
    assert second.report.notes == first.report.notes


def test_light_members_for_which_memory_does_not_suffice_together_are_asked_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, model, case = light_pair(tmp_path)
    first = engine.run(model, case)
    member = type(engine.load(model.members[0]))
    predict, failures = member.predict, [MemoryError(), None]

    def predict_or_fail(self: Any, *args: Any, **kwargs: Any) -> Any:
        if failures and (failure := failures.pop()):
            raise failure
        return predict(self, *args, **kwargs)

    monkeypatch.setattr(member, "predict", predict_or_fail)
    second = engine.run(model, case)
    assert not failures, "the second member was to fail"
    assert second.classifications == first.classifications
    assert second.report.notes == first.report.notes


def test_light_members_are_not_asked_once_the_task_is_cancelled(tmp_path: Path) -> None:
    engine, model, case = light_pair(tmp_path)
    engine.run(model, case)
    with pytest.raises(Cancelled):
        engine.run(model, case, Hooks(cancelled=lambda: True))


@pytest.mark.parametrize("prepare", [{}, {"intensity": [{"step": "scale", "low": 0, "high": 200, "to": [0, 1]}]}])
def test_each_use_of_a_member_counts_once_whether_it_is_asked_alone_or_not(
    prepare: dict[str, Any], tmp_path: Path
) -> None:
    write_quarters(tmp_path / "a")
    write_quarters(tmp_path / "b", **({"prepare": prepare} if prepare else {}))
    write_ensemble(tmp_path / "all", "a", "b")
    registry = Registry([tmp_path])
    engine, case = Engine(registry), Case({"image": Volume(quarter_picture()[None], Geometry((1, 8, 16)))})
    for _ in range(3):
        engine.run(registry.get("all"), case)
    assert (engine.warmth().loads, engine.warmth().hits) == ({"a": 1, "b": 1}, {"a": 2, "b": 2})


def test_members_are_asked_as_themselves(tmp_path: Path) -> None:
    """Warm from the second case on, with the device for each alone, and one progress for all."""
    Bundle(state=line(*SHARP)).write(tmp_path / "a")
    Bundle(state=line(*SOFT)).write(tmp_path / "b")
    write_ensemble(tmp_path / "all", "a", "b")
    registry = Registry([tmp_path])
    engine = Engine(registry)
    phases: list[str] = []
    done: list[float] = []

    def hold() -> AbstractContextManager[None]:
        return noted(phases, "hold")

    case = Case({"image": slope_volume(axis_geometry())})
    member = ["preparing", "predicting", "hold", "free", "restoring"]
    loading = ["loading", "hold", "free"]
    engine.run(registry.get("all"), case, Hooks(phase=phases.append, progress=done.append, hold=hold))
    assert phases == [*loading, *member, *loading, *member, "restoring"]
    assert done == sorted(done)
    assert 0.5 in done
    assert done[-1] == 1.0
    phases.clear()
    result = engine.run(registry.get("all"), case, Hooks(phase=phases.append, hold=hold))
    assert phases == [*member, *member, "restoring"]
    assert result.report.model == "all"
    assert result.report.notes == ("The members of the ensemble: a 2.1.0, b 2.1.0.",)
    assert result.report.precision == "float32"
    assert engine.load(registry.get("all")) is engine.load(registry.get("b"))


def test_an_ensemble_can_be_cancelled_between_its_members(tmp_path: Path) -> None:
    for name in "ab":
        write_app(tmp_path / name, LEVEL_APP, labels=LEVEL_LABELS)
    write_ensemble(tmp_path / "all", "a", "b", combine="majority")
    phases: list[str] = []
    with pytest.raises(Cancelled):
        ask(tmp_path, slope_case(), Hooks(phase=phases.append, cancelled=lambda: "restoring" in phases))
    assert phases == ["loading", "preparing", "predicting", "restoring"]


def slope_case() -> Case:
    return Case({"image": slope_volume(axis_geometry())})


def test_an_ensemble_has_what_its_members_have(tmp_path: Path) -> None:
    depth = {"name": "depth", "type": "number", "default": 3.0}
    write_app(tmp_path / "a", LEVEL_APP, labels=LEVEL_LABELS, version="1.5.0", parameters=[depth])
    write_app(tmp_path / "b", LEVEL_APP, labels=LEVEL_LABELS)
    folder = write_ensemble(tmp_path / "all", "a:1.5.0", "b", combine="majority")
    registry = Registry([tmp_path])
    model = registry.get("all")
    assert model.manifest.members == ("a:1.5.0", "b:1.0.0")
    assert {value: label.name for value, label in model.manifest.labels.items()} == {1: "low", 2: "high"}
    assert [parameter.name for parameter in model.manifest.parameters] == ["depth"]
    (tmp_path / "b" / "more.py").write_text("")
    registry.scan()
    assert registry.get("all").digest != model.digest
    (folder / "model.yaml").unlink()
    registry.scan()
    assert [found.id for found in registry.models()] == ["a", "b"]


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        ({"labels": {1: {"name": "other"}}}, r"its labels are 1 other; 1 low, 2 high was expected"),
        (
            {"channels": [{"name": "T1"}, {"name": "T2", "required": False}]},
            r"its channels are T1, T2 \(optional\); image",
        ),
        ({"kind": "classification", "classes": ["x"]}, "its kind is classification; segmentation was expected"),
        ({"dimensions": 2}, "its dimensions are 2; 3 was expected"),
    ],
)
def test_members_that_do_not_go_together_are_reported(tmp_path: Path, manifest: dict[str, Any], sentence: str) -> None:
    write_app(tmp_path / "a", LEVEL_APP, labels=LEVEL_LABELS)
    write_app(tmp_path / "b", LEVEL_APP, **{"labels": LEVEL_LABELS, **manifest})
    folder = write_ensemble(tmp_path / "all", "a", "b", combine="majority")
    registry = Registry([tmp_path])
    assert [model.id for model in registry.models()] == ["a", "b"]
    with pytest.raises(AssertionError, match=f"The member 'b' does not fit the ensemble: {sentence}"):
        raise AssertionError(registry.problems()[folder])


def test_ensembles_that_cannot_be_are_reported(tmp_path: Path) -> None:
    write_app(tmp_path / "a", LEVEL_APP, labels=LEVEL_LABELS)
    write_app(tmp_path / "b", LEVEL_APP, labels=LEVEL_LABELS)
    write_ensemble(tmp_path / "good", "a", "b", combine="majority")
    write_ensemble(tmp_path / "inner", "good", "a", combine="majority")
    write_ensemble(tmp_path / "mean", "a", "b")
    write_ensemble(tmp_path / "gone", "a", "c", combine="majority")
    write_ensemble(tmp_path / "one", "a")
    problems = {path.name: sentence for path, sentence in Registry([tmp_path]).problems().items()}
    assert problems.pop("inner").endswith("it is an ensemble itself.")
    assert "no probabilities, of which `combine: majority`" in problems.pop("mean")
    assert problems.pop("gone") == "The ensemble's member 'c' is not served here."
    assert "two members or more" in problems.pop("one")
    assert not problems
