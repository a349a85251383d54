"""The examples of the pages are run as they stand, against a running API; a stand-in finishes the tasks."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_process import Api
from door_support import RESULT

from inference_server.tasks.record import Holder

ROOT = Path(__file__).resolve().parents[2]
SHOWN = "http://127.0.0.1:8000"


def commands(page: str) -> str:
    return "\n".join(
        re.findall(r"^```console\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)
    )


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    api = Api(tmp_path_factory.mktemp("pages"), model="ct-body")
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.05):
            if claim := api.claims.claim(["default"], Holder("worker", 1), 15.0):
                api.finish(claim)

    worker = threading.Thread(target=work)
    worker.start()
    yield api
    stop.set()
    worker.join()
    api.stop()


def run(page: str, api: Api, folder: Path) -> str:
    """Run every command of a page in one shell and return what they print."""
    (folder / "inference_server").symlink_to(ROOT / "inference_server")
    script = commands(page).replace(SHOWN, api.url)
    done = subprocess.run(
        ["bash", "-euc", script], cwd=folder, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")
def test_the_native_page_is_a_session_that_works(api: Api, tmp_path: Path) -> None:
    printed = run("native-api.md", api, tmp_path)
    assert '"status":"finished"' in printed
    assert (tmp_path / "result.zip").read_bytes() == RESULT
    assert '"code":"conflict"' in printed  # cancelling and retrying what has finished
    assert '"live":true' in printed
    assert '"id":"ct-body"' in printed
    assert '"code":"unknown' not in printed


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")
def test_the_mim_page_is_a_session_that_works(api: Api, tmp_path: Path) -> None:
    printed = run("protocols/mim.md", api, tmp_path)
    assert printed.strip() in ("200", "551")
    assert (tmp_path / "case.zip").is_file()
