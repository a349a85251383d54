"""What is to be seen at one moment, in every database."""

from __future__ import annotations

from records import Clock, added, claimed
from worker_rows import worker_row

from inference_server.tasks.claims import Claims
from inference_server.tasks.database import Database
from inference_server.tasks.figures import Figure
from inference_server.tasks.record import new_uid
from inference_server.tasks.snapshot import Depth, take
from inference_server.tasks.store import Store
from inference_server.tasks.workers import Workers


def test_queues_workers_and_sums_are_seen_together(
    database: Database, store: Store, claims: Claims, clock: Clock
) -> None:
    Workers(database).beat(worker_row(beat_at=clock.now, queues=("idle",)))
    added(store)
    claims.finish(claimed(claims), blob=new_uid(), size_bytes=1, report={}, device_s=1.0)
    running = added(store).uid
    claimed(claims)
    added(store)
    clock.now += 60
    added(store)
    added(store, queue="gpu")
    with database.reading() as connection:
        seen = take(connection, ["default", "quiet"], clock.now + 5)
    assert seen.depths == {
        "default": Depth(waiting=2, running=1, oldest_s=65.0),
        "gpu": Depth(waiting=1, running=0, oldest_s=5.0),
        "idle": Depth(),
        "quiet": Depth(),
    }
    assert [(worker.name, worker.tasks) for worker in seen.workers] == [("worker-1", (running,))]
    assert Figure("ended", "ct-body", "finished") in seen.figures
