"""A user of 3D Slicer with the fielded TOMAAT extension, and one of our own client, against the running server."""

from __future__ import annotations

import base64
import gzip
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import SimpleITK as sitk  # noqa: N813
import yaml
from apps import write_app
from nifti_files import GEOMETRY_BYTES, nifti, oblique, packed
from slicer_client import Scene, Slicer, UntrustedError, decoded, first_generation, saved

from inference_server.settings import Settings
from inference_server.stack.certificates import Pair, make_pair, shown
from inference_server.stack.launch import LaunchedServer, launched_server
from inference_server.tasks.announcements import Announcements
from inference_server.tasks.database import open_database

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning"),
]
ROOT = Path(__file__).resolve().parents[2]
MARKS = """
    import numpy as np
    from inference_server.errors import PredictionError

    def app(case, context):
        values, given = case.reference.array, case.parameters
        if values.max() < 1:
            raise PredictionError("There is nothing in the image that could be marked.")
        labels = (values > given["threshold"]).astype(np.uint8) + (values > 250)
        return {"marks": labels, "Settings": f"{given['mode']}, quick: {given['quick']}"}
"""
MARKS_PARAMETERS = [
    {"name": "threshold", "type": "number", "minimum": 0, "maximum": 300, "default": 100},
    {"name": "quick", "type": "flag", "default": False, "description": "Be quick"},
    {"name": "mode", "type": "choice", "choices": ["fine", "coarse"], "default": "fine"},
]
ALIGN = """
    def app(case, context):
        start = case.transforms["start"]
        moved = [start.TransformPoint(point) for point in case.points["seeds"].tolist()]
        back = start.GetInverse() if start.IsLinear() else start
        return {"moved": __import__("numpy").array(moved), "back": back}
"""
PATIENT = """
    import time
    from pathlib import Path

    def app(case, context):
        while not Path("GO").exists() and not context.cancelled():
            time.sleep(0.02)
        return case.reference.array > 100
"""
LABELS = {1: {"name": "LIGHT"}, 2: {"name": "VERY LIGHT"}}


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model `patient` ends once this file is there."""
    return tmp_path_factory.mktemp("tomaat") / "go"


@pytest.fixture(scope="module")
def served(go: Path) -> Iterator[tuple[LaunchedServer, str]]:
    """A server with three apps, over HTTPS with a certificate of its own and open to TOMAAT; and its fingerprint."""
    folder = go.parent
    pair = Pair(folder / "data" / "tls" / "certificate.pem", folder / "data" / "tls" / "key.pem")
    make_pair(pair)
    models = folder / "models"
    write_app(models / "marks", MARKS, id="marks", labels=LABELS, parameters=MARKS_PARAMETERS)
    write_app(models / "align", ALIGN, id="align", points=[{"name": "seeds"}], transforms=[{"name": "start"}])
    write_app(models / "patient", PATIENT.replace("GO", str(go)), id="patient", labels={1: {"name": "LIGHT"}})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["--models", str(models), "--tls", "--tls-port", str(port), "--open", "tomaat"]
    settings = {"DISK_LOW_BYTES": "0", "ZOO": "false", "TOMAAT_PATIENCE_S": "1"}
    settings |= announced_to_itself(folder, f"https://127.0.0.1:{port}", pair)
    environment = {f"INFERENCE_SERVER_{name}": value for name, value in settings.items()}
    with (
        (folder / "log").open("w") as log,
        launched_server(folder / "data", arguments=arguments, environment=environment, log=log) as launched,
    ):
        yield launched, shown(pair.certificate).sha256


def announced_to_itself(folder: Path, url: str, pair: Pair) -> dict[str, str]:
    """Return the settings of a server that announces one of its models to itself."""
    database = open_database(Settings(data_dir=folder / "data").database)
    _, key = Announcements(database).create_key("marks")
    database.close()
    announcer = {"url": f"{url}/announce", "certificate": str(pair.certificate), "models": {"marks": key}}
    (folder / "announcers.yaml").write_text(yaml.safe_dump([announcer]))
    return {"PUBLIC_URL": url, "TOMAAT_ANNOUNCERS": str(folder / "announcers.yaml")}


@pytest.fixture(autouse=True)
def _no_bundles_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def url(served: tuple[LaunchedServer, str]) -> str:
    assert served[0].secure_url
    return f"{served[0].secure_url}/tomaat"


@pytest.fixture
def slicer(served: tuple[LaunchedServer, str], tmp_path: Path) -> Slicer:
    (tmp_path / "slicer").mkdir()
    return Slicer(tmp_path / "slicer", trusts=served[1])


def picture() -> np.ndarray:
    """A box of 200 with one of 300 inside, off the middle so that no flip goes unnoticed."""
    array = np.zeros((14, 20, 26), np.int16)
    array[2:10, 4:15, 3:15] = 200
    array[4:8, 6:12, 5:11] = 300
    return array


def volume(seed: int = 0) -> sitk.Image:
    """The picture on an oblique, anisotropic grid, left-handed for odd seeds."""
    image = sitk.GetImageFromArray(picture())
    matrix = oblique(seed)[:3, :3]
    image.SetSpacing((0.7, 1 / 3, 2.9))
    image.SetOrigin((-101.3, 57.7, 0.1 + 0.2))
    image.SetDirection((matrix / np.linalg.norm(matrix, axis=0)).ravel().tolist())
    return image


def expected(threshold: float = 100) -> np.ndarray:
    return (picture() > threshold).astype(np.uint8) + (picture() > 250)


def test_a_certificate_is_confirmed_once_and_the_interface_is_shown(
    url: str, slicer: Slicer, served: tuple[LaunchedServer, str]
) -> None:
    slicer.connect(f"{url}/marks")
    slicer.connect(f"{url}/align")
    assert slicer.asked == [served[1]]
    assert [(element["type"], element["destination"]) for element in slicer.elements] == [
        ("volume", "image"),
        ("fiducials", "seeds"),
        ("transform", "start"),
    ]
    with pytest.raises(UntrustedError):
        Slicer(slicer.folder, trusts="another").connect(f"{url}/marks")


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_come_back_on_exactly_the_volumes_grid_and_meshes_lie_on_them(
    url: str, slicer: Slicer, seed: int
) -> None:
    sent = volume(seed)
    slicer.connect(f"{url}/marks")
    scene = slicer.run(image=sent, threshold=100, quick=True, mode="coarse")
    assert list(scene.labels) == ["marks"]
    labels = sitk.ReadImage(str(scene.labels["marks"]))
    assert labels.GetSize() == sent.GetSize()
    assert (labels.GetSpacing(), labels.GetOrigin()) == (sent.GetSpacing(), sent.GetOrigin())
    assert labels.GetDirection() == sent.GetDirection()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), expected())
    assert scene.texts["Settings"] == "coarse, quick: True"
    millilitre = np.prod(sent.GetSpacing()) / 1000
    sizes = [int((expected() == value).sum()) * millilitre for value in (1, 2)]
    assert scene.texts["Volumes: marks"] == f"LIGHT: {sizes[0]:.2f} ml\nVERY LIGHT: {sizes[1]:.2f} ml"
    assert len(scene.meshes) == 2
    for mesh, value in zip(scene.meshes, (1, 2), strict=True):
        lies_on(mesh, sent, expected() == value)


def lies_on(mesh: Path, grid: sitk.Image, inside: np.ndarray) -> None:
    """Check that all of a mesh's vertices (RAS) are at the border of a label, and that it is as long as the label."""
    index = np.array([
        grid.TransformPhysicalPointToContinuousIndex((-x, -y, z)) for x, y, z in vertices(mesh)
    ])  # fmt: skip
    padded = np.pad(inside, 2)
    for x, y, z in np.rint(index).astype(int) + 2:
        around = padded[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2]
        assert around.any()
        assert not around.all()
    voxels = np.argwhere(inside)[:, ::-1]
    np.testing.assert_allclose(index.min(0), voxels.min(0) - 0.5, atol=0.5)
    np.testing.assert_allclose(index.max(0), voxels.max(0) + 0.5, atol=0.5)


