"""What each kind of broker is to be told: how long it is waited for, who it must be, where its Sentinels are."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from inference_server.errors import SettingsError
from inference_server.settings import Settings

VISIBILITY_S = 24 * 3600
"""A message redelivered late is only one more turn, so this need not know how long tasks take."""
HEARTBEAT_S = 20
"""A worker and RabbitMQ tell each other this often that they are there. Who only sends turns is silent for hours."""
REDIS = ("redis", "rediss", "valkey", "valkeys", "sentinel")


def broker_options(settings: Settings, answer_limit_s: float | None) -> dict[str, Any]:
    """Return Celery's settings for the broker of the settings.

    Args:
        settings: `broker_url` must be set.
        answer_limit_s: longest wait for one answer of the broker, without a retry; None waits and retries, as a
            consumer does.

    Raises:
        SettingsError: the certificate of the broker's authority cannot be read.
    """
    url = settings.broker_url or ""
    kind = url.partition("://")[0].partition("+")[0]
    tls = _tls(settings, kind)
    options = {} if answer_limit_s is None else {"max_retries": 0}
    if kind in REDIS:
        options |= _redis(answer_limit_s)
    if kind == "sentinel":
        options |= _sentinels(settings, tls, answer_limit_s)
    if kind.startswith("amqp"):
        options |= _rabbitmq(answer_limit_s)
    return {
        "broker_connection_timeout": answer_limit_s or 4.0,
        "broker_heartbeat": HEARTBEAT_S if answer_limit_s is None else 0,
        "broker_transport_options": options,
        "broker_use_ssl": tls or False,
    }


def _redis(answer_limit_s: float | None) -> dict[str, Any]:
    bounds = {"socket_timeout": answer_limit_s, "socket_connect_timeout": answer_limit_s} if answer_limit_s else {}
    return {**bounds, "visibility_timeout": VISIBILITY_S, "priority_steps": [0]}


def _sentinels(settings: Settings, tls: dict[str, Any], answer_limit_s: float | None) -> dict[str, Any]:
    """Return how to ask the Sentinels for the Redis that is the master of its group at the moment."""
    asked: dict[str, Any] = {"socket_timeout": answer_limit_s or 4.0, "socket_connect_timeout": answer_limit_s or 4.0}
    if settings.broker_sentinel_password:
        asked["password"] = settings.broker_sentinel_password
    if tls:
        asked |= {"ssl": True, **tls}
    return {"master_name": settings.broker_group, "sentinel_kwargs": asked}


def _rabbitmq(answer_limit_s: float | None) -> dict[str, Any]:
    if answer_limit_s is None:
        return {}
    # A message would count as sent once it is in this machine's buffer, whether or not anybody reads it. Where nobody
    # does, the channel and the connection are closed after it, and both wait for an answer once more.
    limit_s = answer_limit_s / 2
    return {"confirm_publish": True, "read_timeout": limit_s, "write_timeout": limit_s}


def _tls(settings: Settings, kind: str) -> dict[str, Any]:
    """Return the options of TLS, which left to themselves do not check the certificate; empty where there is none."""
    authority = _authority(settings.broker_ca)
    if kind in ("rediss", "valkeys") or (kind == "sentinel" and authority):
        return {
            "ssl_cert_reqs": ssl.CERT_REQUIRED,
            "ssl_check_hostname": True,
            **({"ssl_ca_certs": authority} if authority else {}),
        }
    if kind == "amqps":
        # None stands for the host of the URL.
        checked = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}
        return {**checked, **({"ca_certs": authority} if authority else {})}
    return {}


def _authority(path: Path | None) -> str | None:
    if path is None:
        return None
    if not path.is_file():
        raise SettingsError("The setting INFERENCE_SERVER_BROKER_CA names a file that does not exist.")
    return str(path.absolute())
