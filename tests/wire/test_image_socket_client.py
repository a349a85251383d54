"""The client of the image socket, over plain TCP and TLS, against the server and against servers of other makes."""

from __future__ import annotations

import datetime
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from image_socket_support import SICK, WELL, Peer, Server, serving, xray

from inference_server.clients.image_socket import ImageSocketClient, ImageSocketError, parse_address, tls
from inference_server.errors import BadRequest
from inference_server.stack.certificates import Pair, make_pair
from inference_server.tasks.caller import Scope
from inference_server.tasks.tokens import Tokens


@pytest.fixture
def image(tmp_path: Path) -> Path:
    xray(tmp_path)
    return tmp_path / "xray.png"


def answered(server: Server, ask: Callable[[], str], classes: dict[str, float] = SICK) -> str:
    """Ask in a thread, answer as the worker, and return what the client was told."""
    with ThreadPoolExecutor(1) as thread:
        letter = thread.submit(ask)
        server.answer(classes)
        return letter.result(20)


@pytest.mark.parametrize("probe", [False, True])
def test_letters_of_several_images(tmp_path: Path, image: Path, probe: bool) -> None:
    with serving(tmp_path, image_socket_probe=probe) as server, ImageSocketClient(*server.address) as client:
        client.choose("MYCN")
        client.send(image, verify=True)
        assert answered(server, client.predict) == "P"
        client.send(image)
        assert answered(server, client.predict, WELL) == "N"
        assert server.store.get(client.task()).model == "net"


def test_refusals_are_sentences_with_the_code(tmp_path: Path, image: Path) -> None:
    with serving(tmp_path) as server, ImageSocketClient(*server.address) as client:
        with pytest.raises(ImageSocketError, match="both have to be sent") as error:
            client.predict()
        assert error.value.answered == 1
        with pytest.raises(ImageSocketError, match="no model of this code") as error:
            client.choose("FROB")
        assert error.value.answered == 3
        client.choose("MYCN")
        image.write_text("no image")
        client.send(image)
        with pytest.raises(ImageSocketError, match="PNG, JPEG or DICOM was expected") as error:
            client.predict()
        assert error.value.answered == 5
        with pytest.raises(BadRequest, match="4 characters"):
            client.choose("VGG")
        with pytest.raises(BadRequest, match="No such file"):
            client.send(tmp_path / "none")


def test_a_token(tmp_path: Path, image: Path) -> None:
    with serving(tmp_path) as server:
        token = Tokens(server.database).create("clinic", [Scope.SUBMIT, Scope.READ_OWN])[1]
        with ImageSocketClient(*server.address) as client:
            with pytest.raises(ImageSocketError, match="access token") as error:
                client.choose("MYCN")
            assert error.value.answered == 6
            client.authorise(token)
            client.choose("MYCN")
            client.send(image)
            assert answered(server, client.predict) == "P"


def test_a_file_that_is_too_large_is_told(tmp_path: Path, image: Path) -> None:
    with (
        serving(tmp_path, image_socket_file_limit_bytes=10) as server,
        ImageSocketClient(*server.address) as client,
        pytest.raises(ImageSocketError, match="too large") as error,
    ):
        client.send(image)
    assert error.value.answered == 2


