"""The four parts of a run: undisturbed, with poison, under faults, and without a supervisor."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count

from chaos.alone import Alone
from chaos.arena import Arena, Hit, recovery
from chaos.cases import Sent
from chaos.load import Load
from chaos.plan import FAULTS, Planned
from chaos.records import Held, Life, Records
from chaos.repository import POISONS
from chaos.site import Site
from chaos.verdict import Findings
from inference_server.settings import Settings

CLIENTS = 6
BUSY_TASKS = 20
BEFORE_OUTAGE = 5
QUIET_LIMIT_S = 900.0
STALL_S = 15.0
"""A fault is not kept back for longer than this when nothing ends."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """What all parts of a run share."""

    sents: Sequence[Sent]
    findings: Findings
    generator: random.Random
    say: Say
    numbers: Iterator[int] = field(default_factory=count)

    def load(self, url: str, name: str, sents: Sequence[Sent], *, held: bool = False) -> Load:
        """Return clients that will carry some cases."""
        return Load(url, name, sents, clients=CLIENTS, limit_s=QUIET_LIMIT_S, held=held)

    def poison(self, model: str) -> Sent:
        """Return a case for a model that does not behave, of a number that no other has."""
        return replace(self.sents[0], number=len(self.sents) + next(self.numbers), model=model, parameters={})

    def keep(self, load: Load, records: Records) -> dict[str, Life]:
        """Add what became of a load's tasks to the findings and return it."""
        lives = records.lives(load.accepted.values())
        self.findings.lives |= lives
        self.findings.accepted |= load.accepted
        self.findings.refusals += load.refusals
        self.findings.records_of_key |= {key: n for key, n in records.keys().items() if key in load.accepted}
        return lives


def undisturbed(run: Run, site: Site, records: Records) -> dict[int, Life]:
    """Send every case once, at once, keep the digests of the results and return the lives by the case's number."""
    load = run.load(site.url, "undisturbed", run.sents)
    load.submit_all(run.sents)
    endings = load.start().wait()
    run.findings.reference = {ending.sent.number: ending.digest for ending in endings if ending.status == "finished"}
    lives = run.keep(load, records)
    return {ending.sent.number: lives[ending.uid] for ending in endings}


def beside_poison(run: Run, site: Site, records: Records, tasks: int, before: dict[int, Life]) -> None:
    """Send the first `tasks` cases at once, with one of every poison among them, and compare how long they take."""
    load = run.load(site.url, "poisoned", run.sents[:tasks])
    places = sorted(run.generator.sample(range(tasks // 2), len(POISONS)))
    for model, start, stop in zip(POISONS, places, [*places[1:], tasks], strict=True):
        load.submit_all(run.sents[start:stop] if start != places[0] else run.sents[:stop])
        run.findings.poison += load.submit_all([run.poison(model)]).values()
    endings = load.start().wait()
    run.findings.endings += endings
    _await_ends(records, run.findings.poison)
    lives = run.keep(load, records)
    took_s = _duration_s([lives[ending.uid] for ending in endings])
    usual_s = _duration_s([before[number] for number in range(tasks)])
    run.findings.beside_poison = took_s / usual_s
    run.say(f"{tasks} tasks beside poison took {took_s:.1f} s, without {usual_s:.1f} s")


def under_faults(run: Run, arena: Arena, plan: Sequence[Planned]) -> None:
    """Let the planned faults strike while all cases are carried."""
    load = arena.load.start()
    for planned in plan:
        load.release(planned.sent)
        _await_progress(load, planned.ended)
        hit = FAULTS[planned.kind](arena)
        run.findings.hits.append(hit)
        run.say(f"fault {len(run.findings.hits):2} after {len(load.endings):3} tasks: {_line(hit)}")
    load.release(len(run.sents))
    run.findings.endings += load.wait()
    run.findings.stray_poison += arena.poison_uids
    _await_ends(arena.records, arena.poison_uids)
    run.keep(load, arena.records)


def without_supervisor(run: Run, settings: Settings, *, times: int, outage_s: float) -> None:
    """Kill workers that nobody restarts, then take Redis away and give an empty one back."""
    alone = Alone(settings)
    try:
        alone.start()
        records = Records(settings.database)
        for number in range(times):
            with _busy(run, alone, records, f"alone-{number}"):
                _strike(run, _lose_worker(run, alone, records))
        with _busy(run, alone, records, "redis-lost", held=True) as load:
            _strike(run, _lose_redis(alone, load, records, outage_s))
        records.close()
    finally:
        alone.stop()


@contextmanager
def _busy(run: Run, alone: Alone, records: Records, name: str, *, held: bool = False) -> Iterator[Load]:
    sents = run.sents[:BUSY_TASKS]
    load = Load(alone.url, name, sents, clients=len(sents), limit_s=QUIET_LIMIT_S, held=held).start()
    yield load
    run.findings.endings += load.wait()
    run.keep(load, records)


def _strike(run: Run, hit: Hit) -> None:
    run.findings.hits.append(hit)
    run.say(f"fault {len(run.findings.hits):2} without supervisor: {_line(hit)}")


def _lose_worker(run: Run, alone: Alone, records: Records) -> Hit:
    while True:
        held = run.generator.choice(_running(records, of=alone.worker_pids))
        struck_at = time.monotonic()
        alone.kill_worker(held.worker_pid)
        lasted_s = recovery(records, held, struck_at)
        alone.replace_worker(held.worker_pid)
        if lasted_s is not None:
            run.findings.alone_s.append(lasted_s)
            return Hit("kill_worker_alone", (held.uid,), f"pid {held.worker_pid}", lasted_s)


def _lose_redis(alone: Alone, load: Load, records: Records, outage_s: float) -> Hit:
    load.release(BEFORE_OUTAGE)
    running = tuple(held.uid for held in _running(records))
    alone.kill_redis()
    before = len(load.accepted)
    load.release(BUSY_TASKS)
    time.sleep(outage_s)
    accepted = len(load.accepted) - before
    alone.start_redis()
    return Hit("redis_lost_alone", running, f"{outage_s:.0f} s, empty afterwards; {accepted} accepted meanwhile")


def _running(records: Records, *, of: Collection[int] | None = None) -> list[Held]:
    """Return the tasks that run, of some workers: those that a dead one still holds are left out."""
    deadline = time.monotonic() + STALL_S
    while not (running := [held for held in records.running() if of is None or held.worker_pid in of]):
        if time.monotonic() > deadline:
            raise TimeoutError("no task runs")
        time.sleep(0.01)
    return running


def _await_progress(load: Load, count: int) -> None:
    seen, changed_at = len(load.endings), time.monotonic()
    while load.alive and len(load.endings) < count and time.monotonic() < changed_at + STALL_S:
        if len(load.endings) != seen:
            seen, changed_at = len(load.endings), time.monotonic()
        time.sleep(0.01)


def _await_ends(records: Records, uids: Sequence[str]) -> None:
    deadline = time.monotonic() + QUIET_LIMIT_S
    while not all(life.ended for life in records.lives(uids).values()) and time.monotonic() < deadline:
        time.sleep(0.1)


def _duration_s(lives: Sequence[Life]) -> float:
    return max(life.ended_at or 0.0 for life in lives) - min(life.created_at for life in lives)


def _line(hit: Hit) -> str:
    back = f"; runs again after {hit.recovery_s:.2f} s" if hit.recovery_s is not None else ""
    spared = "" if hit.interrupted is None else "; interrupted" if hit.interrupted else "; went on"
    return f"{hit.kind} {hit.detail} hit {', '.join(hit.uids) or 'no running task'}{back}{spared}"
