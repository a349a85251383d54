"""Backends: whatever they compute by, any shape of window goes in and the network's own scores come out."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator

import pytest
import torch

from inference_server.models.backends import Mode, is_installed, open_backend
from inference_server.models.backends.eager import Eager
from inference_server.models.backends.graphs import MOST_GRAPHS, Graph, NoGraph, Shaped
from inference_server.models.manifest import Backend, Precision

GRAPHS = [
    Backend.TRACED,
    pytest.param(
        Backend.OPENVINO,
        marks=pytest.mark.skipif(not is_installed(Backend.OPENVINO), reason="OpenVINO is not installed"),
    ),
]


class Net(torch.nn.Module):
    """Normalises, and gives a list, as deep supervision does."""

    def __init__(self, dimensions: int = 3) -> None:
        super().__init__()
        conv = torch.nn.Conv3d if dimensions == 3 else torch.nn.Conv2d
        norm = torch.nn.BatchNorm3d if dimensions == 3 else torch.nn.BatchNorm2d
        self.first, self.norm, self.last = conv(1, 16, 3, padding=1), norm(16), conv(16, 3, 1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        y = self.last(self.norm(self.first(x)).relu())
        return [y, y[..., ::2]]


def net(dimensions: int = 3) -> Net:
    torch.manual_seed(0)
    return Net(dimensions).eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("backend", GRAPHS)
@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.BFLOAT16])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_scores_are_the_networks_own_at_any_shape_and_batch(
    backend: Backend, precision: Precision, dimensions: int
) -> None:
    compute, exact = open_backend(net(dimensions), Mode(backend, precision)), net(dimensions)
    sizes = [(1, 1, 8, 10, 12), (1, 1, 12, 8, 10), (2, 1, 8, 10, 12)]
    for size in sizes * 4:
        window = torch.rand(size[: dimensions + 2]).transpose(-1, -2)
        scores = compute(window)
        expected = exact(window)[0]
        assert scores.dtype == torch.float32
        assert scores.is_contiguous()
        error = float((scores - expected).norm() / expected.norm())
        assert error < (1e-5 if precision is Precision.FLOAT32 else 2e-2)
    assert compute.refusal == ""


@pytest.mark.parametrize("backend", GRAPHS)
def test_scores_stay_when_the_next_window_is_computed(backend: Backend) -> None:
    compute = open_backend(net(), Mode(backend))
    windows = [torch.full((1, 1, 4, 4, 4), float(value)) for value in range(5)]
    kept = [compute(window) for window in windows]
    for window, scores in zip(windows, kept, strict=True):
        torch.testing.assert_close(scores, net()(window)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", GRAPHS)
def test_a_network_that_cannot_be_traced_is_computed_as_it_is(backend: Backend) -> None:
    class Drawn(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch._C._get_tracing_state():
                raise RuntimeError("not while it is traced")
            return x + 1

    compute = open_backend(Drawn().eval(), Mode(backend))
    for _ in range(4):
        assert torch.equal(compute(torch.ones(1, 1, 2, 2, 2)), torch.full((1, 1, 2, 2, 2), 2.0))
    assert compute.refusal == "RuntimeError"


def counting(made: list[torch.Size], graph: Graph) -> Shaped:
    def make(window: torch.Tensor) -> Graph:
        made.append(window.shape)
        return graph

    return Shaped(Eager(torch.nn.Identity()), make)


def test_a_graph_is_made_when_a_shape_comes_again_and_only_for_so_many() -> None:
    made: list[torch.Size] = []
    compute = counting(made, lambda window: window * 1.0001)
    for length in range(1, MOST_GRAPHS + 3):
        window = torch.ones(1, 1, length, 1, 1)
        found = [float(compute(window).max()) for _ in range(3)]
        assert found == pytest.approx([1.0, 1.0, 1.0001 if length <= MOST_GRAPHS else 1.0], abs=1e-6)
    assert made == [(1, 1, length, 1, 1) for length in range(1, MOST_GRAPHS + 1)]


@pytest.mark.parametrize(
    ("graph", "why"),
    [
        (lambda window: window[..., :1], "its scores have another shape"),
        (lambda window: window * 2, "its scores differ by 1"),
        (lambda window: window * float("nan"), "its scores differ by nan"),
        (lambda window: window @ torch.ones(7, 7), "RuntimeError"),
    ],
)
def test_a_graph_that_gives_something_else_is_not_used(graph: Graph, why: str) -> None:
    compute = counting([], graph)
    window = torch.ones(1, 1, 2, 2, 2)
    for _ in range(4):
        assert torch.equal(compute(window), window)
    assert compute.refusal == why


def test_a_graph_that_cannot_be_made_is_not_tried_again() -> None:
    made: list[torch.Size] = []

    def make(window: torch.Tensor) -> Graph:
        made.append(window.shape)
        raise NoGraph("an operation is missing")

    compute = Shaped(Eager(torch.nn.Identity()), make)
    for _ in range(5):
        compute(torch.ones(1, 1, 2, 2, 2))
    assert (len(made), compute.refusal) == (1, "an operation is missing")


def test_half_precision_takes_weights_for_pictures_and_for_volumes() -> None:
    both = torch.nn.ModuleDict({"flat": net(2), "deep": net(3)})
    Eager(both, Precision.BFLOAT16)
    assert {tensor.dtype for tensor in both.parameters()} == {torch.bfloat16}
    assert both["flat"].first.weight.is_contiguous(memory_format=torch.channels_last)
    assert both["deep"].first.weight.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.skipif(not is_installed(Backend.OPENVINO), reason="OpenVINO is not installed")
def test_openvino_leaves_the_network_as_it_is_and_tells_nobody() -> None:
    module = net()
    before = copy.deepcopy(module.state_dict())
    compute = open_backend(module, Mode(Backend.OPENVINO, Precision.BFLOAT16))
    for _ in range(3):
        compute(torch.rand(1, 1, 4, 4, 4))
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert sys.modules["openvino_telemetry"] is None
