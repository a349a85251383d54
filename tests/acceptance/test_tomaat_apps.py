"""TOMAAT apps as their authors start them: the tutorial's script, and every other example, over HTTPS."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from inference_server.models.registry import ZOO
from inference_server.stack.certificates import Pair, make_pair, shown
from inference_server.stack.launch import launched_server
from inference_server.tomaat import ModelInference
from inference_server.tomaat_app.folder import write_folder
from inference_server.tomaat_app.script import Script, run_script
from inference_server.tomaat_app.service import TomaatService

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "tomaat"
SERVED_TOGETHER = ("mesh.py", "fiducials.py", "transform.py", "text.py", "pytorch.py", "model.py")
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0)
ENVIRONMENT = {"INFERENCE_SERVER_DISK_LOW_BYTES": "0", "INFERENCE_SERVER_WORKER_CHILDREN": "1"}


@dataclass(frozen=True)
class Service:
    """A service that answers: the base of its URLs, and the certificate to trust."""

    url: str
    certificate: Path

    def predict(self, **fields: str) -> dict[str, dict[str, str]]:
        """Send a form as 3D Slicer does, ask again until there is an answer, and return its elements by label."""
        trusted = ssl.create_default_context(cafile=str(self.certificate))
        with httpx.Client(verify=trusted, timeout=30, trust_env=False) as client:
            parts = {name: (None, value) for name, value in {**fields, "module_version": "Slicer-v2"}.items()}
            answer = client.post(f"{self.url}/predict", files=parts).json()  # type: ignore[arg-type]
            while answer[0]["type"] == "DelayedResponse":
                time.sleep(0.2)
                answer = client.post(f"{self.url}/responses", data={"request_id": answer[0]["request_id"]}).json()
        return {element["label"]: element for element in answer}

    def interface(self) -> list[dict[str, Any]]:
        trusted = ssl.create_default_context(cafile=str(self.certificate))
        found: list[dict[str, Any]] = httpx.get(f"{self.url}/interface", verify=trusted, trust_env=False).json()
        return found


def volume() -> sitk.Image:
    """Return an oblique, anisotropic image whose voxels are all different."""
    image = sitk.GetImageFromArray(np.arange(210, dtype=np.int16).reshape(5, 6, 7))
    image.SetSpacing((0.7, 1.1, 2.5))
    image.SetOrigin((-12.5, 30.0, 7.25))
    image.SetDirection(OBLIQUE)
    return image


def sent(image: sitk.Image, folder: Path) -> str:
    """Return an image as a client's form has it."""
    sitk.WriteImage(image, str(folder / "sent.mha"))
    return base64.encodebytes((folder / "sent.mha").read_bytes()).decode()


def received(element: Mapping[str, str], name: str, folder: Path) -> Path:
    """Return the file that an element of an answer holds."""
    path = folder / name
    path.write_bytes(base64.b64decode(element["content"]))
    return path


@contextmanager
def started(script: Path, folder: Path, *arguments: Path) -> Iterator[tuple[Service, str]]:
    """Run a script as its author does until it is ready, and end it by Ctrl-C; also give the fingerprint it prints."""
    environment = {**os.environ, **ENVIRONMENT, "INFERENCE_SERVER_DATA_DIR": str(folder / "data")}
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, script, *arguments], env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout
    try:
        said: dict[str, str] = {}
        while "ready" not in said:
            line = process.stdout.readline().split(maxsplit=1)
            assert line, (folder / "log").read_text()
            said[line[0]] = line[1].rstrip()
        port = said["ready"].rpartition(":")[2]
        yield Service(f"https://127.0.0.1:{port}", Path(said["certificate"])), said["SHA-256"]
    finally:
        process.send_signal(signal.SIGINT)
        with process.stdout:
            assert process.wait(30) == 0, (folder / "log").read_text()


class Announcer(http.server.BaseHTTPRequestHandler):
    """An announcement service that remembers what it is told."""

    heard: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        self.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": 0, "error": ""}')

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def announcer() -> Iterator[str]:
    """The URL of an announcement service."""
    Announcer.heard.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Announcer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/announce"
        server.shutdown()
        thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def edited(folder: Path, changes: Mapping[str, str]) -> Path:
    """Write the tutorial's script to a folder with some of its text replaced, each of which must be there once."""
    text = (EXAMPLES / "image.py").read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "image.py").write_text(text)
    return folder / "image.py"


def presented(service: Service) -> str:
    """Return the fingerprint of the certificate that a client sees."""
    address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
    der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(address))
    return hashlib.sha256(der).digest().hex(":").upper()


def check_above(answer: Mapping[str, Mapping[str, str]], folder: Path, *, level: float, report: str) -> None:
    """Compare what the tutorial's script answered with what is right, to the last digit of the grid."""
    labels, image = sitk.ReadImage(str(received(answer["Above"], "labels.mha", folder))), volume()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), sitk.GetArrayFromImage(image) > level)
    for place in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(labels, place)() == getattr(image, place)()
    assert answer["Report"]["content"] == report


