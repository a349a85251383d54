from __future__ import annotations

import pytest

from inference_server.errors import SettingsError
from inference_server.settings import Settings
from inference_server.tasks.queue import make_celery


def test_without_a_broker_nothing_starts() -> None:
    with pytest.raises(SettingsError, match="INFERENCE_SERVER_BROKER_URL"):
        make_celery(Settings())


def test_celery_is_kept_plain() -> None:
    conf = make_celery(Settings(broker_url="redis://localhost")).conf
    assert conf.task_acks_late
    assert conf.task_ignore_result
    assert not conf.task_reject_on_worker_lost
    assert conf.accept_content == ["json"]
    assert (conf.task_time_limit, conf.task_soft_time_limit) == (None, None)


@pytest.mark.parametrize("url", ["redis://localhost", "amqp://localhost"])
def test_whoever_sends_tries_once(url: str) -> None:
    conf = make_celery(Settings(broker_url=url), answer_limit_s=1.0).conf
    assert conf.broker_transport_options["max_retries"] == 0
    assert conf.broker_connection_timeout == 1.0
    assert not conf.task_publish_retry


def test_options_of_redis_do_not_reach_another_broker() -> None:
    assert make_celery(Settings(broker_url="amqp://localhost")).conf.broker_transport_options == {}
