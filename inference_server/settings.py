"""One immutable `Settings`, read once by an entry point and passed down."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from inference_server.errors import SettingsError

PREFIX = "INFERENCE_SERVER_"
MIB = 1024**2
GIB = 1024**3


class Settings(BaseSettings):
    """Everything an operator can set, by environment variable (`INFERENCE_SERVER_<NAME>`) or command option.

    Lists are comma-separated paths or names (`_MODELS_DIRS=/models/a,/models/b`).
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_parse_none_str="none")

    # Where things are
    host: str = Field("127.0.0.1", description="address the API listens on")
    port: int = Field(8000, ge=0, le=65535, description="TCP port of the API; 0 takes a free one")
    public_url: str | None = Field(None, description="base of every URL the server announces")
    data_dir: Path = Field(Path("inference-server-data"), description="folder of records, blobs and the embedded Redis")
    models_dirs: str = Field("", description="further model folders beside the shipped zoo, separated by commas")
    zoo: bool = Field(True, description="serve the models that ship with the server")
    database_url: str | None = Field(
        None, description="SQLAlchemy URL of the records; default: SQLite in the data folder"
    )
    broker_url: str | None = Field(None, description="Celery broker; `up` starts an embedded Redis where it is not set")
    blobs_url: str | None = Field(
        None, description="where bytes live: file:///folder or s3://bucket/prefix; default: a folder in the data folder"
    )

    # Several hosts
    s3_endpoint: str | None = Field(
        None, pattern=r"^https?://[^/]", description="URL of the object store; default: that of AWS"
    )
    s3_region: str | None = Field(None, description="its region, where it has some; default: AWS_REGION or us-east-1")
    s3_key_id: str | None = Field(
        None, description="access key for the bucket; default: AWS_ACCESS_KEY_ID, or the machine's own role"
    )
    s3_secret: str | None = Field(None, repr=False, description="secret of the access key")
    s3_ca: Path | None = Field(None, description="PEM file of the authority of its certificate, beside the system's")
    broker_ca: Path | None = Field(
        None, description="PEM file of the authority of the broker's certificate; default: the system's"
    )
    broker_group: str = Field("mymaster", description="name of the Redis group that the Sentinels of the broker watch")
    broker_sentinel_password: str | None = Field(
        None, repr=False, description="password of the Sentinels, where they have one"
    )

    # Who gets in
    no_auth: bool = Field(False, description="let in everybody, with all rights, also from beyond this machine")
    open: str = Field("", description="dialects that take clients without a token, separated by commas")
    open_alone: bool = Field(
        False,
        description="listen beyond this machine before there is a token too, for the dialects that are open alone",
    )
    sign_in_limit: int = Field(
        10, ge=1, description="wrong tokens a minute from one address; more are answered 429. Counted per API process"
    )
    tls: bool = Field(False, description="listen for HTTPS beside HTTP")
    tls_port: int = Field(8443, ge=0, le=65535, description="TCP port of HTTPS; 0 takes a free one")
    tls_host: str | None = Field(None, description="address to listen on for HTTPS; default: that of HTTP")
    tls_certificate: Path | None = Field(
        None, description="PEM file of the certificate and its chain; default: what `certs` made"
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key; default: what `certs` made")
    audit_retention_s: float = Field(6 * 365 * 86_400.0, gt=0, description="how long lines of the audit log are kept")

    # Limits at the door
    head_limit_s: float = Field(
        10.0, gt=0, description="longest time for the TLS handshake and the head of a request, together"
    )
    stall_limit_s: float = Field(
        60.0, gt=0, description="longest silence of a client that uploads, or that does not read its answer"
    )
    upload_limit_bytes: int = Field(2 * GIB, gt=0, description="largest request body")
    image_limit_bytes: int = Field(2 * GIB, gt=0, description="largest array that one image may declare in its header")
    unpacked_limit_bytes: int = Field(8 * GIB, gt=0, description="largest sum of all members of a zip, unpacked")
    member_limit: int = Field(256, gt=0, description="most members of a zip")
    labels_limit_bytes: int = Field(
        4 * GIB, gt=0, description="largest label array on the contour grid, one byte a voxel"
    )
    disk_low_bytes: int = Field(1 * GIB, ge=0, description="free disk space below which uploads are refused")
    queue_limit: int = Field(10_000, gt=0, description="most tasks that may wait")
    model_queue_limit: int = Field(5_000, gt=0, description="most tasks that may wait for one model")
    token_task_limit: int = Field(2_000, gt=0, description="most tasks that one token may have waiting or running")
    anonymous_task_limit: int = Field(100, gt=0, description="the same for all clients without a token together")

    # The life of a task
    lease_s: float = Field(15.0, gt=0, description="how long a claim lasts without a renewal")
    beat_s: float = Field(3.0, gt=0, description="how often a claim is renewed")
    cancel_grace_s: float = Field(5.0, ge=0, description="how long a model may take to notice that it was cancelled")
    max_attempts: int = Field(3, ge=1, description="how often a task is tried when its worker dies")
    task_time_limit_s: float = Field(1800.0, gt=0, description="longest computation of one task")
    queue_time_limit_s: float = Field(86_400.0, gt=0, description="longest wait of a task in its queue")
    drain_s: float = Field(60.0, ge=0, description="how long a stopping worker may finish its tasks")
    store_wait_s: float = Field(
        600.0,
        ge=0,
        description="how long a task waits for the file storage, for its case or its result, before it fails",
    )
    retention_s: float = Field(86_400.0, gt=0, description="how long case and result are kept after a task finished")
    failed_retention_s: float = Field(
        7 * 86_400.0, gt=0, description="how long the case of a failed task is kept, for another try"
    )
    cancelled_retention_s: float = Field(86_400.0, gt=0, description="how long the case of a cancelled task is kept")
    keep_case: bool = Field(True, description="keep the case of a finished task; `false` removes it at once")
    orphan_blob_s: float = Field(3600.0, gt=0, description="age at which a blob without a record is removed")
    housekeeping_s: float = Field(5.0, gt=0, description="how often housekeeping sweeps")

    # TOMAAT
    tomaat_patience_s: float = Field(
        10.0, ge=0, description="how long a TOMAAT client waits for a result before it is told to ask again"
    )
    tomaat_root: str | None = Field(None, description="model that is the TOMAAT service at the root of the server")
    tomaat_announcers: Path | None = Field(
        None, description="YAML file of the TOMAAT announcement services that the models are announced to"
    )

    # DSS
    dss_ticket_limit: int = Field(100, gt=0, description="most open tickets that one user of the DSS dialect may have")
    dss_session_s: float = Field(
        90 * 86_400.0, gt=0, description="how long a sign-in of ITK-SNAP and other DSS clients lasts"
    )
    dss_provider_silence_s: float = Field(
        1800.0, gt=0, description="silence of a DSS provider after which its ticket times out and can be retried"
    )

    # Image socket
    image_socket_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="TCP port of the image socket; `up` has one only where this is set; 0: a free one",
    )
    image_socket_host: str | None = Field(
        None, description="address that the image socket listens on; default: that of HTTP"
    )
    image_socket_models: str = Field(
        "INCE=chest-xray-inception,DENS=chest-xray-densenet,MYCN=chest-xray-mycn,VGG!=chest-xray-vgg,"
        "XCEP=chest-xray-xception,ENSE=chest-xray-ensemble",
        description="the model of each code, as `CODE=model`, or `CODE=model:class` where P means another class than "
        "`pneumonia`; separated by commas",
    )
    image_socket_tls: bool = Field(False, description="speak TLS on the image socket, with the certificate of HTTPS")
    image_socket_client_ca: Path | None = Field(
        None,
        description="PEM file of the authorities whose client certificates are let in; without it none is asked for",
    )
    image_socket_probe: bool = Field(
        False, description="send `?` before every command of the image socket, not on connecting only"
    )
    image_socket_idle_s: float = Field(
        20.0, gt=0, description="longest wait for a command, for a part of it, or for the next byte of a file"
    )
    image_socket_file_s: float = Field(300.0, gt=0, description="longest time that sending one file may take")
    image_socket_patience_s: float = Field(
        300.0, gt=0, description="how long a client of the image socket waits for a prediction before it is answered 2"
    )
    image_socket_file_limit_bytes: int = Field(64 * MIB, gt=0, description="largest file that the image socket takes")
    image_socket_image_limit_bytes: int = Field(
        256 * MIB, gt=0, description="largest array, at 4 bytes a value, that such a file may declare in its header"
    )
    image_socket_connections: int = Field(400, gt=0, description="most connections to the image socket at a time")
    image_socket_host_connections: int = Field(
        250, gt=0, description="the same from one address, behind which a whole hospital may sit"
    )

    # Processes
    api_processes: int = Field(2, ge=1, description="API processes")
    api_threads: int = Field(64, ge=2, description="threads of all API processes together")
    wait_limit_s: float = Field(60.0, gt=0, description="longest wait of a request for a change (`?wait=`)")
    worker_children: int = Field(2, ge=1, description="child processes of a worker")
    spare_worker: bool = Field(
        True, description="`up` keeps another worker process ready, its libraries loaded, for when the worker dies"
    )
    child_memory_bytes: int = Field(
        0, ge=0, description="memory above which a worker child ends its task; 0: nine tenths of the machine's"
    )
    device: str = Field(
        "auto", description="`auto` (a worker on every GPU; on the CPU where there is none), `cpu`, `cuda` or `cuda:N`"
    )
    cpu_threads: int = Field(0, ge=0, description="threads a model computes with on a CPU; 0: all cores")
    queues: str = Field(
        "default", pattern=r"[^\s,]", description="queues a worker listens to, separated by commas; at least one"
    )
    preload: bool = Field(True, description="load every model of the queues when a worker child starts")
    warm_memory_bytes: int = Field(
        0, ge=0, description="memory for the models that each worker child keeps loaded; 0: a quarter of the device's"
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="TCP port of a listener of housekeeping for /metrics, which asks for no token; none where not set",
    )
    metrics_host: str = Field("127.0.0.1", description="address of that listener")
    traces_url: str | None = Field(
        None, description="where to send traces by OTLP over HTTP, as http://collector:4318/v1/traces; needs `traces`"
    )
    celery_events: bool = Field(False, description="workers send Celery's events, by which Flower sees them")
    log_json: bool = Field(False, description="write logs as JSON lines")
    log_level: str = Field(
        "INFO", pattern="(?i)^(debug|info|warning|error|critical)$", description="lowest level that is logged"
    )

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the records."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'records.sqlite'}"

    @property
    def blobs(self) -> str:
        """URL of the blob store."""
        return self.blobs_url or f"file://{self.data_dir.absolute() / 'blobs'}"

    @property
    def model_folders(self) -> tuple[Path, ...]:
        """The operator's own model repositories, in the order given."""
        return tuple(Path(part.strip()) for part in self.models_dirs.split(",") if part.strip())

    @property
    def certificate(self) -> Path:
        """PEM file of the certificate of HTTPS."""
        return self.tls_certificate or self.data_dir.absolute() / "tls" / "certificate.pem"

    @property
    def certificate_key(self) -> Path:
        """PEM file of its key."""
        return self.tls_key or self.data_dir.absolute() / "tls" / "key.pem"

    @property
    def opened(self) -> tuple[str, ...]:
        """The dialects that take clients without a token."""
        return tuple(part.strip() for part in self.open.split(",") if part.strip())

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The queues a worker listens to."""
        return tuple(part.strip() for part in self.queues.split(",") if part.strip())

    def environment(self) -> dict[str, str]:
        """Return the settings that differ from their defaults as environment variables for a child process."""
        changed = self.model_dump(exclude_defaults=True)
        return {PREFIX + name.upper(): "none" if value is None else str(value) for name, value in changed.items()}


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings from the environment, `overrides` winning.

    Args:
        overrides: settings by field name; a value of None is left to the environment.

    Raises:
        SettingsError: a variable with our prefix is unknown, or a value is malformed; the message names it.
    """
    _refuse_unknown_variables()
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as exc:
        raise SettingsError(_sentence(exc)) from exc


def _refuse_unknown_variables() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_VARIABLES
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known and not name.startswith(PREFIX + "TEST_"):
            raise SettingsError(f"The setting {name} is unknown. `inference-server settings` lists all of them.")


CLIENT_VARIABLES = {PREFIX + name for name in ("SERVER", "TOKEN", "CERTIFICATE", "FINGERPRINT")}


def _sentence(exc: ValidationError) -> str:
    parts = [f"{PREFIX}{str(e['loc'][0]).upper() if e['loc'] else '?'}: {e['msg']}" for e in exc.errors()]
    return "A setting is malformed. " + "; ".join(parts) + "."
