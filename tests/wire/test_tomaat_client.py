"""The TOMAAT client on real sockets: what it sends, what it makes of answers, and whom it trusts."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nifti_files import GEOMETRY_BYTES, nifti, oblique, packed
from served import bright_box
from tomaat_stand_in import INTERFACE, MESH, StandIn, mha_of, serving

from inference_server.clients import ServerError
from inference_server.clients.fingerprints import KnownCertificates, Trust
from inference_server.clients.tomaat import Inputs, Progress, TomaatClient
from inference_server.clients.tomaat import client as client_module
from inference_server.clients.tomaat.images import open_as_mha
from inference_server.commands.tomaat import app
from inference_server.errors import BadRequest, InvalidVolume
from inference_server.stack.certificates import Pair, make_pair, shown

LABELS = bright_box() > 100


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StandIn, StandIn, Pair]]:
    """One over HTTP, one over HTTPS with a certificate of its own."""
    folder = tmp_path_factory.mktemp("tls")
    pair = Pair(folder / "certificate.pem", folder / "key.pem")
    make_pair(pair)
    with serving() as plain, serving(pair) as secure:
        yield plain, secure, pair


@pytest.fixture
def service(servers: tuple[StandIn, StandIn, Pair]) -> StandIn:
    return fresh(servers[0])


@pytest.fixture
def secure(servers: tuple[StandIn, StandIn, Pair]) -> StandIn:
    return fresh(servers[1])


def fresh(stand_in: StandIn) -> StandIn:
    stand_in.__dict__.update(StandIn(stand_in.url).__dict__)
    return stand_in


@pytest.fixture
def known(tmp_path: Path) -> KnownCertificates:
    return KnownCertificates(tmp_path / "config" / "known_certificates")


@pytest.fixture
def client(known: KnownCertificates) -> Iterator[TomaatClient]:
    with TomaatClient(Trust(known=known)) as client:
        yield client


@pytest.fixture(autouse=True)
def _no_pause_and_no_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "POLL_S", 0.0)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An oblique, anisotropic NIfTI image, with a text in its header."""
    path = tmp_path / "image.nii.gz"
    path.write_bytes(packed(nifti(np.ascontiguousarray(bright_box().transpose()), oblique(0), descrip=b"DOE^JANE")))
    return path


def inputs(image: Path, **more: Any) -> Inputs:
    return Inputs(volumes={"images": image}, values={"threshold": 100, **more})


def test_what_is_sent(service: StandIn, client: TomaatClient, image: Path, tmp_path: Path) -> None:
    """Plain fields; the volume as base64 in lines, with all digits of its geometry and no word of its header."""
    (tmp_path / "seeds.json").write_text("[[1, 2.5, -3], [0, 0, 1e-3]]")
    (tmp_path / "start.mat").write_bytes(bytes(range(100)))
    given = Inputs(
        volumes={"images": image},
        values={"threshold": "100", "invert": "yes", "value": "7"},
        points={"seeds": tmp_path / "seeds.json"},
        transforms={"start": tmp_path / "start.mat"},
    )
    client.predict(service.url, given, tmp_path / "out")
    [form] = service.forms
    texts = {name: form[name] for name in ("threshold", "invert", "value", "seeds", "module_version")}
    assert texts == {
        "threshold": "100.0",
        "invert": "True",
        "value": "7",
        "seeds": "1.0,2.5,-3.0;0.0,0.0,0.001",
        "module_version": "inference-server",
    }
    assert form["start"] == "mat\n" + base64.encodebytes(bytes(range(100))).decode()
    lines = form["images"].split("\n")
    assert {len(line) for line in lines[:-2]} == {76}
    assert 0 < len(lines[-2]) <= 76
    assert lines[-1] == ""
    came, read = service.sent_image(), sitk.ReadImage(str(image))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(came), bright_box())
    assert (came.GetSpacing(), came.GetOrigin()) == (read.GetSpacing(), read.GetOrigin())
    assert came.GetDirection() == read.GetDirection()
    content = base64.b64decode(form["images"])
    assert b"DOE" not in content
    assert int(service.heads[1]["Content-Length"]) > len(form["images"])


