"""Settings of the job counter, shared by the web side and the workers.

Nothing is read from the environment before a class is instantiated.
"""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from worker.jobs.addresses import read_networks
from worker.jobs.sentinels import SCHEMES as SENTINEL_SCHEMES
from worker.jobs.sentinels import read_sentinels
from worker.jobs.signing import read_secret

DAY_S = 24 * 3600
SCHEMES = ("redis://", "rediss://", "unix://", *SENTINEL_SCHEMES)

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
PREFIX = re.compile(r"(?:[A-Za-z0-9_@-][A-Za-z0-9._@-]*/)*")
GPU_CLASS = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")

Positive = Annotated[float, Field(gt=0)]


class StorageSettings(BaseSettings):
    """Where files live: a local folder, or a bucket of an S3 server.

    What the `s3_…` settings leave open is taken from where Amazon's own tools take it: the
    `AWS_…` variables, the configuration file, the machine's role.
    """

    model_config = SettingsConfigDict(
        env_prefix="PRAXINO_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # inputs may be passwords
    )

    data_dir: Path = Path("data")  # local files of every process
    # Results and inputs: a folder, file:///folder, or s3://bucket/prefix. None: data_dir/artifacts
    artifacts_url: str | None = None
    s3_endpoint: str | None = None  # URL of a server other than Amazon's
    s3_public_endpoint: str | None = None  # the same server as clients reach it, for links
    s3_region: str | None = None
    s3_access_key_id: SecretStr | None = None
    s3_secret_access_key: SecretStr | None = None

    @field_validator("artifacts_url")
    @classmethod
    def _known_store(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "")
        if parts.scheme not in ("", "file", "s3"):
            raise ValueError("must be a folder, file:///folder or s3://bucket/prefix")
        if parts.scheme == "s3":
            prefix = parts.path.strip("/") + "/" if parts.path.strip("/") else ""
            if not BUCKET.fullmatch(parts.netloc) or not PREFIX.fullmatch(prefix):
                raise ValueError("must name a bucket and a prefix of plain names")
        return url

    @property
    def bucket(self) -> tuple[str, str] | None:
        """Bucket, and the start of every key in it: "" or ending in a slash. None: a folder."""
        parts = urlsplit(self.artifacts_url or "")
        if parts.scheme != "s3":
            return None
        path = parts.path.strip("/")
        return parts.netloc, f"{path}/" if path else ""

    @property
    def artifacts_dir(self) -> Path:
        """The folder of the artifacts, if they are in a folder."""
        if self.artifacts_url is None:
            return self.data_dir / "artifacts"
        parts = urlsplit(self.artifacts_url)
        return Path(unquote(parts.path) if parts.scheme == "file" else self.artifacts_url)

    @property
    def shelf_dir(self) -> Path:
        """The folder of finished films that wait for the store."""
        return self.data_dir / "finished"

    def storage_environment(self) -> dict[str, str]:
        """These settings as the environment of another process; holds secrets."""
        values = ((name, getattr(self, name)) for name in StorageSettings.model_fields)
        plain = ((name, reveal(value)) for name, value in values if value is not None)
        return {f"PRAXINO_{name.upper()}": str(value) for name, value in plain}


class JobSettings(StorageSettings):
    """Where jobs and their files live, and how many, how long and how often they may run."""

    # redis://, rediss://, unix://, or redis+sentinel://host,host/name; may hold a password
    redis_url: SecretStr
    max_queue_depth: Annotated[int, Field(ge=1)] = 1000  # waiting jobs of one model
    max_active_per_tenant: Annotated[int, Field(ge=1)] = 100  # queued or running
    max_queued_per_tenant: Annotated[int, Field(ge=1)] = 1000  # waiting jobs of one model
    max_attempts: Annotated[int, Field(ge=1)] = 3  # the first one included
    lease_s: Positive = 20.0  # an attempt not renewed for this long is lost
    result_ttl_s: Annotated[int, Field(ge=1)] = 7 * DAY_S  # results are kept this long
    file_ttl_s: Annotated[int, Field(ge=1)] = 7 * DAY_S  # uploaded files are kept this long
    job_timeout_s: Positive = 1800.0  # one attempt may run this long
    queue_deadline_s: Positive = float(DAY_S)  # a job waiting longer ends as expired
    # What inputs and callbacks may reach beyond the public internet, as 10.0.0.0/8, fd00::/8
    outbound_networks: Annotated[tuple[str, ...], NoDecode] = ()
    outbound_http: bool = False  # plain http, within those networks only
    outbound_ca_file: Path | None = None  # certificates trusted besides the well-known ones
    # whsec_ and base64, each signs webhooks; several while one is rotated. Tenants may have own.
    webhook_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    # Kinds of workers that jobs may be meant for, as h100,l40s; the same for every process
    gpu_classes: Annotated[tuple[str, ...], NoDecode] = ()

    @field_validator("outbound_networks", "webhook_secrets", "gpu_classes", mode="before")
    @classmethod
    def _split_words(cls, words: object) -> object:
        return words.replace(",", " ").split() if isinstance(words, str) else words

    @field_validator("gpu_classes")
    @classmethod
    def _plain_classes(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [name for name in names if not GPU_CLASS.fullmatch(name)]:
            raise ValueError(f"must be names of a-z, 0-9 and -, at most 32 long; got {wrong[0]!r}")
        return tuple(dict.fromkeys(names))

    @field_validator("webhook_secrets")
    @classmethod
    def _readable_secrets(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for secret in secrets:
            read_secret(secret.get_secret_value())
        return secrets

    @field_validator("outbound_networks")
    @classmethod
    def _readable_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        read_networks(networks)
        return networks

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(SCHEMES):
            raise ValueError(f"must start with one of {', '.join(SCHEMES)}")
        read_sentinels(url.get_secret_value())
        return url


def reveal(value: object) -> str | None:
    """The text of a setting, also of a secret one."""
    if value is None:
        return None
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
