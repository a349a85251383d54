"""The client of a bucket: where it is, who may use it, how long it is waited for, and what its errors mean."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference_server.errors import ResultGone, SettingsError, StoreUnavailable
from inference_server.settings import Settings

if TYPE_CHECKING:
    from obstore.store import S3Store

log = logging.getLogger(__name__)

PREFIX = "s3://"
CONNECT_LIMIT_S = 3.0
READ_LIMIT_S = 20.0
"""Longest silence of the object store."""
REQUEST_LIMIT_S = 3600.0
RETRIES = 3
RETRY_LIMIT_S = 10.0


@contextmanager
def object_errors() -> Iterator[None]:
    """Turn errors of the object store into `StoreUnavailable`."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError) as exc:
        log.warning("object store cannot be used", extra={"reason": type(exc).__name__})
        raise StoreUnavailable("The server cannot use its file storage at the moment; try again.") from exc


@contextmanager
def absence() -> Iterator[None]:
    """Turn the absence of an object into `ResultGone`; within `object_errors`, which take it for a missing bucket."""
    try:
        yield
    except FileNotFoundError as exc:
        raise ResultGone from exc


def open_store(settings: Settings) -> S3Store:
    """Return the client of the bucket that the settings name.

    It connects when it is first used, and is not to be forked from then on.

    Raises:
        SettingsError: the URL, the endpoint or the certificate cannot be used, or the package for it is missing.
    """
    bucket, _, prefix = settings.blobs.removeprefix(PREFIX).partition("/")
    if not bucket:
        raise SettingsError("The setting INFERENCE_SERVER_BLOBS_URL names no bucket; it is to be s3://bucket/prefix.")
    try:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store
    except ImportError as exc:
        raise SettingsError("Blobs in S3 need the extra `s3`: pip install 'inference-server[s3]'.") from exc
    try:
        return S3Store(
            bucket,
            prefix=prefix.strip("/") or None,
            config=_place(settings),
            client_options=_client(settings),
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_LIMIT_S)},
        )
    except (BaseError, ValueError) as exc:
        raise SettingsError(f"The settings INFERENCE_SERVER_S3_… cannot be used: {exc}.") from exc


def why_unusable(settings: Settings) -> str:
    """Put an empty object into the bucket and delete it; return what the object store has against it.

    Its name is that of a blob, so that housekeeping removes it if it stays behind.

    Raises:
        SettingsError: as `open_store`.
    """
    import obstore
    from obstore.exceptions import BaseError

    store, name = open_store(settings), uuid.uuid4().hex
    try:
        obstore.put(store, name, b"")
        obstore.delete(store, name)
    except (BaseError, OSError) as exc:
        return str(exc)
    return ""


def _place(settings: Settings) -> Any:
    """What is not set is left to the environment that such stores share (AWS_…), and to the machine's own role."""
    given = {
        "endpoint": settings.s3_endpoint,
        "region": settings.s3_region,
        "access_key_id": settings.s3_key_id,
        "secret_access_key": settings.s3_secret,
    }
    return {"disable_bulk_delete": True, **{name: value for name, value in given.items() if value}}


def _client(settings: Settings) -> Any:
    options: dict[str, object] = {
        "allow_http": (settings.s3_endpoint or "").startswith("http://"),
        "connect_timeout": timedelta(seconds=CONNECT_LIMIT_S),
        "read_timeout": timedelta(seconds=READ_LIMIT_S),
        "timeout": timedelta(seconds=REQUEST_LIMIT_S),
    }
    if settings.s3_ca is not None:
        options["root_certificate"] = _text(settings.s3_ca)
    return options


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as exc:
        raise SettingsError(f"The file of INFERENCE_SERVER_S3_CA cannot be read: {exc.strerror}.") from exc
