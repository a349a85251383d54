"""Python apps: how they are found, what they get and what becomes of what they return."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from apps import LEVEL_APP, LEVEL_LABELS, write_app
from bundles import axis_geometry, expected_levels, slope_volume

from inference_server.errors import Cancelled, ModelLoadError, PredictionError
from inference_server.imaging.volume import Volume
from inference_server.models.app import LINE_LIMIT, LINES_LEFT_OUT
from inference_server.models.case import Case, Result
from inference_server.models.engine import Engine
from inference_server.models.hooks import Hooks
from inference_server.models.registry import Registry, read_model

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "models" / "threshold_app"
Run = Callable[..., Result]


@pytest.fixture
def run_app(tmp_path: Path) -> Run:
    """Run an app's code on a case."""

    def run(code: str, case: Case | None = None, hooks: Hooks | None = None, **manifest: object) -> Result:
        folder = write_app(tmp_path / f"m{len(list(tmp_path.iterdir()))}", code, **manifest)  # type: ignore[arg-type]
        return Engine(Registry([])).run(read_model(folder), case or slope_case(), hooks or Hooks())

    return run


def slope_case(**parts: object) -> Case:
    return Case({"image": slope_volume(axis_geometry())}, **parts)  # type: ignore[arg-type]


def test_a_function_gives_labels_of_the_manifest(run_app: Run) -> None:
    case = slope_case()
    [found] = run_app(LEVEL_APP, case, labels=LEVEL_LABELS, id="levels").segmentations
    np.testing.assert_array_equal(found.labels.array, expected_levels(case.reference.array))
    assert (found.name, found.labels.array.dtype) == ("levels", np.uint8)
    assert {value: label.name for value, label in found.names.items()} == {1: "low", 2: "high"}


def test_an_object_hands_its_data_from_step_to_step(run_app: Run) -> None:
    code = """
        class App:
            def load(self, device):
                self.device = device.type
            def pre(self, case, context):
                return [self.device, context.device, context.folder.name]
            def infer(self, data, context):
                return data + [context.case.parameters["word"]]
            def post(self, data, context):
                return " ".join(data)
    """
    word = {"name": "word", "type": "text"}
    case = slope_case(parameters={"word": "yes"})
    assert run_app(code, case, app="app.py:App", parameters=[word]).texts == {"answer": "cpu cpu m0 yes"}


def test_the_runtimes_own_verbs_are_names_for_the_steps(run_app: Run) -> None:
    code = """
        class App:
            def prepare(self, case, context): return ["prepared"]
            def predict(self, prepared, context): return prepared + ["predicted"]
            def restore(self, prediction, context): return ", ".join(prediction)
    """
    assert run_app(code, app="app.py:App").texts == {"answer": "prepared, predicted"}


def test_an_app_speaks_with_the_server(run_app: Run) -> None:
    code = """
        class App:
            def pre(self, case, context): context.log("before")
            def infer(self, data, context): context.progress(0.5)
            def post(self, data, context):
                context.log("after " * 1000, level="warning")
                return str(context.cancelled())
    """
    fractions: list[float] = []
    lines: list[tuple[str, str]] = []
    hooks = Hooks(progress=fractions.append, event=lambda level, text: lines.append((level, text)))
    assert run_app(code, hooks=hooks, app="app.py:App").texts == {"answer": "False"}
    assert fractions == [0.5]
    assert lines == [("info", "before"), ("warning", ("after " * 1000)[:1000])]


def test_a_talkative_app_is_cut_short(run_app: Run) -> None:
    lines: list[str] = []
    code = f"""
        def app(case, context):
            for number in range({LINE_LIMIT} + 50):
                context.log(number)
            return ""
    """
    run_app(code, hooks=Hooks(event=lambda _, text: lines.append(text)))
    assert lines == [*map(str, range(LINE_LIMIT)), LINES_LEFT_OUT]


def test_an_app_that_stops_when_it_is_told_to_gives_nothing(run_app: Run) -> None:
    asked = iter([False, False, False, True, True, True, True])
    code = """
        def app(case, context):
            while not context.cancelled():
                pass
    """
    with pytest.raises(Cancelled):
        run_app(code, hooks=Hooks(cancelled=lambda: next(asked)))


