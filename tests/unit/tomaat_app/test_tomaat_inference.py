"""Ready-made inference: networks of PyTorch, MONAI's windows, and models of the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from apps import write_app
from monai.inferers import SimpleInferer, SlidingWindowInferer
from safetensors.torch import save_file

from inference_server.errors import ModelLoadError, PredictionError, UnknownModel
from inference_server.models.app import Context
from inference_server.models.case import Case
from inference_server.models.hooks import Hooks
from inference_server.models.registry import ZOO
from inference_server.tomaat import Inference, ModelInference, MonaiInference, TorchInference
from inference_server.tomaat_app.current import working_on

VALUES = np.arange(7 * 6 * 9, dtype=np.int16).reshape(7, 6, 9)


class Affine(torch.nn.Module):
    """Gives two channels: the sum of its input's channels, and 3 less than that."""

    def __init__(self) -> None:
        super().__init__()
        self.less = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        both = image.sum(1, keepdim=True)
        return torch.cat([both, both - self.less], 1)


def network() -> Affine:
    made = Affine()
    made.less.data[:] = 3
    return made


def image(array: Any = VALUES, spacing: tuple[float, float, float] = (0.5, 1.0, 2.0)) -> sitk.Image:
    made = sitk.GetImageFromArray(array)
    made.SetSpacing(spacing)
    made.SetOrigin((5, 6, 7))
    return made


EXPECTED = np.stack([VALUES, VALUES - 3]).astype(np.float32)


@pytest.mark.parametrize("value", [image(), [image()], VALUES, VALUES[None, None], torch.from_numpy(VALUES)[None]])
def test_a_network_takes_an_image_or_an_array_and_adds_its_answer(value: Any) -> None:
    data = {"images": value, "level": [3.0]}
    answer = TorchInference(network())(data)
    [scores] = answer.pop("scores")
    np.testing.assert_array_equal(scores, EXPECTED)
    assert (scores.dtype, answer) == (np.float32, data)


def test_a_network_takes_several_fields_as_its_channels() -> None:
    infer = TorchInference(network(), fields=("first", "second"), output="both")
    [scores] = infer({"first": [image()], "second": [VALUES]})["both"]
    np.testing.assert_array_equal(scores[0], 2.0 * VALUES)


def test_a_network_comes_from_torchscript_or_from_weights(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="script"):
        torch.jit.script(network()).save(str(tmp_path / "model.ts"))
    save_file({"less": torch.tensor([3.0])}, tmp_path / "model.safetensors")
    torch.save({"less": torch.tensor([3.0])}, tmp_path / "model.pt")
    for infer in (
        TorchInference(tmp_path / "model.ts"),
        TorchInference(str(tmp_path / "model.ts")),
        TorchInference(Affine(), weights=tmp_path / "model.safetensors"),
        TorchInference(Affine(), weights=str(tmp_path / "model.pt")),
    ):
        np.testing.assert_array_equal(infer({"images": [image()]})["scores"][0], EXPECTED)
        assert infer.is_loaded


def test_a_file_that_is_no_torchscript_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "model.ts").write_bytes(b"no archive")
    with pytest.raises(ModelLoadError, match=r"model.ts is no TorchScript archive"):
        TorchInference(tmp_path / "model.ts").load("cpu")


@pytest.mark.parametrize("inferer", [SimpleInferer(), SlidingWindowInferer((4, 4, 4), overlap=0.5)])
def test_an_inferer_of_monai_leads_a_network_over_an_image(inferer: Any) -> None:
    said: list[float] = []
    with working_on(Context(Case({}), Path(), "cpu", Hooks(progress=said.append))):
        [scores] = MonaiInference(network(), inferer)({"images": [image()]})["scores"]
    np.testing.assert_allclose(scores, EXPECTED, rtol=1e-6)
    assert said[-1] == 1


def test_a_network_is_loaded_once() -> None:
    class Counted(Inference):
        loads = 0

        def load(self, device: str, cache_dir: Path | None = None) -> None:
            self.loads += 1

        def infer(self, data: dict[str, Any]) -> dict[str, Any]:
            return {"n": [len(data)]}

    counted = Counted()
    assert [counted({}), counted({"a": [1]})] == [{"n": [0]}, {"a": [1], "n": [1]}]
    assert counted.loads == 1


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({}, "The app gave no 'images'"),
        ({"images": [image(), image()]}, "has 2 values; one was expected"),
        ({"images": [VALUES[0]]}, "is no image that its network takes"),
        ({"images": [image(VALUES * np.nan)]}, "values that are not numbers"),
    ],
)
def test_what_is_no_image_fails_the_task_in_words(data: Any, sentence: str) -> None:
    with pytest.raises(PredictionError, match=sentence):
        TorchInference(network())(data)


MODEL = """
    def app(case, context):
        context.log("at work")
        first, second = case.channels["T1"].array, case.channels["T2"].array
        above = first + second > case.parameters["level"]
        return {"ABOVE": above.astype("uint8"), "remark": "done", "tip": [[1.0, 2.0, 3.0]]}
"""


def test_a_model_folder_of_the_server_runs_on_images_of_the_data(tmp_path: Path) -> None:
    level = {"name": "level", "type": "number", "default": 0}
    write_app(tmp_path / "above", MODEL, channels=[{"name": "T1"}, {"name": "T2"}], parameters=[level])
    said: list[object] = []
    infer = ModelInference(tmp_path / "above", fields=("first", "second"))
    with working_on(Context(Case({}), Path(), "cpu", Hooks(event=lambda *line: said.append(line)))):
        data = infer({"first": [image()], "second": [image()], "level": [300.0]})
    [labels] = data["labels"]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), 2 * VALUES > 300)
    assert (labels.GetSpacing(), labels.GetOrigin()) == ((0.5, 1.0, 2.0), (5.0, 6.0, 7.0))
    assert (data["remark"], data["tip"][0].tolist()) == (["done"], [[-1.0, -2.0, 3.0]])
    assert said == [("info", "at work")]


def test_a_model_gets_as_many_images_as_it_takes(tmp_path: Path) -> None:
    write_app(tmp_path / "above", MODEL, channels=[{"name": "T1"}, {"name": "T2"}])
    with pytest.raises(PredictionError, match="takes 2 images; 1 came"):
        ModelInference(tmp_path / "above")({"images": [image()]})
    with pytest.raises(PredictionError, match="takes images of SimpleITK; a ndarray came"):
        ModelInference(tmp_path / "above", fields=("a", "b"))({"a": [VALUES], "b": [VALUES]})


def test_a_model_that_ships_is_named_by_its_id(tmp_path: Path) -> None:
    given = sitk.ReadImage(str(ZOO / "hippocampus" / "example.nii.gz"))
    infer = ModelInference("hippocampus", output="structures")
    with pytest.MonkeyPatch.context() as patch:  # which precision is fastest takes seconds to find out
        patch.setattr("inference_server.models.precision.modes", lambda *_: ())
        [labels] = infer({"images": [given]})["structures"]
    assert (labels.GetSize(), set(np.unique(sitk.GetArrayFromImage(labels)))) == (given.GetSize(), {0, 1, 2})
    assert infer.size_bytes > 1e6
    with pytest.raises(UnknownModel):
        ModelInference("no-such-model").load("cpu")
