"""What is counted at the end, and what has to hold."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from chaos.arena import Hit
from chaos.load import Ending
from chaos.records import Life

CHILD_LIMIT_S = 5.0
WORKER_LIMIT_S = 10.0
ALONE_LIMIT_S = 25.0
BESIDE_POISON_LIMIT = 2.0
GIVEN_UP = "worker_lost"
BY_THE_SERVER = {GIVEN_UP, "storage_full", "store_unavailable"}
"""Reasons for which a good case may fail under faults: it was hit too often, or its result could not be stored."""
OWN_END = {"hangs": "timed_out", "eats-memory": "out_of_memory"}
"""How a task of such a model may end at its first attempt."""


@dataclass(frozen=True)
class Promise:
    """Something that has to hold, and what was found."""

    text: str
    found: str
    kept: bool


@dataclass
class Findings:
    """What a run has shown.

    Attributes:
        tasks: how many tasks were to be sent under faults.
        faults: how many faults were to strike.
        max_attempts: of the server.
        short: whether only what became of the tasks is judged, and no times are.
        reference: digest of the undisturbed result of each input.
        endings: of all tasks that clients followed, but the undisturbed ones.
        lives: of all tasks, as the records have them, by UID.
        accepted: UID of each idempotency key that was accepted.
        records_of_key: how many records each key has.
        hits: the faults, in the order in which they struck.
        alone_s: recovery times of workers without a supervisor.
        poison: UIDs of the tasks of models that do not behave, beside which nothing else went wrong.
        stray_poison: UIDs of those that other faults struck as well.
        beside_poison: time of a flood of tasks with poison among them, over that of the same without.
        refusals: answers of the server that were no success, by status and code.
        left_behind: processes that outlived the server.
        run_s: how long everything took.
    """

    tasks: int
    faults: int
    max_attempts: int
    short: bool
    reference: dict[int, str] = field(default_factory=dict)
    endings: list[Ending] = field(default_factory=list)
    lives: dict[str, Life] = field(default_factory=dict)
    accepted: dict[str, str] = field(default_factory=dict)
    records_of_key: dict[str, int] = field(default_factory=dict)
    hits: list[Hit] = field(default_factory=list)
    alone_s: list[float] = field(default_factory=list)
    poison: list[str] = field(default_factory=list)
    stray_poison: list[str] = field(default_factory=list)
    beside_poison: float = 0.0
    refusals: Counter[str] = field(default_factory=Counter)
    left_behind: int = 0
    run_s: float = 0.0

    @property
    def lost(self) -> list[str]:
        """UIDs of accepted tasks without an end, or of which the client could not learn it."""
        of_records = {uid for uid in self.accepted.values() if uid not in self.lives or not self.lives[uid].ended}
        return sorted(of_records | {ending.uid for ending in self.endings if ending.status == "lost"})

    @property
    def wrong(self) -> list[str]:
        """UIDs of finished tasks whose result is another than that of the undisturbed run."""
        return [
            ending.uid
            for ending in self.endings
            if ending.status == "finished" and ending.digest != self.reference.get(ending.sent.number)
        ]

    @property
    def failures(self) -> Counter[str]:
        """How many tasks failed with which code, poison included."""
        return Counter(str(life.problem) for life in self.lives.values() if life.status == "failed")

    def recoveries_s(self, *kinds: str) -> list[float]:
        """Return the recovery times of faults of some kinds."""
        return [hit.recovery_s for hit in self.hits if hit.kind in kinds and hit.recovery_s is not None]

    def promises(self) -> list[Promise]:
        """Return everything that has to hold."""
        times = [] if self.short else [*self._of_recovery(), self._beside_poison()]
        return [*self._of_tasks(), self._of_poison(), *times, *self._of_the_run()]

    def _of_tasks(self) -> Iterable[Promise]:
        doubled = [key for key in self.accepted if self.records_of_key.get(key) != 1]
        twice = [life.uid for life in self.lives.values() if life.ends != 1]
        refused = [ending.key for ending in self.endings if ending.status == "refused"]
        nameless = [life.uid for life in self.lives.values() if life.status == "failed" and not life.message]
        strange = [life.uid for life in self._good() if life.status != "finished" and life.problem not in BY_THE_SERVER]
        yield _none("accepted tasks lost", self.lost)
        yield _none("results other than those of the undisturbed run", self.wrong)
        yield _none("idempotency keys with other than one record", doubled)
        yield _none("tasks that ended other than once", twice)
        yield _none("cases never accepted", refused)
        yield _none("failed tasks without a reason", nameless)
        yield _none("good cases that failed for a reason of their own", strange)
        if told := [hit for hit in self.hits if hit.kind == "term_child"]:
            yield _spared("tasks interrupted by SIGTERM of their child", told)

    def _of_recovery(self) -> Iterable[Promise]:
        yield _within("recovery after kill -9 of a worker child", self.recoveries_s("kill_child"), CHILD_LIMIT_S)
        yield _within("recovery after kill -9 of a worker under `up`", self.recoveries_s("kill_worker"), WORKER_LIMIT_S)
        yield _within("recovery after kill -9 of a worker without supervisor", self.alone_s, ALONE_LIMIT_S)
        yield _within(
            "recovery after the start that follows kill -9 of all", self.recoveries_s("kill_everything"), ALONE_LIMIT_S
        )

    def _of_poison(self) -> Promise:
        clean = [uid for uid in self.poison if not self._ended_in_order(uid, exactly=True)]
        stray = [uid for uid in self.stray_poison if not self._ended_in_order(uid, exactly=False)]
        return _none(f"poison tasks not given up after exactly {self.max_attempts} attempts", clean + stray)

    def _beside_poison(self) -> Promise:
        text = f"time of the tasks beside the poison ≤ {BESIDE_POISON_LIMIT:g} × undisturbed"
        return Promise(text, f"{self.beside_poison:.2f} ×", 0 < self.beside_poison <= BESIDE_POISON_LIMIT)

    def _of_the_run(self) -> Iterable[Promise]:
        sent = sum(ending.status != "refused" for ending in self.endings)
        on_running = sum(bool(hit.uids) for hit in self.hits)
        errors = [answer for answer in self.refusals if answer.startswith("500")]
        yield Promise(f"tasks under faults ≥ {self.tasks}", str(sent), sent >= self.tasks)
        yield Promise(f"faults ≥ {self.faults}", str(len(self.hits)), len(self.hits) >= self.faults)
        yield Promise("faults that hit a running task ≥ half", str(on_running), 2 * on_running >= len(self.hits))
        yield _none("answers 500", errors)
        yield Promise("processes left behind = 0", str(self.left_behind), not self.left_behind)

    def _good(self) -> list[Life]:
        poison = {*self.poison, *self.stray_poison}
        return [life for uid, life in self.lives.items() if uid not in poison]

    def _ended_in_order(self, uid: str, *, exactly: bool) -> bool:
        """Whether a poison task failed as it has to; `exactly`: nobody but the model ended its children."""
        life = self.lives.get(uid)
        if life is None or life.status != "failed":
            return False
        if life.problem == OWN_END.get(life.model):
            return not exactly or life.starts == 1
        counted = life.attempts == self.max_attempts and (not exactly or life.starts == self.max_attempts)
        return life.problem == GIVEN_UP and counted

    def as_json(self) -> str:
        """Return all figures for a program."""
        return json.dumps({**self.summary(), "promises": [asdict(promise) for promise in self.promises()]}, indent=1)

    def summary(self) -> dict[str, object]:
        """Return the figures."""
        statuses = Counter(life.status for life in self.lives.values())
        return {
            "accepted": len(self.accepted),
            "statuses": dict(statuses),
            "failures": dict(self.failures),
            "lost": self.lost,
            "wrong": self.wrong,
            "faults": [asdict(hit) for hit in self.hits],
            "recovery_child_s": _spread(self.recoveries_s("kill_child")),
            "recovery_worker_s": _spread(self.recoveries_s("kill_worker")),
            "recovery_term_worker_s": _spread(self.recoveries_s("term_worker")),
            "recovery_worker_alone_s": _spread(self.alone_s),
            "poison": {self.lives[uid].model: _end_of(self.lives[uid]) for uid in self.poison if uid in self.lives},
            "beside_poison": round(self.beside_poison, 3),
            "refusals": dict(self.refusals),
            "run_s": round(self.run_s, 1),
        }


def _end_of(life: Life) -> str:
    return f"{life.problem} after {life.starts} start{'s' * (life.starts != 1)}"


def _none(text: str, found: Sequence[str]) -> Promise:
    return Promise(f"{text} = 0", " ".join([str(len(found)), *found[:5]]), not found)


def _spared(text: str, hits: Sequence[Hit]) -> Promise:
    struck = [hit for hit in hits if hit.interrupted is not None]
    interrupted = [hit for hit in struck if hit.interrupted]
    return Promise(f"{text} = 0", f"{len(interrupted)} of {len(struck)}", bool(struck) and not interrupted)


def _within(text: str, times_s: Sequence[float], limit_s: float) -> Promise:
    return Promise(f"{text} ≤ {limit_s:g} s", _spread(times_s), bool(times_s) and max(times_s) <= limit_s)


def _spread(times_s: Sequence[float]) -> str:
    if not times_s:
        return "not measured"
    median_s = statistics.median(times_s)
    return f"median {median_s:.2f} s, longest {max(times_s):.2f} s of {len(times_s)}"
