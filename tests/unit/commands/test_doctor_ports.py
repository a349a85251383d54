from __future__ import annotations

import socket
from pathlib import Path

import pytest

from inference_server.commands.doctor import CHECKS, Finding
from inference_server.settings import Settings


def looked(tmp_path: Path, name: str = "image-socket", **settings: object) -> Finding:
    return CHECKS[name](Settings(data_dir=tmp_path / "data", **settings))  # type: ignore[arg-type]


def test_without_a_port_there_is_no_image_socket(tmp_path: Path) -> None:
    assert looked(tmp_path) == Finding("image-socket", True, "off")


@pytest.mark.parametrize(
    ("name", "setting", "option"),
    [("port", "port", "--port"), ("image-socket", "image_socket_port", "--image-socket-port")],
)
def test_a_port_that_another_program_has_is_not_well(tmp_path: Path, name: str, setting: str, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = looked(tmp_path, name, **{setting: port})
    assert (found.well, found.seen) == (False, f"{port} Address already in use")
    assert option in found.mend
    assert looked(tmp_path, name, **{setting: port}) == Finding(name, True, f"{port} is free")


def test_the_image_socket_has_an_address_of_its_own(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        assert looked(tmp_path, image_socket_port=port).well
        assert not looked(tmp_path, image_socket_port=port, image_socket_host="127.0.0.2").well


def test_codes_without_a_model_that_fits_are_named(tmp_path: Path) -> None:
    codes = "MYCN=chest-xray-mycn,BODY=ct-body,NONE=nothing"
    found = looked(tmp_path, image_socket_port=0, image_socket_models=codes)
    assert (found.well, found.seen) == (False, "no model that fits for BODY, NONE")
    assert "INFERENCE_SERVER_IMAGE_SOCKET_MODELS" in found.mend
