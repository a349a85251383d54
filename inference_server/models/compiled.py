"""Networks that `torch.compile` has made code of, where it can."""

from __future__ import annotations

import logging

import torch

logger = logging.getLogger(__name__)


class Compiled(torch.nn.Module):
    """Calls a network's compiled code. It is made when a size of window first comes, and takes minutes at times.

    Where it cannot be made, for want of a compiler or because the network is of a kind that torch cannot follow, the
    network is called as it is.

    Attributes:
        why_not: why it is called as it is, in words.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.why_not = "TorchScript cannot be compiled" if isinstance(network, torch.jit.ScriptModule) else None
        # One thread: others would be processes that the end of this one leaves behind.
        self._run = None if self.why_not else torch.compile(network.forward, options={"compile_threads": 1})

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell people."""
        return (f"The network was not compiled: {self.why_not}.",) if self.why_not else ()

    def forward(self, window: torch.Tensor) -> object:
        if self._run is not None:
            from torch._dynamo.exc import TorchDynamoException  # takes a second to import

            try:
                return self._run(window)
            except TorchDynamoException as exc:
                self._run, self.why_not = None, _words(exc)
                logger.warning("network not compiled", extra={"why": type(exc).__name__})
        return self.network(window)


def _words(exc: RuntimeError) -> str:
    return "there is no C++ compiler" if "InvalidCxxCompiler" in str(exc) else "torch.compile cannot take it"
