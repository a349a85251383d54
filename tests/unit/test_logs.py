from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from billiard import util

from inference_server.logs import NOISY, configure_logging
from inference_server.settings import Settings


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (None, *NOISY)]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_facts_are_fields_of_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_json=True))
    logging.getLogger("inference_server.x").info("task started", extra={"task": "u"})
    (line,) = lines(capsys)
    assert (line["event"], line["level"], line["task"]) == ("task started", "info", "u")


def test_the_death_of_a_pools_process_is_a_line_like_any_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(util, "_logger", None)
    configure_logging(Settings(log_json=True))
    util.get_logger().error("Process %r pid:%r exited with %r", "ForkPoolWorker-2", 7, "signal 9 (SIGKILL)")
    util.get_logger().info("everyday news")
    (line,) = lines(capsys)
    assert line["event"] == "Process 'ForkPoolWorker-2' pid:7 exited with 'signal 9 (SIGKILL)'"
    assert (line["level"], line["logger"]) == ("error", "multiprocessing")


def _fail() -> None:
    patient = "DOE^JANE"
    try:
        raise OSError(28, "No space left on device", f"/tmp/{patient}")
    except OSError as exc:
        raise ValueError(f"cannot keep {patient}") from exc


@pytest.mark.parametrize("log_json", [True, False])
def test_an_exception_is_told_without_its_values(log_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_json=log_json))
    try:
        _fail()
    except ValueError:
        logging.getLogger("inference_server.x").exception("sweep failed")
    written = capsys.readouterr().err
    assert "DOE" not in written
    for told in ("sweep failed", "ValueError from OSError", "No space left on device", "test_logs.py", "_fail"):
        assert told in written
