"""`ImageSocketClient`: chest X-rays over TCP, pneumonia or normal; this server's and others' of the protocol.

>>> with ImageSocketClient("server.hospital.example") as client:           # doctest: +SKIP
...     client.choose("ENSE")
...     client.send(Path("xray.png"))
...     client.predict()
'P'
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from inference_server.errors import BadRequest, InferenceServerError

PORT = 50022
PROBE = b"?"
STEP_BYTES = 256 * 1024
SIZE_BYTES = 10
LARGEST_BYTES = 10**SIZE_BYTES - 1
UID_BYTES = 32
MEANINGS = {"P": "pneumonia", "N": "normal"}
_CODES = {
    b"1": "The server has no image or no model to work with; both have to be sent before a prediction.",
    b"2": "The server could not make a prediction: it is busy, the model failed, or the file is too large. Try again.",
    b"3": "The server has no model of this code.",
    b"4": "The file arrived otherwise than it was sent. Send it again.",
    b"5": "The server cannot read this file as an X-ray: PNG, JPEG or DICOM was expected.",
    b"6": "The server wants an access token that allows this. The operator of the server makes one.",
}
_ADDRESS = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]+))(?::(\d{1,5}))?")


class ImageSocketError(InferenceServerError):
    """The server refused, or could not be reached.

    Attributes:
        answered: the return code of the protocol, None where none came.
    """

    code = "image_socket"

    def __init__(self, message: str, *, answered: int | None = None) -> None:
        super().__init__(message)
        self.answered = answered


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `host`, `host:port` or `[IPv6]:port`.

    Raises:
        BadRequest: it is none of these.
    """
    found = _ADDRESS.fullmatch(text)
    port = int(found[3] or PORT) if found else 0
    if not found or not 0 < port < 2**16:
        raise BadRequest(f"The server is given as host:port; port {PORT} if none is said.", field="server")
    return found[1] or found[2], port


def tls(
    *, certificate: Path | None = None, own_certificate: Path | None = None, own_key: Path | None = None
) -> ssl.SSLContext:
    """Return the client's side of TLS.

    Args:
        certificate: PEM file of the certificates to trust in place of the usual authorities'.
        own_certificate: PEM file of the certificate that the client shows, where the server asks for one.
        own_key: PEM file of its key, where that is another file.

    Raises:
        BadRequest: a file is not there, or not what it should be.
    """
    try:
        context = ssl.create_default_context(cafile=certificate)
        if own_certificate:
            context.load_cert_chain(own_certificate, own_key)
    except OSError as exc:  # SSLError is one
        raise BadRequest("A certificate or key is not a file in PEM form.", field="certificate") from exc
    return context


