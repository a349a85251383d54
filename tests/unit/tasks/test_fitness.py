"""Which queues a worker may listen to."""

from __future__ import annotations

import pytest

from inference_server.errors import SettingsError
from inference_server.models.manifest import Manifest
from inference_server.models.resources import Machine, Resources
from inference_server.settings import Settings
from inference_server.tasks.fitness import Fitness, judge, with_fit_queues

CPU = Machine("cpu (x86_64)", "cpu", 1024**3, 1024**3)
CUDA_REASON = "big:1.0.0 cannot run here, it computes on cuda and this worker on cpu (x86_64)"


def model(id: str, queue: str = "default", **needs: object) -> Manifest:  # noqa: A002
    return Manifest(id=id, resources=Resources.model_validate({"queue": queue, **needs}))


SMALL, BIG = model("small"), model("big", "gpu", device="cuda")


def test_a_queue_is_served_if_every_model_of_it_can_run() -> None:
    assert judge(["default", "gpu"], [SMALL, BIG], CPU) == Fitness(("default",), {"gpu": [CUDA_REASON]})
    assert judge(["gpu"], [SMALL, BIG], CPU).queues == ()
    assert judge(["default", "other"], [SMALL, BIG], CPU) == Fitness(("default", "other"))


def test_one_model_that_cannot_run_takes_its_queue_with_it() -> None:
    large = model("large", memory=2 * 1024**3)
    [reason] = judge(["default"], [SMALL, large], CPU).unfit["default"]
    assert reason == "large:1.0.0 cannot run here, it needs 2 GiB of device memory and cpu (x86_64) has 1 GiB"


def test_an_ensemble_needs_what_its_members_need() -> None:
    both = Manifest(id="both", runtime="ensemble", members=("small:1.0.0", "big:1.0.0"))
    fitness = judge(["default", "gpu"], [SMALL, BIG, both], CPU)
    assert fitness.unfit["default"] == [CUDA_REASON.replace("big:", "both:")]


def test_a_worker_listens_to_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    left = with_fit_queues(Settings(queues="gpu,default"), [SMALL, BIG], CPU)
    assert left.queue_names == ("default",)
    [line] = caplog.records
    assert (line.message, vars(line)["queue"], vars(line)["why"]) == ("queue not listened to", "gpu", CUDA_REASON)


def test_a_worker_without_a_queue_does_not_start() -> None:
    with pytest.raises(SettingsError) as caught:
        with_fit_queues(Settings(queues="gpu"), [SMALL, BIG], CPU)
    assert f"can serve none of its queues. Queue 'gpu': {CUDA_REASON}. Give such models" in caught.value.message
