"""A service's script: what is noted of it, and how a worker runs it again."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from inference_server.errors import ModelLoadError, PredictionError, SettingsError
from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.app import Context
from inference_server.models.case import Case, Result
from inference_server.models.model import read_model
from inference_server.models.runtimes import make_runtime
from inference_server.tomaat_app.folder import write_folder
from inference_server.tomaat_app.script import Script, read_script, run_script, this_script
from inference_server.tomaat_app.service import TomaatService

SERVICE = """
from inference_server.tomaat import TomaatApp, TomaatService

config = {"name": "Above", "port": 9000}
inputs = [
    {"type": "volume", "destination": "images"},
    {"type": "slider", "destination": "level", "minimum": 0, "maximum": 9},
]
outputs = [{"type": "PlainText", "field": "text"}]

def above(data):
    import SimpleITK
    return int((SimpleITK.GetArrayFromImage(data["images"][0]) > data["level"][0]).sum())

def prepare(data):
    print("prepared")
    return data

service = TomaatService(config, TomaatApp(prepare, above, lambda n: {"text": [f"{n} voxels"]}), inputs, outputs)
"""
AT_ONCE = "service.run()\nraise AssertionError('what follows run() is for the end of the service')\n"
GUARDED = """
def main():
    service.run()

if __name__ == "__main__":
    main()
"""
CLICKED = "import sys\nif __name__ == '__main__':\n    service.run()\n    sys.exit(0)\n"
ARGUED = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--level", type=float)
level = parser.parse_args().level
config["name"] = f"Above {level:g}"
TomaatService(config, service.app, inputs, outputs).run()
"""


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker's process stays what a script makes of it; this one does not."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if name.startswith(("tomaat_neighbour", "tomaat_package")):
            del sys.modules[name]


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Script]:
    def written(end: str, start: str = SERVICE, **facts: object) -> Script:
        path = tmp_path / "service.py"
        path.write_text(start + end)
        return Script(path, path.read_bytes(), tmp_path, **facts)  # type: ignore[arg-type]

    return written


def service_of(script: Script) -> TomaatService:
    service = run_script(script)
    assert isinstance(service, TomaatService)
    return service


@pytest.mark.parametrize("end", [AT_ONCE, GUARDED, CLICKED])
def test_a_worker_runs_a_script_as_far_as_run(script: Callable[..., Script], end: str) -> None:
    assert service_of(script(end)).checked.name == "Above"


def test_a_script_has_its_arguments_in_a_worker(script: Callable[..., Script]) -> None:
    assert service_of(script(ARGUED, arguments=("--level", "3"))).checked.name == "Above 3"


def test_a_script_finds_its_neighbours_and_its_place(script: Callable[..., Script], tmp_path: Path) -> None:
    (tmp_path / "tomaat_neighbour.py").write_text("NAME = 'Neighbour'\n")
    place = "from pathlib import Path\nconfig['name'] += f' in {Path(__file__).parent.name}'\n"
    end = f"import tomaat_neighbour\nconfig['name'] = tomaat_neighbour.NAME\n{place}"
    service = service_of(script(end + "TomaatService(config, service.app, inputs, outputs).run()"))
    assert service.checked.name == f"Neighbour in {tmp_path.name}"


def test_a_module_of_a_package_finds_its_neighbours(script: Callable[..., Script], tmp_path: Path) -> None:
    (tmp_path / "tomaat_package").mkdir()
    (tmp_path / "tomaat_package" / "names.py").write_text("NAME = 'Relative'\n")
    end = "from .names import NAME\nTomaatService({**config, 'name': NAME}, service.app, inputs, outputs).run()\n"
    assert service_of(script(end, package="tomaat_package")).checked.name == "Relative"


def test_what_a_script_defines_can_be_pickled_in_a_worker(script: Callable[..., Script]) -> None:
    service = service_of(script(AT_ONCE))
    assert pickle.loads(pickle.dumps(service.app.inference_fun)) is service.app.inference_fun


@pytest.mark.parametrize(
    ("end", "sentence"),
    [("", "never called the service's run"), ("raise SystemExit(2)", "ended before it called the service's run")],
)
def test_a_script_that_runs_no_service_is_refused_in_words(
    script: Callable[..., Script], end: str, sentence: str
) -> None:
    with pytest.raises(ModelLoadError, match=sentence):
        run_script(script(end))


def test_a_script_is_written_and_read_again_as_it_was_started(script: Callable[..., Script], tmp_path: Path) -> None:
    given = script(ARGUED, package="tomaat_package", arguments=("--level", "3"))
    folder = tmp_path / "copy"
    folder.mkdir()
    for name, content in given.files().items():
        (folder / name).write_bytes(content)
    assert read_script(folder) == given


STARTED = """
import json, sys
from dataclasses import asdict
from inference_server.tomaat_app.script import this_script
print(json.dumps(asdict(this_script()), default=str))
"""