def test_on_its_way_a_volume_is_no_file_that_could_be_left_behind(
    service: StandIn, client: TomaatClient, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    seen: list[list[Path]] = []
    client.predict(
        service.url, inputs(image), tmp_path / "out", on_progress=lambda _: seen.append([*scratch.iterdir()])
    )
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("pixels", [sitk.sitkInt8, sitk.sitkUInt32, sitk.sitkInt64, sitk.sitkFloat32, sitk.sitkFloat64])
def test_images_of_every_type_are_sent_with_all_digits(tmp_path: Path, pixels: int) -> None:
    made = sitk.Cast(sitk.GaussianSource(sitk.sitkFloat64, (5, 4, 3), mean=(2, 1, 1), scale=100.0), pixels)
    made.SetSpacing((0.7, 1 / 3, 2.9))
    made.SetDirection((0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0))
    made.SetOrigin((-100.30000000000001, 0.1 + 0.2, 7.0))
    sitk.WriteImage(made, str(tmp_path / "sent.nrrd"))
    with open_as_mha(tmp_path / "sent.nrrd") as file:
        (tmp_path / "came.mha").write_bytes(file.read())
    came = sitk.ReadImage(str(tmp_path / "came.mha"))
    assert came.GetPixelID() == pixels
    np.testing.assert_array_equal(sitk.GetArrayFromImage(came), sitk.GetArrayFromImage(made))
    for place in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(came, place)(), getattr(made, place)(), rtol=1e-15)


def test_an_image_of_complex_numbers_is_refused_in_words(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image((2, 2, 2), sitk.sitkComplexFloat32), str(tmp_path / "complex.nii"))
    with pytest.raises(BadRequest):
        open_as_mha(tmp_path / "complex.nii")


def test_labels_on_a_nifti_image_have_its_geometry_byte_for_byte(
    service: StandIn, client: TomaatClient, image: Path, tmp_path: Path
) -> None:
    [labels] = client.predict(service.url, inputs(image), tmp_path / "out")
    assert labels.path == tmp_path / "out" / "bright.nii.gz"
    original, written = gzip.decompress(image.read_bytes()), gzip.decompress(labels.path.read_bytes())
    assert [written[part] for part in GEOMETRY_BYTES] == [original[part] for part in GEOMETRY_BYTES]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(labels.path))), LABELS)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_labels_on_another_image_have_its_geometry_to_the_last_digit(
    service: StandIn, client: TomaatClient, image: Path, tmp_path: Path, suffix: str
) -> None:
    volume = sitk.ReadImage(str(image))
    volume.SetSpacing((0.7, 1 / 3, 2.9))
    volume.SetMetaData("0010|0010", "DOE^JANE")
    sitk.WriteImage(volume, str(tmp_path / f"ct{suffix}"))
    volume = sitk.ReadImage(str(tmp_path / f"ct{suffix}"))
    [labels] = client.predict(service.url, inputs(tmp_path / f"ct{suffix}"), tmp_path / "out")
    assert labels.path == tmp_path / "out" / "bright.mha"
    read = sitk.ReadImage(str(labels.path))
    assert (read.GetSpacing(), read.GetOrigin()) == (volume.GetSpacing(), volume.GetOrigin())
    assert read.GetDirection() == volume.GetDirection()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), LABELS)
    assert b"DOE" not in base64.b64decode(service.forms[0]["images"])


