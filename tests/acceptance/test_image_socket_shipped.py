"""The image socket alone, beside a server that is up, with the X-ray models that ship; its page shows what is seen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from inference_server.clients import Client
from inference_server.clients.image_socket import ImageSocketClient, parse_address
from inference_server.models.registry import ZOO
from inference_server.stack.launch import LaunchedServer

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "protocols" / "image-socket.md"
EXAMPLE = ZOO / "chest-xray-ensemble" / "example.png"
CODES = {"MYCN": "mycn", "DENS": "densenet", "VGG!": "vgg", "INCE": "inception", "XCEP": "xception", "ENSE": "ensemble"}
BLOCKS = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PERCENT = re.compile(r"\d+\.\d(?=%)")


@pytest.fixture(scope="module")
def shipped(server: LaunchedServer, data: Path) -> Iterator[str]:
    """The address, as host:port, of an image socket on the records of a server that is up."""
    command = [sys.executable, "-m", "inference_server", "image-socket", "--data", str(data), "--port", "0"]
    with started(command) as url:
        yield url.removeprefix("tcp://")


@contextmanager
def started(command: list[str]) -> Iterator[str]:
    """Run a part of the server; give the address that it announces."""
    environment = {**os.environ, "INFERENCE_SERVER_DISK_LOW_BYTES": "0"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().removeprefix("ready ").strip()
        finally:
            process.terminate()


def shown_output() -> str:
    """Return what the page says that is printed: its block in no language."""
    [shown] = [block for language, block in BLOCKS.findall(PAGE.read_text()) if not language]
    return str(shown)


def printed(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_shows_what_the_command_prints(server: LaunchedServer, shipped: str) -> None:
    """Another processor may differ in the last digit."""
    shown = shown_output()
    arguments = (str(EXAMPLE), "--code", "ENSE", "--server", shipped, "--api", server.url)
    found = printed("-m", "inference_server", "classify", *arguments)
    assert PERCENT.sub("#", found) == PERCENT.sub("#", shown)
    numbers = [[float(number) for number in PERCENT.findall(text)] for text in (found, shown)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.2)
    assert len(numbers[0]) == 2 * len(CODES)


def test_every_code_reaches_its_model(server: LaunchedServer, shipped: str) -> None:
    with ImageSocketClient(*parse_address(shipped)) as socket, Client(server.url) as client:
        socket.send(EXAMPLE)
        for code, name in CODES.items():
            socket.choose(code)
            letter = socket.predict()
            task = client.status(socket.task())
            chances = task.raw["report"]["classifications"]
            assert (task.model, letter) == (f"chest-xray-{name}", "P" if chances["pneumonia"] >= 0.5 else "N")


def test_the_example_of_a_client_prints_the_letter(shipped: str) -> None:
    found = printed(str(ROOT / "examples" / "image_socket_client.py"), shipped, str(EXAMPLE))
    assert found == f"{shown_output()[0]}\n"
