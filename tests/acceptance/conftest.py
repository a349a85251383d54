"""A whole server, as `inference-server up` starts it, with small models whose right answer is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import bright_box, write_image, write_models

from inference_server.clients import Client
from inference_server.stack.launch import LaunchedServer, launched_server


@pytest.fixture(scope="package", autouse=True)
def no_spare_workers() -> Iterator[None]:
    """Servers keep no spare worker, which loads its libraries for nothing, unless a test asks for one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFERENCE_SERVER_SPARE_WORKER", "false")
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with `bright` and `slow`."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def modes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that remembers in which modes models compute here, so that they are tried once."""
    return tmp_path_factory.mktemp("modes")


@pytest.fixture(scope="session")
def data(modes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the server."""
    folder = tmp_path_factory.mktemp("server") / "data"
    folder.mkdir(mode=0o700)
    (folder / "precision").symlink_to(modes)
    return folder


@pytest.fixture(scope="package")
def server(models: Path, data: Path) -> Iterator[LaunchedServer]:
    """A server that is up, serving `bright`, `slow` and the shipped zoo, of which few are ever asked for."""
    with (data.parent / "log").open("w") as log:
        arguments = ["--models", str(models)]
        environment = {"INFERENCE_SERVER_DISK_LOW_BYTES": "0", "INFERENCE_SERVER_PRELOAD": "false"}
        with launched_server(data, arguments=arguments, environment=environment, log=log) as launched:
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
