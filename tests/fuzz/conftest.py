"""Says at the end of a run of tests how many hostile inputs were tried."""

from __future__ import annotations

import pytest

TRIED = "hostile input"
"""Name of the property of a test under which it says so: properties also come from other processes that run tests."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests have said."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == TRIED:
                terminalreporter.write_line(f"{TRIED}: {value}")