def vertices(mesh: Path) -> np.ndarray:
    """Read the points of a legacy VTK file of text."""
    lines = mesh.read_text().splitlines()
    assert lines[2:4] == ["ASCII", "DATASET POLYDATA"]
    _, count, _ = lines[4].split()
    return np.array([line.split() for line in lines[5 : 5 + int(count)]], float)


def test_widgets_that_nobody_touched_send_what_they_begin_with(url: str, slicer: Slicer) -> None:
    slicer.connect(f"{url}/marks")
    scene = slicer.run(image=volume())
    assert scene.texts["Settings"] == "fine, quick: False"
    np.testing.assert_array_equal(array_of(scene), expected(150))


def array_of(scene: Scene, name: str = "marks") -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(scene.labels[name])))


def test_a_delayed_result_is_polled_for_once_a_second(url: str, slicer: Slicer, go: Path) -> None:
    slicer.on_poll = lambda polls: go.touch() if polls == 2 else None
    slicer.connect(f"{url}/patient")
    scene = slicer.run(image=volume())
    go.unlink()
    assert scene.polls >= 2
    np.testing.assert_array_equal(array_of(scene, "patient"), picture() > 100)


def test_fields_of_services_used_before_are_ignored(url: str, slicer: Slicer, tmp_path: Path) -> None:
    """The extension sends them for ever; among them are whole volumes."""
    slicer.message["mr"] = base64.encodebytes(bytes(3_000_000)).decode()
    slicer.message["threshold "] = "much"
    slicer.connect(f"{url}/marks")
    np.testing.assert_array_equal(array_of(slicer.run(image=volume(), threshold=100)), expected())