def test_a_script_is_found_by_how_python_was_started(tmp_path: Path) -> None:
    package = tmp_path / "tomaat_package"
    package.mkdir()
    (package / "started.py").write_text(STARTED)
    commands = {"": [str(package / "started.py")], "tomaat_package": ["-m", "tomaat_package.started"]}
    for name, command in commands.items():
        done = subprocess.run(
            [sys.executable, *command, "--level", "3"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        found = json.loads(done.stdout)
        assert (found["path"], found["package"]) == (str(package / "started.py"), name)
        assert found["root"] == str(tmp_path if name else package)
        assert found["arguments"] == ["--level", "3"]


def test_without_a_script_there_is_nothing_that_workers_could_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(SettingsError, match="save it as a file"):
        this_script()


def test_a_process_of_multiprocessing_imports_the_script_and_serves_nothing(tmp_path: Path) -> None:
    """Spawned processes run the script once more, up to its end: it must not serve a second time."""
    path = tmp_path / "spawns.py"
    spawned = """
        import multiprocessing

        def double(number):
            return 2 * number

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(double, [21]))
        else:
            service.run()
    """
    path.write_text(SERVICE + textwrap.dedent(spawned))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("[42]\n", 0), done.stderr


def model_folder(script: Script, tmp_path: Path) -> Path:
    write_folder(tmp_path / "above", service_of(script).manifest, script)
    return tmp_path / "above"


def run(folder: Path, **parameters: float) -> Result:
    runtime = make_runtime(read_model(folder))
    runtime.load(torch.device("cpu"))
    volume = Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), Geometry((2, 3, 4)))
    case = Case({"images": volume}, parameters={"level": 3.0, **parameters})
    prepared = runtime.prepare(case)
    prediction = runtime.predict(prepared, progress=lambda _: None, cancelled=lambda: False)
    return runtime.restore(prediction)


def test_a_script_is_a_python_app_of_the_server(
    script: Callable[..., Script], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folder(script(AT_ONCE), tmp_path)
    assert run(folder, level=19.5).texts == {"text": "4 voxels"}
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "prepared\n")  # a worker's standard output is for its parent


def test_an_edited_script_counts_from_the_next_start_on(script: Callable[..., Script], tmp_path: Path) -> None:
    folder = model_folder(script(AT_ONCE), tmp_path)
    first = read_model(folder).digest
    edited = script(AT_ONCE, SERVICE.replace("voxels", "voxels of them"))
    assert run(folder).texts == {"text": "20 voxels"}
    assert model_folder(edited, tmp_path) == folder
    assert run(folder).texts == {"text": "20 voxels of them"}
    assert read_model(folder).digest != first


def test_a_folder_that_holds_the_same_is_not_written_again(script: Callable[..., Script], tmp_path: Path) -> None:
    folder = model_folder(script(AT_ONCE), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    model_folder(script(AT_ONCE), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


FILES = """
import os
import SimpleITK

def prepare(data):
    return data["images"][0]

def infer(name):
    SimpleITK.ReadImage(name)
    return name if data_wanted else 1 / 0

config["as_files"] = True
TomaatService(config, TomaatApp(prepare, infer, lambda name: {"text": [name]}), inputs, outputs).run()
"""


@pytest.mark.parametrize("fails", [False, True])
def test_files_of_a_case_are_gone_with_it(script: Callable[..., Script], tmp_path: Path, fails: bool) -> None:
    folder = model_folder(script(FILES.replace("data_wanted", str(not fails))), tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(scratch))
        if fails:
            with pytest.raises(ZeroDivisionError):
                run(folder)
        else:
            assert Path(run(folder).texts["text"]).suffix == ".mha"
    assert list(scratch.iterdir()) == []


READS = """
from SimpleITK import GetArrayFromImage, ReadImage

def prepare(data):
    return GetArrayFromImage(ReadImage(data["images"][0])).size + GetArrayFromImage(data["images"][0]).size

TomaatService(config, TomaatApp(prepare, lambda size: size, lambda size: {"text": [size]}), inputs, outputs).run()
"""


def test_a_script_may_take_its_images_for_names_of_files(script: Callable[..., Script], tmp_path: Path) -> None:
    assert run(model_folder(script(READS), tmp_path)).texts == {"text": "48"}


def test_an_app_that_returns_no_dictionary_fails_in_words(script: Callable[..., Script], tmp_path: Path) -> None:
    end = "TomaatService(config, TomaatApp(len, abs, str), inputs, outputs).run()"
    with pytest.raises(PredictionError, match="expected to return a dictionary"):
        run(model_folder(script(end), tmp_path))


SPEAKS = """
from inference_server.tomaat import context

def infer(data):
    context().progress(0.5)
    context().log(f"on {context().device}")
    return context().cancelled()

TomaatService(config, TomaatApp(prepare, infer, lambda said: {"text": [said]}), inputs, outputs).run()
"""


def test_an_app_speaks_with_the_server_where_it_wants_to(script: Callable[..., Script], tmp_path: Path) -> None:
    from inference_server.models.hooks import Hooks

    heard: list[object] = []
    runtime = make_runtime(read_model(model_folder(script(SPEAKS), tmp_path)))
    runtime.load(torch.device("cpu"))
    runtime.attend(Hooks(progress=heard.append, event=lambda level, text: heard.append((level, text))))
    volume = Volume(np.zeros((2, 3, 4)), Geometry((2, 3, 4)))
    prepared = runtime.prepare(Case({"images": volume}, parameters={"level": 1.0}))
    prediction = runtime.predict(prepared, progress=lambda _: None, cancelled=lambda: False)
    assert heard == [0.5, ("info", "on cpu")]
    assert runtime.restore(prediction).texts == {"text": "False"}


def test_without_a_server_nobody_listens() -> None:
    from inference_server.tomaat import context

    assert isinstance(context(), Context)
    assert not context().cancelled()
