from __future__ import annotations

import sys
from pathlib import Path

import pytest
from records import new_task
from worker_rows import worker_row

from inference_server.errors import SettingsError
from inference_server.settings import Settings
from inference_server.stack.part import Part, PartSpec
from inference_server.stack.supervisor import Supervisor, run_up
from inference_server.tasks.claims import Claims
from inference_server.tasks.database import open_database
from inference_server.tasks.record import Holder, Status, worker_name
from inference_server.tasks.store import Store
from inference_server.tasks.workers import Workers


def test_a_data_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be made: Not a directory"):
        run_up(Settings(data_dir=tmp_path / "file" / "data"), ready=print)


def test_a_data_folder_that_cannot_be_written_to_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "up.lock").mkdir()
    with pytest.raises(SettingsError, match="cannot be written to: Is a directory"):
        run_up(Settings(data_dir=tmp_path), ready=print)


def test_each_of_several_gpus_gets_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference_server.stack.supervisor.worker_devices", lambda *_: ["cuda:0", "cuda:1"])
    settings = Settings(data_dir=tmp_path, broker_url="redis://127.0.0.1:1/0")
    supervisor = Supervisor(settings, None)
    workers = [part.spec for part in supervisor._own if part.spec.name == "worker"]
    assert [spec.environment["INFERENCE_SERVER_DEVICE"] for spec in workers] == ["cuda:0", "cuda:1"]
    assert all(spec.waits and spec.environment["REMAP_SIGTERM"] == "SIGQUIT" for spec in workers)


def test_what_a_worker_held_goes_back_also_if_it_died_before_it_was_all_up(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, broker_url=f"redis+socket://{tmp_path / 'none.sock'}")
    supervisor = Supervisor(settings, None)
    worker = Part(PartSpec("worker", (sys.executable, "-c", "pass"), {}))
    supervisor._workers, supervisor._own = [worker], [worker]
    worker.start()
    assert worker.wait(20)
    database = open_database(settings.database)
    store, claims = Store(database), Claims(database)
    task, _ = store.add(new_task())
    assert claims.claim(["default"], Holder(worker_name(worker.pid or 0), 1), 15.0)
    Workers(database).beat(worker_row(name=worker_name(worker.pid or 0)))
    supervisor.watch()
    assert Workers(database).all() == []
    assert (store.get(task.uid).status, store.get(task.uid).attempts) == (Status.QUEUED, 1)
    worker.kill()
    database.close()