def test_labels_elsewhere_or_larger_than_a_label_stay_as_they_came(
    service: StandIn, client: TomaatClient, image: Path, tmp_path: Path
) -> None:
    elsewhere = sitk.ReadImage(str(image))
    elsewhere.SetOrigin((0.0, 0.0, 0.0))
    scores = sitk.Cast(sitk.ReadImage(str(image)), sitk.sitkFloat32)
    service.also = [
        {"type": "LabelVolume", "content": mha_of(elsewhere), "label": "elsewhere"},
        {"type": "LabelVolume", "content": mha_of(scores), "label": "scores"},
    ]
    written = client.predict(service.url, inputs(image), tmp_path / "out")
    names = ["bright.nii.gz", "elsewhere.mha", "scores.mha"]
    assert [output.path.name for output in written] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_everything_that_a_service_gives_is_written(
    service: StandIn, client: TomaatClient, image: Path, tmp_path: Path
) -> None:
    service.also = [
        {"type": "VTKMesh", "content": base64.encodebytes(MESH).decode(), "label": "bright"},
        {"type": "PlainText", "content": "12 ml\x1b[2J\nof it", "label": "../volume: x"},
        {"type": "Fiducials", "content": "1.5,-2,3;4,5,6e-1", "label": "tips"},
        {"type": "TransformLinear", "content": base64.b64encode(b"m").decode(), "label": ""},
        {"type": "TransformBSpline", "content": base64.b64encode(b"h").decode(), "label": ""},
        {"type": "TransformGrid", "content": base64.b64encode(b"g").decode(), "label": "grid"},
        {"type": "Hologram", "content": "", "label": "odd"},
    ]
    written = client.predict(service.url, inputs(image), tmp_path / "out")
    names = [output.path and output.path.name for output in written]
    assert names == [
        "bright.nii.gz", "bright_mesh.vtk", "volume_x.txt", "tips.fcsv", "transform.mat", "transform_transform.h5",
        "grid.nii.gz", None,
    ]  # fmt: skip
    assert (tmp_path / "out" / "bright_mesh.vtk").read_bytes() == MESH
    assert written[2].text == "12 ml [2J\nof it"
    rows = (tmp_path / "out" / "tips.fcsv").read_text().splitlines()
    assert rows[1] == "# CoordinateSystem = RAS"
    assert [row.split(",")[1:4] for row in rows[3:]] == [["1.5", "-2.0", "3.0"], ["4.0", "5.0", "0.6"]]
    assert (tmp_path / "out" / "grid.nii.gz").read_bytes() == b"g"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(filter(None, names))


def test_a_delayed_result_is_asked_for_until_it_is_there(
    service: StandIn, client: TomaatClient, image: Path, tmp_path: Path
) -> None:
    service.delays = 3
    seen: list[Progress] = []
    [labels] = client.predict(f"{service.url}/", inputs(image), tmp_path, on_progress=seen.append)
    assert service.paths == ["GET /interface", "POST /predict", *["POST /responses"] * 3]
    assert labels.path.name == "bright.nii.gz"
    assert seen[-1] == Progress("computing")
    assert [each.fraction for each in seen if each.phase == "sending"][-1] == 1.0


def test_what_comes_beside_a_delayed_result_is_kept(
    service: StandIn, client: TomaatClient, image: Path, tmp_path: Path
) -> None:
    delayed = {"type": "DelayedResponse", "request_id": "r1"}
    texts = [{"type": "PlainText", "content": name, "label": name} for name in ("first", "second", "last")]
    service.instead = {"/predict": [texts[0], delayed, texts[2]], "/responses": [texts[1]]}
    written = client.predict(service.url, inputs(image), tmp_path)
    assert [output.text for output in written] == ["first", "second", "last"]


