"""Settings of the job counter, shared by the web side and the workers.

Nothing is read from the environment before a class is instantiated.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from worker.jobs.addresses import read_networks

DAY_S = 24 * 3600
SCHEMES = ("redis://", "rediss://", "unix://")

Positive = Annotated[float, Field(gt=0)]


class JobSettings(BaseSettings):
    """Where jobs and their files live, and how many, how long and how often they may run."""

    model_config = SettingsConfigDict(
        env_prefix="PRAXINO_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    redis_url: SecretStr  # redis://, rediss:// or unix://; may hold a password
    data_dir: Path = Path("data")  # results live in its folder `artifacts`
    max_queue_depth: Annotated[int, Field(ge=1)] = 1000  # waiting jobs of one model
    max_active_per_tenant: Annotated[int, Field(ge=1)] = 100  # queued or running
    max_attempts: Annotated[int, Field(ge=1)] = 3  # the first one included
    lease_s: Positive = 20.0  # an attempt not renewed for this long is lost
    result_ttl_s: Annotated[int, Field(ge=1)] = 7 * DAY_S  # results are kept this long
    job_timeout_s: Positive = 1800.0  # one attempt may run this long
    queue_deadline_s: Positive = float(DAY_S)  # a job waiting longer ends as expired
    # What inputs and callbacks may reach beyond the public internet, as 10.0.0.0/8, fd00::/8
    outbound_networks: Annotated[tuple[str, ...], NoDecode] = ()
    outbound_http: bool = False  # plain http, within those networks only
    outbound_ca_file: Path | None = None  # certificates trusted besides the well-known ones

    @field_validator("outbound_networks", mode="before")
    @classmethod
    def _split_networks(cls, networks: object) -> object:
        return networks.replace(",", " ").split() if isinstance(networks, str) else networks

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
        return url
