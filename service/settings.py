"""Settings of the API process: who may call, and how much a body may hold."""

from typing import Annotated, Literal

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
    # Address and port that others are forwarded from; decides in place of host who must show a key.
    published: str | None = None
    # Comma-separated `key`, `tenant:key`, or either with `sha256:<hex>` for the key. None here and
    # none made by `praxino keys` means one anonymous tenant, which is for loopback only.
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    require_keys: bool = False  # refuse requests without a key even while there is none
    requests_per_minute: Annotated[int, Field(ge=0)] = 60_000  # of one tenant; 0: no limit
    default_model: str = "pocket"  # for requests that name none
    max_body_bytes: Annotated[int, Field(ge=1024)] = 64 * MIB
    max_part_bytes: Annotated[int, Field(ge=1024)] = 32 * MIB  # one text part of a form
    max_upload_bytes: Annotated[int, Field(ge=1024)] = 640 * MIB  # a form with files
    max_form_files: Annotated[int, Field(ge=1)] = 32
    max_form_fields: Annotated[int, Field(ge=1)] = 512
    max_image_bytes: Annotated[int, Field(ge=1)] = 20 * MIB  # one picture, however it comes
    max_image_pixels: Annotated[int, Field(ge=1)] = 40_000_000
    max_video_bytes: Annotated[int, Field(ge=1)] = 512 * MIB  # one clip, however it comes
    max_video_pixels: Annotated[int, Field(ge=1)] = 8_900_000  # of one frame
    max_video_s: Annotated[float, Field(gt=0)] = 60.0
    max_decoders: Annotated[int, Field(ge=1)] = 2  # processes that read given files at once
    decode_timeout_s: Annotated[float, Field(gt=0)] = 60.0  # for all files of a request
    decode_memory_mb: Annotated[int, Field(ge=256)] = 2048  # address space of such a process
    max_files_per_tenant: Annotated[int, Field(ge=1)] = 1000  # uploaded by /v1/files, unexpired
    max_characters_per_tenant: Annotated[int, Field(ge=1)] = 1000
    poll_after_ms: Annotated[int, Field(ge=1, le=60_000)] = 500  # clients wait at least this
    keep_alive_s: Annotated[float, Field(gt=0)] = 15.0  # between two bytes of an event stream
    unknown_fields: Literal["refuse", "warn"] = "refuse"  # warn: ignored, and told in the answer
    api_drain_s: Annotated[float, Field(ge=0)] = 0.0  # served on, unready, after a stop signal
    # Unready while every model that has workers has so many waiting; 0: as many as may wait.
    unready_depth: Annotated[int, Field(ge=0)] = 0
    link_ttl_s: Annotated[int, Field(ge=1, le=604_800)] = (
        3600  # links to files hold so long or more
    )
    result_cache: bool = True  # equal requests of a tenant with one seed are made once
    public_url: str | None = None  # prefix of links in answers; None: links begin with /v1

    @property
    def needs_key(self) -> bool:
        """Whether nobody is served without a key, whatever the queue server knows of keys."""
        return self.require_keys or bool(self.api_keys)

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