def test_a_server_that_is_away_for_a_while_is_asked_again(
    service: StandIn, client: TomaatClient, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.delays = 1
    service.instead["/responses"] = (503, "busy")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            del service.instead["/responses"]

    monkeypatch.setattr(client_module.time, "sleep", pause)
    client.predict(service.url, inputs(image), tmp_path)
    assert len(pauses) == 3
    service.delays, service.instead["/responses"] = 1, (503, "gone")
    with pytest.raises(ServerError, match="answered 503"):
        client.predict(service.url, inputs(image), tmp_path)


def test_a_result_is_waited_for_only_so_long(
    service: StandIn, client: TomaatClient, image: Path, tmp_path: Path
) -> None:
    service.instead["/responses"] = [{"type": "DelayedResponse", "request_id": "r1"}]
    service.delays = 1
    with pytest.raises(ServerError, match="did not finish in the time given") as late:
        client.predict(service.url, inputs(image), tmp_path, timeout_s=0.3)
    assert late.value.problem_code == "timed_out"


def test_an_error_of_the_service_is_raised(service: StandIn, client: TomaatClient, image: Path, tmp_path: Path) -> None:
    """At once, or in the place of a delayed result."""
    error = [{"type": "PlainText", "content": "The image is sheared.", "label": "Error!"}]
    for path, delays in (("/predict", 0), ("/responses", 1)):
        service.instead, service.delays = {path: error}, delays
        with pytest.raises(ServerError, match=r"^The image is sheared\.$") as raised:
            client.predict(service.url, inputs(image), tmp_path / "out")
        assert raised.value.problem_code == "tomaat"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, "x"), "answered 404: there is no TOMAAT service at this address"),
        ((500, "<html>"), "The server answered 500."),
        ((200, "<html>"), "is not JSON"),
        ({"error": 1}, "not the answer of a TOMAAT service"),
        (["x"], "not the answer of a TOMAAT service"),
        ([{"type": "LabelVolume", "label": ""}], "gave a LabelVolume that cannot be read"),
        (
            [{"type": "LabelVolume", "label": "", "content": "AAAA"}],
            "label volume that .* cannot be read",
        ),
        ([{"type": "VTKMesh", "label": "", "content": "x"}], "gave a VTKMesh that cannot be read"),
        ([{"type": "Fiducials", "label": "", "content": "1,2"}], "gave a Fiducials that cannot be read"),
    ],
)
def test_an_answer_that_is_none_is_said_to_be_none(
    service: StandIn, client: TomaatClient, image: Path, tmp_path: Path, answer: Any, said: str
) -> None:
    service.instead["/predict"] = answer
    with pytest.raises(ServerError, match=said):
        client.predict(service.url, inputs(image), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_an_interface_that_is_none_is_said_to_be_none(service: StandIn, client: TomaatClient) -> None:
    for document in ({}, [{"type": "volume"}], [{"type": "slider", "destination": "x"}], ["volume"]):
        service.instead["/interface"] = document
        with pytest.raises(ServerError, match="not the interface of a TOMAAT service"):
            client.interface(service.url)


def test_what_does_not_fit_the_interface_is_refused_before_anything_is_sent(
    service: StandIn, client: TomaatClient, image: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest, match="takes a number from 0 to 300 for 'threshold', not 301"):
        client.predict(service.url, inputs(image, threshold=301), tmp_path)
    (tmp_path / "bad.nii").write_bytes(b"no image")
    with pytest.raises((BadRequest, InvalidVolume), match="is not a NIfTI file"):
        client.predict(service.url, inputs(tmp_path / "bad.nii"), tmp_path)
    assert service.forms == []


def test_the_first_generation(service: StandIn, client: TomaatClient, image: Path, tmp_path: Path) -> None:
    [labels] = client.predict_first_generation(f"{service.url}/old", image, tmp_path / "out", threshold=100)
    [message] = service.old
    assert {name: message[name] for name in ("threshold", "module_version")} == {
        "threshold": 100.0,
        "module_version": "inference-server",
    }
    assert labels.path == tmp_path / "out" / "labels.nii.gz"
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(labels.path))), LABELS)
    service.instead["/old"] = {"content_mha": "", "error": "Too dark.", "status": 1, "time": 0}
    with pytest.raises(ServerError, match=r"^Too dark\.$"):
        client.predict_first_generation(f"{service.url}/old", image, tmp_path / "out")
    service.instead["/old"] = [1]
    with pytest.raises(ServerError, match="not the answer of a TOMAAT service"):
        client.predict_first_generation(f"{service.url}/old", image, tmp_path / "out")


