from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from inference_server.errors import SettingsError
from inference_server.settings import Settings
from inference_server.tasks.broker import HEARTBEAT_S
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


@pytest.mark.parametrize(
    ("url", "required", "host"),
    [
        ("rediss://localhost", "ssl_cert_reqs", "ssl_check_hostname"),
        ("amqps://localhost", "cert_reqs", "server_hostname"),
    ],
)
def test_tls_means_that_the_certificate_and_its_name_are_checked(url: str, required: str, host: str) -> None:
    tls = make_celery(Settings(broker_url=url)).conf.broker_use_ssl
    assert tls[required] is ssl.CERT_REQUIRED
    assert host in tls


@pytest.mark.parametrize("url", ["redis://localhost", "amqp://localhost", "sentinel://localhost:26379"])
def test_without_tls_there_is_none(url: str) -> None:
    assert make_celery(Settings(broker_url=url)).conf.broker_use_ssl is False


def test_an_authority_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="INFERENCE_SERVER_BROKER_CA"):
        make_celery(Settings(broker_url="rediss://localhost", broker_ca=tmp_path / "missing.pem"))


def test_sentinels_are_asked_for_the_group_with_their_own_password_and_by_tls_where_there_is_an_authority(
    tmp_path: Path,
) -> None:
    authority = tmp_path / "ca.pem"
    authority.touch()
    given = {"broker_url": "sentinel://:of-redis@s1:26379;sentinel://s2:26379", "broker_group": "turns"}
    settings = Settings(**given, broker_sentinel_password="of-sentinel", broker_ca=authority)
    options = make_celery(settings).conf.broker_transport_options
    assert options["master_name"] == "turns"
    asked = options["sentinel_kwargs"]
    assert (asked["password"], asked["ssl"], asked["ssl_ca_certs"]) == ("of-sentinel", True, str(authority))
    plain = make_celery(Settings(**given)).conf.broker_transport_options["sentinel_kwargs"]
    assert not {"password", "ssl"} & plain.keys()


def test_who_only_sends_to_rabbitmq_is_told_what_arrived_and_may_be_silent() -> None:
    sender = make_celery(Settings(broker_url="amqp://localhost"), answer_limit_s=1.0).conf
    assert sender.broker_transport_options["confirm_publish"]
    assert sender.broker_heartbeat == 0
    assert make_celery(Settings(broker_url="amqp://localhost")).conf.broker_heartbeat == HEARTBEAT_S