def run_commands(service: Service, fingerprint: str, folder: Path) -> str:
    """Run the commands of the page that ask the service."""
    page = (ROOT / "docs" / "tomaat-apps.md").read_text()
    [commands] = re.findall(r"^```console\n(inference-server tomaat .*?)^```", page, re.MULTILINE | re.DOTALL)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "INFERENCE_SERVER_FINGERPRINT": fingerprint,
    }
    done = subprocess.run(
        ["bash", "-euc", commands.replace("https://127.0.0.1:9000", service.url)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tutorial's script keeps its data, over a restart."""
    return tmp_path_factory.mktemp("home")


def test_the_tutorials_script_serves_its_app_until_ctrl_c(tmp_path: Path, home: Path, announcer: str) -> None:
    port = free_port()
    announced = f'"announce": True, "announcement": "{announcer}", "host": "localhost"'
    changes = {'"port": 9000': f'"port": {port}', '"announce": False': announced, '"api_key": ""': '"api_key": "isk_x"'}
    with started(edited(tmp_path, changes), home) as (service, fingerprint):
        assert service.url == f"https://127.0.0.1:{port}"
        assert presented(service) == fingerprint
        assert [element["destination"] for element in service.interface()] == ["images", "own", "level"]
        image = sent(volume(), tmp_path)
        by_level = service.predict(images=image, own="True", level="100")
        check_above(by_level, tmp_path, level=100, report="109 voxels are above 100.")
        by_mean = service.predict(images=image, own="False", level="0")
        check_above(by_mean, tmp_path, level=104.5, report="105 voxels are above 104.5.")
        refused = service.predict(images=image, own="True", level="5000")["Error!"]
        assert refused["content"] == "The parameter 'level' must be a number from -1000 to 1000; '5000' came."
        sitk.WriteImage(volume(), str(tmp_path / "ct.nii.gz"))
        said = run_commands(service, fingerprint, tmp_path)
        assert "--set level=" in said
        assert len(list((tmp_path / "labels").iterdir())) == 2
        heard = wait_for(lambda: Announcer.heard)[0]
    base = f"https://localhost:{port}"
    assert heard["interface_url"].startswith(base)
    assert heard["prediction_url"].startswith(base)
    assert (heard["api_key"], heard["name"], heard["task"]) == ("isk_x", "Threshold", "Segmentation")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_an_edited_script_serves_its_new_app_with_a_certificate_of_its_own(tmp_path: Path, home: Path) -> None:
    """Its announcement service is down, which stops nothing."""
    make_pair(Pair(tmp_path / "own.crt", tmp_path / "own.key"))
    told = f'"announce": True, "announcement": "http://127.0.0.1:{free_port()}", "host": "localhost"'
    changes = {
        '"port": 9000': f'"port": {free_port()}',
        '"announce": False': f'{told}, "cert_path": "{tmp_path / "own"}"',
        '"api_key": ""': '"api_key": "isk_x"',
        "voxels are above": "voxels lie above",
    }
    with started(edited(tmp_path, changes), home) as (service, fingerprint):
        assert service.certificate == tmp_path / "own.crt"
        assert presented(service) == fingerprint == shown(tmp_path / "own.crt").sha256
        answer = service.predict(images=sent(volume(), tmp_path), own="True", level="100")
        check_above(answer, tmp_path, level=100, report="109 voxels lie above 100.")


def test_the_example_of_a_certificate_of_ones_own_makes_it_where_it_is_told(tmp_path: Path) -> None:
    text = (EXAMPLES / "own_certificate.py").read_text()
    assert text.count('"port": 9005') == 1
    (tmp_path / "own_certificate.py").write_text(text.replace('"port": 9005', f'"port": {free_port()}'))
    with started(tmp_path / "own_certificate.py", tmp_path, tmp_path / "kept") as (service, fingerprint):
        assert service.certificate == tmp_path / "kept.crt"
        assert presented(service) == fingerprint == shown(tmp_path / "kept.crt").sha256
        assert service.predict(asked="True")["Answer"]["content"] == "As safe as this certificate."


def wait_for(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found()


# The other examples, as models of one server: starting each by itself would take minutes.


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Service]]:
    folder = tmp_path_factory.mktemp("examples")
    for name in SERVED_TOGETHER:
        script = Script(EXAMPLES / name, (EXAMPLES / name).read_bytes(), EXAMPLES)
        service = service_of(script)
        write_folder(folder / "models" / service.checked.id, service.manifest, script)
    pair = Pair(folder / "data" / "tls" / "certificate.pem", folder / "data" / "tls" / "key.pem")
    make_pair(pair)
    arguments = ["--models", str(folder / "models"), "--tls", "--tls-port", "0", "--open", "tomaat"]
    with (
        (folder / "log").open("w") as log,
        launched_server(
            folder / "data", arguments=arguments, environment={**ENVIRONMENT, "INFERENCE_SERVER_ZOO": "false"}, log=log
        ) as launched,
    ):
        yield lambda model: Service(f"{launched.secure_url}/tomaat/{model}", pair.certificate)


def service_of(script: Script) -> TomaatService:
    """Return what a script would serve, and leave this process as it was."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "__main__", sys.modules["__main__"])
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "argv", list(sys.argv))
        service = run_script(script)
    assert isinstance(service, TomaatService)
    return service


def test_a_mesh_lies_where_the_image_does(examples: Callable[[str], Service], tmp_path: Path) -> None:
    answer = examples("box").predict(images=sent(volume(), tmp_path))
    text = received(answer["Box"], "box.vtk", tmp_path).read_text()
    assert "SPACE=RAS" in text.splitlines()[1]
    [numbers] = re.findall(r"POINTS 8 \w+\n([^A-Z]+)", text)
    vertices = np.array(numbers.split(), float).reshape(8, 3)
    bright = np.argwhere(sitk.GetArrayFromImage(volume()) > 104.5)[:, ::-1]
    for vertex in vertices * (-1, -1, 1):  # RAS to LPS
        index = np.array(volume().TransformPhysicalPointToContinuousIndex(vertex.tolist()))
        at_an_edge = np.isclose(index, bright.min(0) - 0.5, atol=1e-4) | np.isclose(
            index, bright.max(0) + 0.5, atol=1e-4
        )
        assert at_an_edge.all()


def test_points_come_back_in_the_coordinates_that_they_were_sent_in(examples: Callable[[str], Service]) -> None:
    answer = examples("mirror").predict(points="1,2,3;-4.5,0.25,6")
    points = [[float(number) for number in point.split(",")] for point in answer["Mirrored"]["content"].split(";")]
    assert points == [[-1, 2, 3], [4.5, 0.25, 6]]
    assert answer["Mirrored"]["type"] == "Fiducials"


def test_a_transform_comes_back_inverted(examples: Callable[[str], Service], tmp_path: Path) -> None:
    forth = sitk.AffineTransform((0.0, -2.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 4.0), (10.0, 20.0, 30.0))
    sitk.WriteTransform(forth, str(tmp_path / "forth.mat"))
    content = base64.encodebytes((tmp_path / "forth.mat").read_bytes()).decode()
    answer = examples("inverse").predict(forth=f"mat\n{content}")
    assert answer["Back"]["type"] == "TransformLinear"
    back = sitk.ReadTransform(str(received(answer["Back"], "back.mat", tmp_path)))
    np.testing.assert_allclose(back.TransformPoint(forth.TransformPoint((1.0, 2.0, 3.0))), (1, 2, 3), atol=1e-9)


def test_an_apps_own_sentence_is_the_error_that_the_user_sees(
    examples: Callable[[str], Service], tmp_path: Path
) -> None:
    field = sitk.Image((2, 2, 2), sitk.sitkVectorFloat64)
    sitk.WriteImage(field, str(tmp_path / "field.nii.gz"))
    content = base64.encodebytes((tmp_path / "field.nii.gz").read_bytes()).decode()
    answer = examples("inverse").predict(forth=f"nii.gz\n{content}")
    assert answer["Error!"]["content"] == "Please choose a linear transform."


@pytest.mark.parametrize(("loud", "said"), [("True", "GOODBYE"), ("False", "goodbye")])
def test_choices_become_a_text(examples: Callable[[str], Service], loud: str, said: str) -> None:
    assert examples("text").predict(loud=loud, word="goodbye")["Said"]["content"] == said


@pytest.fixture(scope="module")
def hippocampus() -> tuple[sitk.Image, np.ndarray]:
    """The example of the model that ships, and what the server's own runtime finds in it."""
    image = sitk.ReadImage(str(ZOO / "hippocampus" / "example.nii.gz"))
    with pytest.MonkeyPatch.context() as patch:  # which precision is fastest takes seconds to find out
        patch.setattr("inference_server.models.precision.modes", lambda *_: ())
        return image, sitk.GetArrayFromImage(ModelInference("hippocampus")({"images": [image]})["labels"][0])


@pytest.mark.parametrize("model", ["hippocampus", "hippocampus-volume"])
def test_networks_of_pytorch_and_models_of_the_server_find_what_its_own_runtime_does(
    examples: Callable[[str], Service], hippocampus: tuple[sitk.Image, np.ndarray], tmp_path: Path, model: str
) -> None:
    image, expected = hippocampus
    answer = examples(model).predict(images=sent(image, tmp_path))
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(received(answer["Hippocampus"], "labels.mha", tmp_path))))
    for value in (1, 2):
        found, wanted = labels == value, expected == value
        assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.98
    if model == "hippocampus-volume":
        size_cc = np.count_nonzero(labels) * np.prod(image.GetSpacing()) / 1000
        assert answer["Volume"]["content"] == f"{size_cc:.2f} ml"