def test_services_of_both_generations_are_discovered_and_used(
    service: StandIn, client: TomaatClient, image: Path, tmp_path: Path
) -> None:
    told = {"modality": "CT", "anatomy": "body", "task": "seg", "description": "d\x1b", "SID": "s1", "api_key": ""}
    urls = {
        name: f"{service.url}/{path}" for name, path in (("interface_url", "interface"), ("prediction_url", "predict"))
    }
    service.services = [{**told, **urls, "name": "n", "creation_time": 1.0}]
    for url in (service.url, f"{service.url}/discover"):
        [found] = client.discover(url)
        assert (found.name, found.modality, found.description, found.sid) == ("n", "CT", "d ", "s1")
    service.delays = 1
    [labels] = client.predict(found, inputs(image), tmp_path)
    assert labels.path.name == "bright.nii.gz"
    service.instead["/discovery"] = {
        "hosts": ["http://h/p"],
        "modalities": ["MR"],
        "anatomies": ["a"],
        "descriptions": ["d"],
    }
    [old] = client.discover(f"{service.url}/discovery")
    assert (old.prediction_url, old.modality, old.first_generation) == ("http://h/p", "MR", True)
    for document in ({"hosts": []}, [{"name": "x"}], 3):
        service.services = document
        with pytest.raises(ServerError, match="not a list of TOMAAT services"):
            client.discover(service.url)


def test_a_server_that_is_not_there_is_a_sentence_without_the_token(client: TomaatClient) -> None:
    for url in ("http://user:secret@127.0.0.1:9", "https://user:secret@127.0.0.1:9"):
        with pytest.raises(ServerError, match=r"^The server at https?://127\.0\.0\.1:9 does not answer\.$"):
            client.interface(url)


def test_a_token_in_the_address_is_sent(service: StandIn, client: TomaatClient) -> None:
    client.interface(service.url.replace("//", "//slicer:secret@"))
    expected = base64.b64encode(b"slicer:secret").decode()
    assert service.heads[-1]["Authorization"] == f"Basic {expected}"


def fingerprint(pair: Pair) -> str:
    return shown(pair.certificate).sha256


def test_a_certificate_is_asked_for_once_and_remembered(
    secure: StandIn, servers: tuple[StandIn, StandIn, Pair], known: KnownCertificates
) -> None:
    asked: list[tuple[str, str]] = []

    def confirm(*what: str) -> bool:
        asked.append(what)
        return True

    for trust in (Trust(confirm=confirm, known=known), Trust(known=known)):
        with TomaatClient(trust) as client:
            assert len(client.interface(secure.url)) == len(INTERFACE)
    host = secure.url.removeprefix("https://")
    assert asked == [(host, fingerprint(servers[2]))]
    assert known.path.read_text() == f"{host} sha256 {fingerprint(servers[2])}\n"
    assert known.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("confirm", [None, lambda *_: False])
def test_a_certificate_that_nobody_confirms_is_refused_and_nothing_is_sent(
    secure: StandIn, servers: tuple[StandIn, StandIn, Pair], known: KnownCertificates, confirm: Any
) -> None:
    with TomaatClient(Trust(confirm=confirm, known=known)) as client, pytest.raises(ServerError) as refused:
        client.interface(secure.url)
    assert "not signed by an authority" in refused.value.message
    assert fingerprint(servers[2]) in refused.value.message
    assert not known.path.exists()
    assert secure.paths == []


def test_another_certificate_than_the_one_remembered_is_refused_loudly(
    secure: StandIn, known: KnownCertificates, image: Path, tmp_path: Path
) -> None:
    host, other = secure.url.removeprefix("https://"), hashlib.sha256(b"other").digest().hex(":").upper()
    known.remember(host, other)
    with TomaatClient(Trust(confirm=lambda *_: True, known=known)) as client:
        with pytest.raises(ServerError, match=f"THE CERTIFICATE OF {host} HAS CHANGED") as refused:
            client.predict(secure.url, inputs(image), tmp_path)
        assert refused.value.problem_code == "certificate"
        assert other in refused.value.message
        assert secure.paths == []
    assert known.forget(host)
    with TomaatClient(Trust(confirm=lambda *_: True, known=known)) as client:
        assert len(client.interface(secure.url)) == len(INTERFACE)