@pytest.mark.parametrize(
    ("text", "address"),
    [("server", ("server", 50022)), ("10.0.0.1:7", ("10.0.0.1", 7)), ("[::1]:50023", ("::1", 50023))],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", ":1", "server:", "server:0", "server:65536", "http://server", "a:b"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(BadRequest, match="host:port"):
        parse_address(text)


@contextmanager
def scripted(*lines: tuple[bytes, int]) -> Iterator[tuple[str, int]]:
    """A server that says something, then reads so many bytes, and so on."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            for says, reads in lines:
                connection.sendall(says)
                connection.recv(reads, socket.MSG_WAITALL)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            thread.join(20)


def test_what_the_client_says_byte_by_byte(image: Path) -> None:
    content = image.read_bytes()
    heard: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        peer = Peer(("", 0), listener.accept()[0])
        with peer:
            for answer, count in ((b"?", 4), (b"0", 4), (b"0", 4), (b"0", 10), (b"0", len(content) + 4), (b"0N", 4)):
                heard.append(peer.says(answer).hears(count))
            peer.says(b"0")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with ImageSocketClient(*listener.getsockname()) as client:
            client.choose("ENSE")
            client.send(image)
            assert client.predict() == "N"
        thread.join(20)
    assert heard == [b"MODE", b"ENSE", b"FILE", b"%dz" % len(content) + b"z" * 7, content + b"PRED", b"BYE!"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([(b"SSH-2.0", 0)], "another protocol"),
        ([(b"", 0)], "ended the connection"),
        ([(b"?", 4), (b"9", 0)], "not one of the protocol"),
        ([(b"?", 4), (b"0Q", 0)], "neither P nor N"),
    ],
)
def test_servers_that_say_something_else(lines: list[tuple[bytes, int]], said: str) -> None:
    with (
        scripted(*lines) as address,
        pytest.raises(ImageSocketError, match=said),
        ImageSocketClient(*address) as client,
    ):
        client.predict()


def test_a_server_that_is_not_there_or_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(ImageSocketError, match="in time"):
            ImageSocketClient(*listener.getsockname(), timeout_s=0.1)
        address = listener.getsockname()
    with pytest.raises(ImageSocketError, match="cannot be reached"):
        ImageSocketClient(*address)


def authority(folder: Path) -> tuple[Path, Path]:
    """Write the certificate of an authority, and one that it signed together with its key; return both."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("authority", "station 1")]
    now = datetime.datetime.now(datetime.UTC)
    paths = [folder / "authority.pem", folder / "station.pem"]
    for name, key, path, is_authority in zip(names, keys, paths, (True, False), strict=True):
        made = (
            x509.CertificateBuilder(names[0], name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .sign(keys[0], hashes.SHA256())
        )
        path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    paths[1].write_bytes(secret + paths[1].read_bytes())
    return paths[0], paths[1]


@contextmanager
def secure(folder: Path, **settings: object) -> Iterator[tuple[Server, Path]]:
    pair = Pair(folder / "tls" / "certificate.pem", folder / "tls" / "key.pem")
    make_pair(pair)
    with serving(folder, image_socket_tls=True, **settings) as server:
        assert server.url.startswith("tls://127.0.0.1:")
        yield server, pair.certificate


def test_tls(tmp_path: Path, image: Path) -> None:
    with secure(tmp_path) as (server, certificate):
        with ImageSocketClient(*server.address, context=tls(certificate=certificate)) as client:
            client.choose("MYCN")
            client.send(image, verify=True)
            assert answered(server, client.predict) == "P"
        with pytest.raises(ImageSocketError, match="not trusted here"):
            ImageSocketClient(*server.address, context=tls())
        with pytest.raises(ImageSocketError, match="in time"):
            ImageSocketClient(*server.address, timeout_s=0.5).close()


def test_a_client_that_wants_tls_of_a_plain_server(tmp_path: Path) -> None:
    with serving(tmp_path) as server, pytest.raises(ImageSocketError, match="speaks no TLS"):
        ImageSocketClient(*server.address, context=tls())


def test_client_certificates(tmp_path: Path, image: Path) -> None:
    trusted, own = authority(tmp_path)
    (tmp_path / "other").mkdir()
    with secure(tmp_path, image_socket_client_ca=trusted) as (server, certificate):
        context = tls(certificate=certificate, own_certificate=own)
        with ImageSocketClient(*server.address, context=context) as client:
            client.choose("MYCN")
            client.send(image)
            assert answered(server, client.predict) == "P"
        for stranger in (None, authority(tmp_path / "other")[1]):
            context = tls(certificate=certificate, own_certificate=stranger)
            with pytest.raises(ImageSocketError, match=r"asks for a certificate that it knows|ended the connection"):
                ImageSocketClient(*server.address, context=context)