class ImageSocketClient:
    """A connection to one server, over which several images may be sent. Use it as a context manager, or `close` it.

    Every method raises `ImageSocketError` if the server refuses, ends the connection or says nothing for too long.
    """

    def __init__(
        self, host: str, port: int = PORT, *, context: ssl.SSLContext | None = None, timeout_s: float = 330.0
    ) -> None:
        """Connect, and wait for the server's `?`.

        Args:
            host: its name or address.
            port: its TCP port.
            context: from `tls`, where the server speaks TLS.
            timeout_s: longest silence of the server, which waits for a prediction itself.
        """
        with ExitStack() as on_error:
            with _reachable():
                self._socket = on_error.enter_context(socket.create_connection((host, port), timeout_s))
                if context:
                    self._socket = on_error.enter_context(context.wrap_socket(self._socket, server_hostname=host))
                # What follows a file would otherwise wait until the server's system has acknowledged all of it.
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._hear_probe()
            on_error.pop_all()

    def __enter__(self) -> ImageSocketClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye and close the connection."""
        with suppress(ImageSocketError):
            self._ask(b"BYE!")
        self._socket.close()

    def authorise(self, token: str) -> None:
        """Say who one is, by an access token. Only over TLS is it a secret on the way."""
        said = token.encode()
        self._ask(b"AUTH" + _number(len(said)) + said)

    def choose(self, code: str) -> None:
        """Choose the model of a code of 4 characters, such as `ENSE`.

        Raises:
            BadRequest: it has more or fewer.
        """
        if len(code) != 4 or not code.isascii():
            raise BadRequest("A model's code has 4 characters, such as ENSE.", field="code")
        self._ask(b"MODE")
        self._ask(code.encode())

    def send(self, image: Path, *, verify: bool = False) -> None:
        """Send an image file. Whether it is one the server tells with the prediction.

        Args:
            image: PNG, JPEG or DICOM; of its name nothing is sent.
            verify: whether to have the server compare the check sum, which not all servers can.

        Raises:
            BadRequest: the file cannot be read, or is larger than the protocol can say.
        """
        with _readable(image) as file:
            size_bytes = file.seek(0, 2)
            file.seek(0)
            if size_bytes > LARGEST_BYTES:
                raise BadRequest("The file is larger than the protocol can send.", field="image")
            self._ask(b"FILE")
            self._ask(_number(size_bytes))
            digest = self._send_pieces(file)
        if verify:
            self._ask(b"HASH")
            self._ask(digest.encode())

    def predict(self) -> str:
        """Return `P` (pneumonia) or `N` (normal) for the image that was sent last.

        Raises:
            ImageSocketError: also where the server cannot read the image.
        """
        self._ask(b"PRED")
        letter = self._hear().decode("ascii", "replace")
        if letter not in MEANINGS:
            raise ImageSocketError("The server answered neither P nor N; it speaks another protocol.")
        return letter

    def task(self) -> str:
        """Return the UID of the last prediction's task, which only servers like this one tell."""
        self._ask(b"TASK")
        return b"".join(self._hear() for _ in range(UID_BYTES)).decode("ascii", "replace")

    def _send_pieces(self, file: BinaryIO) -> str:
        digest = hashlib.sha256()
        while piece := file.read(STEP_BYTES):
            digest.update(piece)
            with _reachable():
                self._socket.sendall(piece)
        return digest.hexdigest()

    def _ask(self, message: bytes) -> None:
        with _reachable():
            self._socket.sendall(message)
        if (answer := self._hear()) != b"0":
            sentence = _CODES.get(answer, "The server's answer is not one of the protocol; it speaks another one.")
            raise ImageSocketError(sentence, answered=int(answer) if answer in _CODES else None)

    def _hear(self) -> bytes:
        """Return the next byte; probes before each command, as some servers send them, are passed over."""
        while (byte := self._receive()) == PROBE:
            pass
        return byte

    def _hear_probe(self) -> None:
        if self._receive() != PROBE:
            raise ImageSocketError("The server speaks another protocol, or wants TLS.")

    def _receive(self) -> bytes:
        with _reachable():
            byte = self._socket.recv(1)
        if not byte:
            raise ImageSocketError("The server ended the connection: too many clients, or too long a silence.")
        return byte


def _number(value: int) -> bytes:
    return b"%d" % value + b"z" * (SIZE_BYTES - len(str(value)))


@contextmanager
def _readable(image: Path) -> Iterator[BinaryIO]:
    try:
        file = image.open("rb")
    except OSError as exc:
        raise BadRequest(f"The image cannot be read: {exc.strerror}.", field="image") from exc
    with file:
        yield file


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except ssl.SSLCertVerificationError as exc:
        raise ImageSocketError(
            "The certificate of the server is not trusted here, or was made for another name. Give the right one as a "
            "file."
        ) from exc
    except ssl.SSLError as exc:
        raise ImageSocketError("The server speaks no TLS, or asks for a certificate that it knows.") from exc
    except TimeoutError as exc:
        raise ImageSocketError("The server did not answer in time.") from exc
    except OSError as exc:
        raise ImageSocketError("The server cannot be reached, or ended the connection.") from exc