def test_an_app_may_spawn_processes_that_run_functions_of_its_files(run_app: Run) -> None:
    """The functions are found by name in the processes, and processes keep out of the device's lock."""
    code = """
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import Pool
        from .parts.twice import twice

        def thrice(number):
            return 3 * number

        def app(case, context):
            with Pool(2) as pool, ProcessPoolExecutor(1) as other:
                return str([*pool.map(thrice, [1, 2]), *other.map(twice, [3])])
    """
    files = {"parts/twice.py": "def twice(number):\n    return 2 * number\n"}
    assert run_app(code, files=files).texts == {"answer": "[3, 6, 6]"}


def test_two_apps_do_not_share_modules_of_one_name_and_leave_none_behind(run_app: Run) -> None:
    code = """
        from .words import WORD

        def app(case, context):
            return WORD
    """
    before = set(sys.modules)
    assert run_app(code, files={"words.py": "WORD = 'one'"}).texts == {"answer": "one"}
    assert run_app(code, files={"words.py": "WORD = 'two'"}).texts == {"answer": "two"}
    gc.collect()
    assert not [name for name in set(sys.modules) - before if "words" in name]


def test_code_runs_at_load_and_not_when_the_folder_is_read(tmp_path: Path) -> None:
    model = read_model(write_app(tmp_path / "bad", "raise ValueError('no')"))
    with pytest.raises(ModelLoadError, match="could not be loaded"):
        Engine(Registry([])).load(model)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        ("from inference_server import not_there", "cannot import name 'not_there' from 'inference_server'."),
        ("other = 1", "has no attribute 'app'"),
        ("app = 1", "a function, or to have `infer` or `predict`"),
        ("class app:\n    def __init__(self, x): pass", "missing 1 required positional argument"),
    ],
)
def test_an_app_that_cannot_be_made_is_explained(tmp_path: Path, code: str, words: str) -> None:
    model = read_model(write_app(tmp_path / "bad", code))
    with pytest.raises(ModelLoadError) as failure:
        Engine(Registry([])).load(model)
    assert words in failure.value.message
    assert str(tmp_path) not in failure.value.message
    assert "/" not in failure.value.message


@pytest.mark.parametrize("app", ["../app.py:app", "/app.py:app", "app.py", "a b:c", "app.py:app()"])
def test_an_app_lies_in_its_folder_or_in_a_package(tmp_path: Path, app: str) -> None:
    with pytest.raises(ModelLoadError, match=r"line 1, app: "):
        read_model(write_app(tmp_path / "bad", "", app=app))


def test_a_missing_file_and_a_missing_name_are_reported_when_the_folder_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"The app's file other.py is missing"):
        read_model(write_app(tmp_path / "file", "", app="other.py:app"))
    folder = write_app(tmp_path / "key", "")
    (folder / "model.yaml").write_text("runtime: python-app")
    with pytest.raises(ModelLoadError, match=r"the key `app` and `runtime: python-app` belong together"):
        read_model(folder)


def test_a_module_of_a_package_is_an_app_too(tmp_path: Path) -> None:
    model = read_model(write_app(tmp_path / "package", "", app="inference_server.models.app:Context"))
    with pytest.raises(ModelLoadError, match="missing 3 required"):
        Engine(Registry([])).load(model)


def test_an_apps_own_sentence_reaches_the_user_and_its_other_errors_do_not(run_app: Run) -> None:
    own = """
        from inference_server.errors import PredictionError
        def app(case, context):
            raise PredictionError("The image shows no liver.")
    """
    with pytest.raises(PredictionError, match="The image shows no liver"):
        run_app(own)
    with pytest.raises(PredictionError, match="failed on this case") as failure:
        run_app("def app(case, context):\n    return {}['secret']")
    assert "secret" not in failure.value.message


def test_the_example_marks_what_is_above_the_threshold_inside_of_a_contour() -> None:
    model = read_model(EXAMPLE)
    volume = slope_volume(axis_geometry())
    inside = Volume(np.zeros((9, 28, 11), bool), volume.geometry.refined((1, 2, 1)))
    inside.array[:, :14] = True
    lines: list[str] = []
    case = Case(
        {"image": volume},
        contours={"liver": inside},
        parameters={"threshold": 0.1, "within": "liver"},
        dicom_tags={"image": {0x00080060: "CT"}},
        scaling_factor=(1, 2, 1),
    )
    [found] = Engine(Registry([])).run(model, case, Hooks(event=lambda _, text: lines.append(text))).segmentations
    expected = np.repeat(volume.array > 0.1, 2, axis=1) & inside.array
    assert 0 < expected.sum() < inside.array.sum()
    np.testing.assert_array_equal(found.labels.array, expected)
    assert (found.name, found.names[1].color) == ("ABOVE", (230, 140, 40))
    assert lines == ["modality CT, threshold 0.1"]
