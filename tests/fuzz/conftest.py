"""Says at the end of a run of tests how many hostile inputs were tried."""

from __future__ import annotations

import pytest

TRIED = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def tried(pytestconfig: pytest.Config) -> list[str]:
    """Lines for the end of the run."""
    return pytestconfig.stash.setdefault(TRIED, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print them."""
    for line in config.stash.get(TRIED, []):
        terminalreporter.write_line(f"hostile input: {line}")
