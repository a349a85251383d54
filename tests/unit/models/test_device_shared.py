"""Pictures that are classified are computed beside each other, each with its share of the cores; nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from xray_models import write_levels

from inference_server.imaging.volume import Geometry, Volume
from inference_server.models.backends import meant
from inference_server.models.case import Case
from inference_server.models.engine import Engine
from inference_server.models.hooks import Hooks
from inference_server.models.manifest import Backend
from inference_server.models.registry import Registry

THREADS = 6


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def noting(said: list[str], word: str) -> Callable[[], AbstractContextManager[None]]:
    @contextmanager
    def note() -> Iterator[None]:
        said.append(word)
        yield

    return note


@pytest.mark.parametrize(("sharers", "share"), [(1, THREADS), (2, 3), (4, 1), (100, 1)])
def test_classifications_of_pictures_share_the_processor(tmp_path: Path, sharers: int, share: int) -> None:
    engine = Engine(Registry([write_levels(tmp_path)]), sharers=sharers)
    model, said, threads = engine.registry.get("soft"), list[str](), list[int]()
    hooks = Hooks(hold=noting(said, "alone"), share=noting(said, "shared"))
    network = engine.load(model).network
    assert network
    network.heard = lambda _: threads.append(torch.get_num_threads())
    case = Case({"image": Volume(np.full((1, 6, 8), 7, np.uint8), Geometry((1, 6, 8)))})
    engine.run(model, case, hooks)
    assert (said, threads, torch.get_num_threads()) == (["shared"], [share], THREADS)


def test_a_graph_is_openvinos_where_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_installed, expected in ((True, Backend.OPENVINO), (False, Backend.TRACED)):
        monkeypatch.setattr("inference_server.models.backends.is_installed", lambda _, found=is_installed: found)
        assert meant(Backend.GRAPH) is expected
        assert meant(Backend.EAGER) is Backend.EAGER
