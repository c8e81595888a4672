"""Settings of the API process: who may call, and how much a body may hold."""

from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from service.auth import read_key
from worker.jobs.settings import JobSettings

MIB = 1 << 20


class ServiceSettings(JobSettings):
    """The counter's settings and the web side's own."""

    model_config = SettingsConfigDict(hide_input_in_errors=True)  # inputs may be keys

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    # Comma-separated `key`, `tenant:key`, or either with `sha256:<hex>` for the key. None at all
    # means one anonymous tenant, which is for loopback only.
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    default_model: str = "pocket"  # for requests that name none
    max_body_bytes: Annotated[int, Field(ge=1024)] = 64 * MIB
    max_part_bytes: Annotated[int, Field(ge=1024)] = 32 * MIB  # one text part of a form
    max_form_files: Annotated[int, Field(ge=1)] = 32
    max_form_fields: Annotated[int, Field(ge=1)] = 512
    poll_after_ms: Annotated[int, Field(ge=1, le=60_000)] = 500  # what clients are told to wait
    public_url: str | None = None  # prefix of links in answers; None: links begin with /v1

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split(cls, keys: object) -> object:
        return keys.replace(",", " ").split() if isinstance(keys, str) else keys

    @field_validator("api_keys")
    @classmethod
    def _readable(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in keys:
            read_key(key)
        return keys