def test_a_fingerprint_that_is_given_is_trusted_and_no_other(
    secure: StandIn, servers: tuple[StandIn, StandIn, Pair], known: KnownCertificates
) -> None:
    right = fingerprint(servers[2])
    for text in (right, right.replace(":", "").lower(), f"SHA256:{right}"):
        with TomaatClient(Trust(text, known=known)) as client:
            assert len(client.interface(secure.url)) == len(INTERFACE)
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    count = len(secure.paths)
    with TomaatClient(Trust(wrong, known=known)) as client, pytest.raises(ServerError, match="another fingerprint"):
        client.interface(secure.url)
    assert len(secure.paths) == count
    assert not known.path.exists()


def test_a_certificate_of_a_trusted_authority_needs_no_fingerprint(
    secure: StandIn, servers: tuple[StandIn, StandIn, Pair], known: KnownCertificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An authority is whoever the machine trusts: here the certificate itself."""
    monkeypatch.setenv("SSL_CERT_FILE", str(servers[2].certificate))
    with TomaatClient(Trust(known=known)) as client:
        assert len(client.interface(secure.url)) == len(INTERFACE)
    assert not known.path.exists()


def test_a_fingerprint_holds_also_for_tls_within_tls(servers: tuple[StandIn, StandIn, Pair], secure: StandIn) -> None:
    """As through a proxy that is spoken to over HTTPS, where the sockets are others."""
    from inference_server.clients.fingerprints import pinned_context

    der = ssl.PEM_cert_to_DER_cert(servers[2].certificate.read_text())
    for pinned, good in ((hashlib.sha256(der).digest().hex(":").upper(), True), ("00", False)):
        assert handshake(pinned_context(pinned), servers[2]) is good


def handshake(client: ssl.SSLContext, pair: Pair) -> bool:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.certificate, pair.key)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(up, down, server_side=True), client.wrap_bio(down, up, server_hostname="localhost")]
    for _ in range(10):
        for end in tuple(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return not ends


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a `tomaat` command and return what it prints."""

    def call(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            app(list(arguments))
        assert ended.value.code == 0
        return capsys.readouterr().out

    return call


def test_the_command_line(service: StandIn, image: Path, tmp_path: Path, run: Callable[..., str]) -> None:
    service.services = {"hosts": ["http://h"], "modalities": ["CT"], "anatomies": ["body"], "descriptions": ["d"]}
    assert json.loads(run("discover", service.url, "--json"))[0]["prediction_url"] == "http://h"
    assert run("discover", service.url) == "  CT  body    http://h\n"
    asked = run("interface", service.url)
    assert "--volume images=FILE" in asked
    assert "a number from 0 to 300 for 'threshold'" in asked
    given = ("--volume", f"images={image}", "--set", "threshold=100", "--out", str(tmp_path / "out"))
    assert run("predict", service.url, *given).split() == [str(tmp_path / "out" / "bright.nii.gz")]
    old = run("predict", f"{service.url}/old", "--first-generation", *given)
    assert old.split() == [str(tmp_path / "out" / "labels.nii.gz")]
    service.services = []
    assert run("discover", service.url) == ""


def test_a_user_at_a_terminal_is_asked_once(
    secure: StandIn, run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for typed in ("y\n", ""):
        monkeypatch.setattr("sys.stdin", Terminal(typed))
        assert "--volume images=FILE" in run("interface", secure.url)
    kept = tmp_path / "inference-server" / "known_certificates"
    assert kept.read_text().startswith(f"{secure.url.removeprefix('https://')} sha256 ")
    run("forget", f"{secure.url}/tomaat/x")
    assert kept.read_text() == ""
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    with pytest.raises(ServerError, match="not trusted yet"):
        app(["interface", secure.url])
    with pytest.raises(BadRequest, match="No certificate of 127"):
        app(["forget", secure.url])