def linear() -> sitk.Transform:
    return sitk.AffineTransform((0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0), (1.0, 20.0, -3.0))


def bspline() -> sitk.Transform:
    made = sitk.BSplineTransformInitializer(volume(), [3, 2, 2])
    made.SetParameters(np.random.default_rng(0).normal(0, 4, len(made.GetParameters())).tolist())
    return made


def grid() -> sitk.Transform:
    values = np.random.default_rng(1).normal(0, 4, (4, 5, 6, 3)).astype(np.float32).astype(float)
    field = sitk.GetImageFromArray(values, isVector=True)
    field.SetSpacing((40.0, 40.0, 50.0))
    field.SetOrigin((-200.0, -50.0, -100.0))
    return sitk.DisplacementFieldTransform(field)


def written(transform: sitk.Transform, ending: str, folder: Path) -> Path:
    """Save a transform as Slicer does."""
    path = folder / f"start{ending}"
    if ending == ".nii.gz":
        sitk.WriteImage(sitk.DisplacementFieldTransform(transform).GetDisplacementField(), str(path))
    else:
        sitk.WriteTransform(transform, str(path))
    return path


@pytest.mark.parametrize(
    ("make", "ending", "exact_mm"), [(linear, ".mat", 1e-9), (bspline, ".h5", 1e-9), (grid, ".nii.gz", 1e-5)]
)
def test_points_and_transforms_of_every_kind_go_there_and_back(
    url: str, slicer: Slicer, tmp_path: Path, make: Callable[[], sitk.Transform], ending: str, exact_mm: float
) -> None:
    """Points are RAS on the wire, transforms are files that work in LPS. A linear one comes back inverted."""
    start = make()
    places = [volume().TransformContinuousIndexToPhysicalPoint(index) for index in ((12, 9.5, 6), (3.25, 15, 10))]
    seeds = [(-x, -y, z) for x, y, z in places]
    slicer.connect(f"{url}/align")
    scene = slicer.run(image=volume(), seeds=seeds, start=written(start, ending, tmp_path))
    moved = np.array([start.TransformPoint(place) for place in places])
    assert np.abs(moved - places).min() > 0.01  # or else it would show nothing
    np.testing.assert_allclose(scene.points, [moved * (-1, -1, 1)], atol=exact_mm)
    [found] = scene.transforms
    assert found.name.endswith(ending)
    back, expected_back = read(found), start.GetInverse() if start.IsLinear() else start
    for place in places:
        np.testing.assert_allclose(back.TransformPoint(place), expected_back.TransformPoint(place), atol=exact_mm)


def read(path: Path) -> sitk.Transform:
    if path.name.endswith(".nii.gz"):
        return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    return sitk.ReadTransform(str(path))


