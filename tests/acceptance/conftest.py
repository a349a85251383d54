"""A whole server, as `inference-server up` starts it, with small models whose right answer is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import bright_box, write_image, write_models

from inference_server.clients import Client
from inference_server.stack.launch import LaunchedServer, launched_server


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with `bright` and `slow`."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def modes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that remembers in which modes models compute here, so that they are tried once."""
    return tmp_path_factory.mktemp("modes")


@pytest.fixture(scope="session")
def server(models: Path, modes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedServer]:
    """A server that is up, serving `bright`, `slow` and the shipped zoo."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "data").mkdir(mode=0o700)
    (folder / "data" / "precision").symlink_to(modes)
    with (folder / "log").open("w") as log:
        arguments = ["--models", str(models)]
        environment = {"INFERENCE_SERVER_DISK_LOW_BYTES": "0"}
        with launched_server(folder / "data", arguments=arguments, environment=environment, log=log) as launched:
            yield launched


@pytest.fixture
def client(server: LaunchedServer) -> Iterator[Client]:
    """The Python client of the server."""
    with Client(server.url) as connected:
        yield connected


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """An image file with a bright box."""
    return write_image(tmp_path / "box.nii.gz", bright_box())
