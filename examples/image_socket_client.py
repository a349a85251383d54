"""Classify a chest X-ray over the image socket: python image_socket_client.py SERVER[:PORT] IMAGE [CODE]."""

import socket
import sys
from pathlib import Path

MEANINGS = {
    "1": "model or image file has not been sent",
    "2": "the prediction could not be made",
    "3": "invalid model",
    "4": "check sum mismatch",
    "5": "not a valid image file",
    "6": "not authorised",
}


def ask(connection: socket.socket, message: bytes) -> None:
    """Send a message and read the return code."""
    connection.sendall(message)
    code = connection.recv(1).decode()
    if code != "0":
        sys.exit(MEANINGS.get(code, "the server ended the connection"))


def classify(server: str, image: Path, code: str) -> str:
    """Return P (pneumonia) or N (normal)."""
    host, _, port = server.partition(":")
    content = image.read_bytes()
    with socket.create_connection((host, int(port or 50022)), timeout=330) as connection:
        if connection.recv(1) != b"?":
            sys.exit("the server has no room for another client")
        ask(connection, b"FILE")
        ask(connection, str(len(content)).ljust(10, "z").encode())
        connection.sendall(content)
        ask(connection, b"MODE")
        ask(connection, code.encode())
        ask(connection, b"PRED")
        letter = connection.recv(1).decode()
        ask(connection, b"BYE!")
    return letter


if __name__ == "__main__":
    print(classify(sys.argv[1], Path(sys.argv[2]), *(sys.argv[3:] or ["ENSE"])))