def test_a_model_is_discovered_and_run(url: str, slicer: Slicer, served: tuple[LaunchedServer, str]) -> None:
    """The server announces it to itself. Its certificate is confirmed once for all of this."""
    server = url.removesuffix("/tomaat")
    deadline = time.monotonic() + 60
    while not (found := slicer.discover(server)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    [service] = found.values()
    assert (service["name"], service["task"], service["api_key"]) == ("marks", "Segmentation", "")
    slicer.choose(service)
    np.testing.assert_array_equal(array_of(slicer.run(image=volume(), threshold=100)), expected())
    assert slicer.asked == [served[1]]
    told = requests.get(f"{url}/marks/announcePoint", verify=False, timeout=5).json()
    assert told == {"announced_at": f"{server}/announce"}
    lists = requests.get(f"{server}/discovery", verify=False, timeout=5).json()
    assert lists["hosts"] == [f"{url}/marks"]
    ours_says = ours(
        "-m", "inference_server", "tomaat", "discover", server, "--fingerprint", served[1], config=slicer.folder
    )
    assert f"{url}/marks/predict" in ours_says.stdout


def test_errors_arrive_as_text_with_the_title_that_says_so(url: str, slicer: Slicer) -> None:
    slicer.connect(f"{url}/marks")
    empty = volume() * 0
    assert slicer.run(image=empty).texts == {"Error!": "There is nothing in the image that could be marked."}
    for text, said in (("%%%", "base64"), (base64.encodebytes(b"no image" * 50).decode(), "MHA")):
        slicer.message["image"] = text
        scene = slicer.send()
        assert list(scene.texts) == ["Error!"]
        assert said in scene.texts["Error!"]
    slicer.run(image=volume())
    slicer.message["threshold"] = "301"
    assert "300" in slicer.send().texts["Error!"]
    reply = requests.post(f"{url}/marks/responses", data={"request_id": "nobody"}, verify=False, timeout=5).json()
    assert [(element["type"], element["label"]) for element in reply] == [("PlainText", "Error!")]


def test_an_older_client_sends_the_file_as_it_is(url: str, slicer: Slicer, tmp_path: Path) -> None:
    slicer.connect(f"{url}/marks")
    content = saved(volume(), tmp_path / "old.mha").read_bytes()
    slicer.message |= {
        "threshold": "100",
        "quick": "False",
        "mode": "fine",
        "image": ("filename", content, "text/plain"),
    }
    np.testing.assert_array_equal(array_of(slicer.send()), expected())


def test_a_client_of_the_first_generation_gets_labels(served: tuple[LaunchedServer, str], tmp_path: Path) -> None:
    address = f"{served[0].url}/tomaat/marks"
    reply = first_generation(address, volume(), 250.0, tmp_path)
    assert (reply["status"], reply["error"]) == (0, "")
    assert reply["time"] >= 0
    (tmp_path / "labels.mha").write_bytes(decoded(reply["content_mha"]))
    labels = sitk.ReadImage(str(tmp_path / "labels.mha"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), expected(250))
    assert (labels.GetOrigin(), labels.GetDirection()) == (volume().GetOrigin(), volume().GetDirection())
    refused = first_generation(address, volume() * 0, 250.0, tmp_path)
    assert (refused["status"], refused["error"]) == (1, "There is nothing in the image that could be marked.")


def ours(*arguments: str, config: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run our own client, with a configuration folder of its own."""
    environment = {**os.environ, "XDG_CONFIG_HOME": str(config), "HOME": str(config)}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=environment, stdin=subprocess.DEVNULL
    )
    assert done.returncode == status, done.stderr
    return done


def test_our_own_client_does_all_of_it(url: str, served: tuple[LaunchedServer, str], tmp_path: Path) -> None:
    """Over HTTPS, with the fingerprint given; labels of a NIfTI image keep its geometry byte for byte."""
    image = packed(nifti(np.ascontiguousarray(picture().transpose()), oblique(3)))
    (tmp_path / "ct.nii.gz").write_bytes(image)
    tomaat, trust, out = ("-m", "inference_server", "tomaat"), ("--fingerprint", served[1]), tmp_path / "out"
    refused = ours(*tomaat, "interface", f"{url}/marks", config=tmp_path, status=1)
    assert served[1] in refused.stderr
    assert "--volume image=FILE" in ours(*tomaat, "interface", f"{url}/marks", *trust, config=tmp_path).stdout
    given = ("--volume", f"image={tmp_path / 'ct.nii.gz'}", "--set", "threshold=100", "--out", str(out))
    done = ours(*tomaat, "predict", f"{url}/marks", *given, *trust, config=tmp_path)
    assert "Settings: fine, quick: False" in done.stderr
    names = [Path(line).name for line in done.stdout.splitlines()]
    assert names[0] == "marks.nii.gz"
    assert {Path(name).suffix for name in names} == {".gz", ".vtk", ".txt"}
    written, original = gzip.decompress((out / "marks.nii.gz").read_bytes()), gzip.decompress(image)
    assert [written[part] for part in GEOMETRY_BYTES] == [original[part] for part in GEOMETRY_BYTES]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(out / "marks.nii.gz"))), expected())
    wrong = ours(*tomaat, "predict", f"{url}/marks", *given, "--set", "mode=odd", *trust, config=tmp_path, status=1)
    assert wrong.stderr.strip().splitlines()[-1] == "The service takes one of fine, coarse for 'mode', not 'odd'."


def test_the_example_works_with_a_delayed_result(served: tuple[LaunchedServer, str], go: Path, tmp_path: Path) -> None:
    release = threading.Timer(3.0, go.touch)
    release.start()
    sitk.WriteImage(volume(), str(tmp_path / "mr.nrrd"))
    example = str(ROOT / "examples" / "tomaat_client.py")
    address = f"{served[0].url}/tomaat/patient"
    done = ours(example, address, str(tmp_path / "mr.nrrd"), str(tmp_path / "out"), config=tmp_path)
    release.join()
    assert f"LabelVolume patient {tmp_path / 'out' / 'patient.mha'}" in done.stdout
    labels = sitk.ReadImage(str(tmp_path / "out" / "patient.mha"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), picture() > 100)
