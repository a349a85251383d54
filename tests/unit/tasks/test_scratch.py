from __future__ import annotations

import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from inference_server.tasks.scratch import Scratch

USER = """
import sys, tempfile
from pathlib import Path
from inference_server.tasks.scratch import Scratch
Scratch(Path(sys.argv[1])).take()
with tempfile.NamedTemporaryFile(delete=False) as file:
    file.write(b"DOE^JANE")
print(file.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", tempfile.gettempdir())
    monkeypatch.setenv("TMPDIR", tempfile.gettempdir())


def test_temporary_files_are_private_and_go_after_a_kill_but_not_before(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "scratch")
    command = [sys.executable, "-c", USER, str(tmp_path / "scratch")]
    user = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert user.stdout
    file = Path(user.stdout.readline().strip())
    assert file.parent.parent == tmp_path / "scratch"
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (file.parent, file.parent.parent)] == [0o700, 0o700]
    scratch.sweep()
    assert file.read_text() == "DOE^JANE"
    user.send_signal(signal.SIGKILL)
    user.communicate()
    scratch.sweep()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_everything_that_makes_temporary_files_makes_them_there(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "scratch")
    own = scratch.take()
    made = subprocess.run(["mktemp"], capture_output=True, check=True, text=True).stdout
    assert Path(made.strip()).parent == Path(tempfile.mkdtemp()).parent == own
    Scratch(tmp_path / "scratch").sweep()
    assert own.is_dir()


def test_nothing_is_swept_where_nothing_is(tmp_path: Path) -> None:
    Scratch(tmp_path / "scratch").sweep()
